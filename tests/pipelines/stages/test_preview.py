"""What a preview says that the whole would take."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.product import Product
from pipelines.page.render import render_section
from pipelines.recipe.model import Recipe
from pipelines.registry import product_of
from pipelines.report.sections.stages import SECTION
from pipelines.stages.propose.preview import estimate
from tests.support.drawn_run import SHAPES, drawn_recipe, with_instances
from tests.support.page import shown_run, text_of
from tests.support.sets import instance_of
from weaksam.config import DataConfig

INDEX = {"available": {"train": 60, "val": 40}}


def preview(limit: int = 2, **instances: dict[str, Any]) -> Recipe:
    data = DataConfig(uri="shapes:", kind="shapes", shapes=SHAPES, limit=limit)
    return with_instances(drawn_recipe(data=data), **instances)


def proposed(done: int = 4, images_per_s: float = 2.0) -> dict[str, Any]:
    images = {"images": done, "done": done, "dropped": 0}
    return {"images": images, "throughput": {"images": done, "images_per_s": images_per_s, "seconds": 1.0}}


def products(folder: str, **manifests: dict[str, Any]) -> dict[str, Product[Any]]:
    """What finished instances left behind, their names with "_" for the dot."""
    made = {}
    for name, manifest in manifests.items():
        instance = instance_of(folder, name.replace("_", "."))
        instance.finish(manifest)
        made[instance.name] = product_of(instance)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "file").write_bytes(bytes(2_000_000))
    return str(tmp_path)


def test_the_whole_takes_as_long_as_its_images_at_the_preview_s_rate(folder: str) -> None:
    whole = estimate(preview(), folder, products(folder, index=INDEX, propose=proposed()))
    assert whole is not None
    assert (whole.done, whole.images, whole.images_per_s, whole.seconds) == (4, 100, 2.0, 50.0)
    assert whole.gigabytes == pytest.approx(0.05, rel=0.01)  # 2 MB for 4 images; the folder itself takes some


def test_instances_of_propose_come_one_after_the_other_each_on_its_splits(folder: str) -> None:
    recipe = preview(propose_some={"splits": ["val"]})
    made = products(folder, index=INDEX, propose=proposed(), propose_some=proposed(images_per_s=4.0))
    whole = estimate(recipe, folder, made)
    assert whole is not None
    assert (whole.images, whole.seconds) == (100, 100 / 2 + 40 / 4)
    assert whole.images_per_s == 140 / 60


@pytest.mark.parametrize(
    ("limit", "manifests"),
    [
        pytest.param(0, {"index": INDEX, "propose": proposed()}, id="no-preview"),
        pytest.param(2, {"index": INDEX}, id="no-proposals"),
        pytest.param(2, {"index": INDEX, "propose": {"text": "images 4 = done 4"}}, id="nothing-was-timed"),
        pytest.param(2, {"index": INDEX, "propose": proposed(done=0, images_per_s=0.0)}, id="nothing-was-done"),
    ],
)
def test_there_is_no_estimate_of(folder: str, limit: int, manifests: dict[str, Any]) -> None:
    assert estimate(preview(limit), folder, products(folder, **manifests)) is None


def test_the_page_says_it(folder: str) -> None:
    products(folder, index=INDEX, propose=proposed())
    view = SECTION.view(shown_run(folder, "index", "propose", recipe=preview()))
    assert view is not None
    assert "the whole (100 images) would take about 50.0 s on the same machines" in text_of(
        render_section(SECTION, view)
    )
