"""The propose stage end to end on the session's Ray: every image done or dropped, exactly once, whatever the files are."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from _pytest.logging import LogCaptureHandler

from pipelines.bringing import TooManyDroppedError
from pipelines.cli import app as cli
from pipelines.cli import run as run_verb
from pipelines.dataflow.rows import fetch
from pipelines.engine.ray_session import let_go_of_actors
from pipelines.engine.stage import Options
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.stages.propose import stage as propose
from pipelines.stages.propose.actors import SegmentActor
from pipelines.store.instances import Instance, current_instance
from pipelines.store.schemas import IMAGES, PROPOSALS, proposals_from_row
from tests.support.broken_files import encode, picture, write_broken_files
from tests.support.patience import wait_until
from tests.support.voice import Recorder
from weaksam.errors import RunError
from weaksam.structures import Proposals

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SETTINGS = [
    "data.shapes.train=8",
    "data.shapes.val=4",
    "data.shapes.test=0",
    "data.shapes.size=64",
    "prompts.points_per_side=3",
    "resources.segment_actors=1",
    "resources.threads_per_actor=1",
    "resources.rows_per_task=3",
]


def recipe(data: str, *overrides: str) -> Recipe:
    return load_recipe("grid", [*SETTINGS, *overrides], data)[0]


def bring(recipe: Recipe, run: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Bring ``propose`` up to date; returns its manifest and what was printed."""
    voice = Recorder()
    manifests = Run(recipe, str(run)).bring(["propose"], Options(**options), voice)
    return manifests["propose"], voice.text


def proposed(run: Path) -> Instance:
    instance = current_instance(str(run), "propose")
    assert instance is not None
    return instance


def rows(run: Path) -> dict[str, dict[str, Any]]:
    """The rows of the table by image id; each id once."""
    found = ProposalTable(proposed(run)).table.read().to_pylist()
    by_id = {row["image_id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


def to_the_bit(run: Path) -> dict[str, str]:
    """The rows as texts, which hold every digit and, unlike numbers, compare NaN as equal to NaN."""
    return {image_id: repr(row) for image_id, row in rows(run).items()}


def dropped(run: Path) -> dict[str, str]:
    """Reasons by image id; each id once."""
    instance = proposed(run)
    found = list(instance.current(instance.dropped).iter_rows())
    assert len({row["image_id"] for row in found}) == len(found)
    return {row["image_id"]: row["reason"] for row in found}


def parts(run: Path) -> dict[str, int]:
    return {path: os.stat(path).st_mtime_ns for path in proposed(run).table(PROPOSALS).parts()}


# --- drawn images


@pytest.fixture(scope="module")
def finished_run(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grid proposals of twelve drawn images."""
    run = tmp_path_factory.mktemp("propose") / "run"
    bring(recipe("shapes:"), run)
    return run


def test_every_drawn_image_gets_its_row(finished_run: Path) -> None:
    manifest = proposed(finished_run).manifest()
    assert manifest is not None
    assert manifest["text"] == "images 12 = done 12 + dropped 0 · duplicates 0"
    assert manifest["images"] == {"images": 12, "done": 12, "dropped": 0, "before": 0, "duplicates": 0}
    assert manifest["throughput"]["images"] == 12
    assert manifest["actors"] == "1 actor(s), 1 CPU thread(s) each, 3 images per task"
    by_id = rows(finished_run)
    assert sorted(by_id) == [f"train-{n:05}" for n in range(8)] + [f"val-{n:05}" for n in range(4)]
    assert {i: row["split"] for i, row in by_id.items()} == {i: i.partition("-")[0] for i in by_id}
    assert proposed(finished_run).table(PROPOSALS).class_names() == ()  # a grid prompts for none
    for row in by_id.values():
        check_grid_proposals(proposals_from_row(row))


def check_grid_proposals(of_image: Proposals) -> None:
    """Boxes inside their image, each from a prompt of the grid or, where there was none, the whole image."""
    height, width = of_image.size_hw
    x1, y1, x2, y2 = of_image.boxes_xyxy.T
    assert len(of_image) > 0
    assert np.all((x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= width) & (y2 <= height))
    assert len(of_image.source) == len(of_image.prompt_index) == len(of_image.mask_index) == len(of_image)
    assert [prompts.source for prompts in of_image.prompts] == ["grid"]
    assert len(of_image.prompts[0]) == 9
    if list(of_image.source) == ["whole-image"]:
        assert of_image.boxes_xyxy.tolist() == [[0, 0, width, height]]
    else:
        assert set(of_image.source) == {"grid"}
        assert set(of_image.prompt_index) <= set(range(9))


def test_a_second_run_does_nothing(finished_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished_run.rglob("*")}
    _, printed = bring(recipe("shapes:"), finished_run)
    assert "propose" in printed
    assert printed.count("is finished") == 2
    assert {p: p.stat().st_mtime_ns for p in finished_run.rglob("*")} == before


def test_a_run_resumed_from_half_of_its_files_is_the_same_to_the_bit(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    kept = proposed(run).table(PROPOSALS).parts()
    Path(proposed(run).manifest_uri).unlink()
    Path(kept.pop()).unlink()
    torn = Path(kept.pop())
    torn.write_bytes(torn.read_bytes()[:-100])
    before = {path: os.stat(path).st_mtime_ns for path in kept}

    manifest, printed = bring(recipe("shapes:"), run)
    assert "6 of 12 images to do" in printed
    assert manifest["throughput"]["images"] == 6
    assert to_the_bit(run) == to_the_bit(finished_run)
    assert before.items() <= parts(run).items()


def preview(run: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a preview of one image per split; return what was said."""
    voice = Recorder()
    monkeypatch.setattr(run_verb, "voice", voice)
    chosen = [argument for setting in SETTINGS for argument in ("--set", setting)]
    cli.app(["propose", "grid", "--data", "shapes:", "--out", str(run), "--limit", "1", *chosen], standalone_mode=False)
    return voice.text


def test_a_preview_has_a_proof_of_its_own_and_shares_the_rows_of_its_run(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, shown = parts(finished_run), proposed(finished_run)
    assert "images 2 = done 2 (2 from before) + dropped 0" in preview(finished_run, monkeypatch)
    assert (parts(finished_run), proposed(finished_run)) == (before, shown)
    assert proposed(finished_run / "preview-1").key == shown.key
    assert [i.partition("-")[0] for i in sorted(rows(finished_run / "preview-1"))] == ["train", "val"]


def test_a_preview_that_computes_says_what_the_whole_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = preview(tmp_path / "run", monkeypatch)
    assert "preview: 2 images at" in said
    assert "All 12 would take about" in said
    assert "h on the same machines and" in said


# --- unusual, broken and deadly files

HEALING = "tail of zeros.jpg"  # as long as the whole file
DEADLY_TO_READ, DEADLY_TO_SEGMENT = "kills its reader.png", "kills its segmenter.png"


class DyingSegmentActor(SegmentActor):
    """Dies of one image, as a process does that runs out of memory."""

    def _segment(self, row: dict[str, Any], *, ready: Callable[[], Any]) -> dict[str, Any]:
        if row["image_id"] == DEADLY_TO_SEGMENT:
            os._exit(1)
        return super()._segment(row, ready=ready)


def dying_fetch(batch: pa.Table, *, longest_side: int) -> pa.Table:
    """Die of one image, as a decoder does that breaks."""
    if DEADLY_TO_READ in batch["image_id"].to_pylist():
        os._exit(1)
    return fetch(batch, longest_side=longest_side)


@pytest.fixture(scope="module")
def actors_of_this_file() -> Iterator[None]:
    """Let Ray's processes, which cannot import this file, have its actors."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def broken(
    ray_cluster: None, actors_of_this_file: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, tuple[str, Any]]]:
    """A folder of good, unusual, broken and deadly files, proposals of it, and what is expected of each file."""
    import ray

    folder = tmp_path_factory.mktemp("broken") / "images"
    folder.mkdir()
    expected = write_broken_files(folder)
    for name in (DEADLY_TO_READ, DEADLY_TO_SEGMENT):
        (folder / name).write_bytes(encode(picture(), "PNG"))
        expected[name] = ("dropped", "process died")
    (folder / "labels.csv").write_text("path,labels\nplain.jpg,cat\n")
    run = folder.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propose, "SegmentActor", DyingSegmentActor)
        patch.setattr(propose, "fetch", dying_fetch)
        patch.setattr(
            LogCaptureHandler, "emit", lambda *_: None
        )  # pytest would keep the errors, and with them the actors
        gc.collect()
        gc.disable()  # as in a process that waits and allocates nothing
        try:
            with pytest.raises(TooManyDroppedError, match=r"propose: \d+ of \d+ images were dropped, 1 are allowed"):
                bring(recipe(str(folder), "resources.rows_per_task=8"), run, max_dropped="1%")
            let_go_of_actors()
            wait_until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
        finally:
            gc.enable()
    return folder, run, expected


def test_each_unusual_or_broken_file_meets_its_fate(broken: tuple[Path, Path, dict[str, tuple[str, Any]]]) -> None:
    _, run, expected = broken
    index = current_instance(str(run), "index")
    assert index is not None
    assert sorted(index.table(IMAGES).ids()) == sorted(expected)
    kept = {name: ("kept", tuple(row["size_hw"])) for name, row in rows(run).items()}
    fates = kept | {name: ("dropped", reason) for name, reason in dropped(run).items()}
    assert len(fates) == len(kept) + len(dropped(run))
    assert fates == expected


def test_good_rows_stay_and_the_manifest_counts_the_others(
    broken: tuple[Path, Path, dict[str, tuple[str, Any]]],
) -> None:
    _, run, expected = broken
    manifest = proposed(run).manifest()
    assert manifest is not None
    lost = sum(fate == "dropped" for fate, _ in expected.values())
    assert manifest["images"] == {
        "images": len(expected),
        "done": len(expected) - lost,
        "dropped": lost,
        "before": 0,
        "duplicates": 0,
    }
    for row in rows(run).values():
        check_grid_proposals(proposals_from_row(row))
    for row in proposed(run).dropped.iter_rows():
        assert row["stage"] == "propose"
        assert row["uri"].endswith(row["image_id"])


def test_a_retry_brings_healed_images_back_and_only_those(
    broken: tuple[Path, Path, dict[str, tuple[str, Any]]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, run, _ = broken
    before_rows, before_dropped, before_parts = to_the_bit(run), dropped(run), parts(run)
    whole = encode(picture(), "JPEG")
    assert (folder / HEALING).stat().st_size == len(whole)
    (folder / HEALING).write_bytes(whole)

    command = ["weaksam", "propose", "grid", "--data", str(folder), "--out", str(run), "--retry-dropped"]
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", [*command, *settings, "--set", "resources.rows_per_task=8"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert "images were dropped, 1 are allowed (--max-dropped 1%)" in capfd.readouterr().err

    healed = {HEALING, DEADLY_TO_READ, DEADLY_TO_SEGMENT}
    assert rows(run).keys() == before_rows.keys() | healed
    assert {i: row for i, row in to_the_bit(run).items() if i not in healed} == before_rows
    assert dropped(run) == {name: reason for name, reason in before_dropped.items() if name not in healed}
    assert before_parts.items() <= parts(run).items()


class UnbuildableActor(SegmentActor):
    """Its process dies over loading SAM, as one does for which a machine has too little memory."""

    def __init__(self, **_: Any) -> None:
        os._exit(1)


def test_actors_that_die_while_they_are_built_end_the_stage(
    actors_of_this_file: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propose, "SegmentActor", UnbuildableActor)
    with pytest.raises(RunError, match="3 processes died on one node over loading the models"):
        bring(recipe("shapes:"), tmp_path / "run")
