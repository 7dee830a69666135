"""Label maps of drawn images, written by hand or by the stages of another package, which move the true ones to the right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.engine.stage import Job, Stage
from pipelines.products.label_maps import LabelMapFacts, LabelMapTable, SeedTable
from pipelines.recipe import model
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.registry import STAGES
from pipelines.store.proof import prove
from pipelines.store.schemas import LABEL_MAPS, SEEDS, label_map_to_row, with_class_names
from tests.support.sets import FROM_NOTHING, of_index
from weaksam.config import DataConfig
from weaksam.config.weights import NotInKey
from weaksam.datasets import open_dataset
from weaksam.datasets.shapes import Shapes
from weaksam.structures import IMAGE_LABELS

_SHIFT = 3  # pixels


@dataclass(frozen=True, kw_only=True)
class PaintOptions:
    """Which drawings are painted."""

    index: Input = INDEX
    data: NotInKey[DataConfig]


class _Painting(Stage[PaintOptions]):
    """Paints seeds or other label maps."""

    def __init__(self, verb: str, product: type[LabelMapTable]) -> None:
        self.verb, self.product, self.help = verb, product, "Paint label maps."  # type: ignore[misc]

    def options(self, recipe: Recipe, name: str) -> PaintOptions:  # noqa: ARG002
        return PaintOptions(data=recipe.data)

    def run(self, job: Job[PaintOptions]) -> LabelMapFacts:
        dataset = open_dataset(job.options.data)
        assert isinstance(dataset, Shapes)
        planned = job.instance.planned_rows()
        inputs = {row["image_id"]: row["input"] for row in planned.to_pylist()}
        rows = [
            {**_row(image_id, label_map), "input": inputs[image_id]}
            for split in dataset.splits
            for image_id, label_map in shifted(dataset, split, _SHIFT)
        ]
        table = job.instance.table(with_class_names(LABEL_MAPS, dataset.class_names))
        table.write_rows(rows, "part-0")
        proof = prove(planned, table, job.instance.dropped)
        return LabelMapFacts(text=str(proof), images=proof)


PAINT, PAINT_SEEDS = _Painting("paint", LabelMapTable), _Painting("paint-seeds", SeedTable)


def add_painting(patch: pytest.MonkeyPatch) -> None:
    """Add both stages, as a package that registers them does."""
    for registry in (STAGES, model._OTHERS):
        patch.setitem(registry._targets, PAINT.verb, "tests.support.label_maps:PAINT")
        patch.setitem(registry._targets, PAINT_SEEDS.verb, "tests.support.label_maps:PAINT_SEEDS")


Maps = Iterable[tuple[str, NDArray[np.uint8]]]  # image id, map


def write_maps(
    run_uri: str, name: str, maps: Maps, class_names: Iterable[str], *, supervision: str = IMAGE_LABELS, **facts: Any
) -> None:
    """Write a finished table of label maps of images of the run's index, which is finished."""
    rows = [_row(*of, supervision) for of in maps]
    _write(run_uri, name, LABEL_MAPS, class_names, rows, {"supervision": supervision, **facts})


def write_seeds(run_uri: str, name: str, maps: Maps, class_names: Iterable[str], **facts: Any) -> None:
    """Write a finished table of seeds; the first image had no superpixel, the others two on half of them."""
    rows = []
    for n, of in enumerate(maps):
        painted = {"superpixels": 2, "coverage": 0.5, "fallback": False}
        rows.append({**_row(*of), **(painted if n else {"superpixels": 0, "coverage": 0.0, "fallback": True})})
    _write(run_uri, name, SEEDS, class_names, rows, facts)


def shifted(dataset: Shapes, split: str, pixels: int) -> Maps:
    """The true maps of a split, moved to the right."""
    size = dataset._config.size
    maps = dataset.true_label_maps(split)
    for image_id in maps.image_ids:
        true_map = maps.of(image_id, (size, size))
        assert true_map is not None
        yield image_id, np.roll(true_map, pixels, axis=1)


def _row(image_id: str, label_map: NDArray[np.uint8], supervision: str = IMAGE_LABELS) -> dict[str, Any]:
    return label_map_to_row(image_id, FROM_NOTHING, label_map, supervision=supervision)


def _write(
    run_uri: str, name: str, schema: Any, class_names: Iterable[str], rows: list[dict[str, Any]], facts: dict[str, Any]
) -> None:
    instance = of_index(run_uri, name)
    instance.begin({})
    instance.table(with_class_names(schema, tuple(class_names))).write_rows(rows, "part-0")
    instance.finish({"text": f"images {len(rows)}", "supervision": IMAGE_LABELS, **facts})
