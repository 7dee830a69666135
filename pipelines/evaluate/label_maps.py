"""How the evaluate stage measures label maps: mean IoU over all pixels of a split, beside maps that need no method.

Reads the maps file by file and the data set's true maps one by one, on the driver. Every row is measured alike: the maps;
background alone; and the whole image filled with the largest class that is truly there. Seeds are told with what they were
painted of, too, and stand beside their bound: the same superpixels, each of its true class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable
from pipelines.evaluate.conclusion import conclude
from pipelines.evaluate.options import LabelMapOptions
from pipelines.evaluate.worst import WorstImages
from pipelines.products.label_maps import LabelledMap, LabelMapTable, SeedOrigin, SeedTable
from pipelines.products.measured import EvaluationFacts
from pipelines.products.superpixels import SegmentedImage, SuperpixelTable
from pipelines.recipe.keys import NOTHING
from pipelines.recipe.model import Recipe, verb_of
from pipelines.store.numbers import known, percent
from weaksam.config import SeedConfig
from weaksam.label_maps import IGNORED
from weaksam.masks_np import decode_rles

if TYPE_CHECKING:
    from weaksam.datasets.label_maps import TrueLabelMaps
    from weaksam.metrics.conditions import ConditionedIou
    from weaksam.metrics.label_maps import LabelMapQuality, LabelMapScores

MAPS, BACKGROUND, LARGEST_CLASS = "label maps", "background alone", "the largest class alone"
BOUND = "superpixels of their true class"


def options(recipe: Recipe) -> LabelMapOptions:
    """Return what an instance that measures label maps depends on; ``recipe`` is what it sees."""
    of = recipe.evaluate.of
    seeds = recipe.of(of).seeds
    painted = verb_of(of) == "seeds" and not seeds.grabcut  # which leaves the borders of superpixels
    superpixels = seeds.superpixels if painted else NOTHING
    return LabelMapOptions(
        of=of,
        superpixels=superpixels,
        max_inside=seeds.max_inside if superpixels else SeedConfig.max_inside,
        stated_size=recipe.data.stated_size,
        data=recipe.data,
    )


def run(job: Job[LabelMapOptions]) -> EvaluationFacts:
    """Measure the label maps and print their table."""
    from weaksam.datasets import open_dataset

    table = job.input(job.options.of, LabelMapTable)
    dataset = open_dataset(job.options.data)
    splits = measure(table.images(), table.class_names, dataset.true_label_maps, _superpixels(job))
    origins = measure_origins(table.origins()) if isinstance(table, SeedTable) else {}
    return conclude(
        job,
        "label_maps",
        {split: {**measured, "seeds": origins.get(split)} for split, measured in splits.items()},
        class_names=table.class_names,
        supervision=table.facts.supervision,
        tables=[text_table],
        summary=_summary,
    )


def _superpixels(job: Job[LabelMapOptions]) -> Iterator[SegmentedImage]:
    """Yield the images with the superpixels that seeds were painted of, and with no other of SAM's masks."""
    from weaksam.segmentation.superpixels import superpixels_among

    if job.options.superpixels:
        for image in job.input(job.options.superpixels, SuperpixelTable).images():
            yield replace(image, masks=superpixels_among(image.masks, job.options.max_inside))


def measure(
    images: Iterable[LabelledMap],
    class_names: Sequence[str],
    true_label_maps: Callable[[str], TrueLabelMaps],
    superpixels: Iterable[SegmentedImage] = (),
) -> dict[str, dict[str, Any]]:
    """Measure label maps per split.

    Args:
        images: in any order, each once.
        class_names: C.
        true_label_maps: split -> its true maps.
        superpixels: that the maps were painted of, in any order; those of other images are passed over.

    Returns:
        split -> ``images``, ``measured`` (those of them whose true map is known), ``undecided`` (share of the pixels that the
        maps call 255; they count as background), ``rows`` (the maps and those that need no method), ``classes`` (background,
        then the C classes, as the maps have them), ``confusion`` (pixels ``[C + 1, C + 1]``, of the true class by that of the
        maps), ``worst`` (the images of the least mean IoU, each over the classes that occur in it) and ``conditions`` (IoU of
        the maps by what makes a class hard, see ``weaksam.metrics.conditions``). Shares are in [0, 1], null where there is
        nothing to measure.

    Raises:
        DataError: a map and its true one are of different sizes, or a number is of no class.
    """
    splits: dict[str, _Split] = {}
    for image in images:
        if image.split not in splits:
            splits[image.split] = _Split(class_names, true_label_maps(image.split))
        splits[image.split].add(image)
    for painted in superpixels:
        if painted.split in splits:
            splits[painted.split].add_superpixels(painted)
    return {split: splits[split].to_plain() for split in sorted(splits)}


def measure_origins(origins: Iterable[SeedOrigin]) -> dict[str, dict[str, Any]]:
    """Return split -> means over its images of ``superpixels`` and ``coverage``, and ``fallbacks``, images without any."""
    by_split: dict[str, list[SeedOrigin]] = {}
    for origin in origins:
        by_split.setdefault(origin.split, []).append(origin)
    return {
        split: {
            "superpixels": math.fsum(origin.superpixels for origin in of) / len(of),
            "coverage": math.fsum(origin.coverage for origin in of) / len(of),
            "fallbacks": sum(origin.fallback for origin in of),
        }
        for split, of in by_split.items()
    }


def text_table(split: str, measured: Mapping[str, Any]) -> TextTable:
    """Lay out one split's rows and classes for people to read, in per cent."""
    text = TextTable(f"{split}: {_what_was_measured(measured)}")
    text.add_columns(Kind.NAME, "")
    text.add_columns(Kind.FIGURE, "mean IoU", "boundary IoU", "pixels right")
    for row in measured["rows"]:
        text.add_row(row["name"], *(percent(row[name]) for name in ("mean_iou", "boundary_iou", "pixel_accuracy")))
    for row in measured["classes"]:
        if row["iou"] is not None:
            text.add_row(f"  {row['name']}", percent(row["iou"]), percent(row["boundary_iou"]), percent(row["recall"]))
    return text


def _what_was_measured(measured: Mapping[str, Any]) -> str:
    images, of_truth = measured["images"], measured["measured"]
    truth = f"{of_truth:,} with a true map" if of_truth else "no true maps"
    undecided = f"; undecided pixels {percent(measured['undecided'])} %" if measured["undecided"] else ""
    seeds = measured["seeds"]
    if seeds is None:
        return f"{images:,} images, {truth}{undecided}"
    origin = f"{seeds['superpixels']:.1f} superpixels an image on {percent(seeds['coverage'])} % of it"
    fallbacks = f", {seeds['fallbacks']:,} images without any" if seeds["fallbacks"] else ""
    return f"{images:,} images, {truth}{undecided}; {origin}{fallbacks}"


@dataclass
class _Split:
    class_names: Sequence[str]
    truth: TrueLabelMaps
    images: int = 0
    pixels: int = 0
    undecided: int = 0  # of them
    rows: dict[str, LabelMapQuality] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)  # image ids
    conditions: ConditionedIou | None = None
    worst: WorstImages = field(default_factory=WorstImages)

    def add(self, image: LabelledMap) -> None:
        from weaksam.metrics.conditions import ConditionedIou
        from weaksam.metrics.label_maps import background_map, largest_class_map

        label_map = image.label_map
        self.images += 1
        self.pixels += label_map.size
        self.undecided += int(np.count_nonzero(label_map == IGNORED))
        true_map = self.truth.of(image.image_id, (label_map.shape[0], label_map.shape[1]))
        if true_map is None:
            return
        self.measured.add(image.image_id)
        mean_iou = self._row(MAPS).add(image.image_id, label_map, true_map)
        if not math.isnan(mean_iou):
            self.worst.add(image.image_id, mean_iou)
        self._row(BACKGROUND).add(image.image_id, background_map(true_map), true_map)
        self._row(LARGEST_CLASS).add(image.image_id, largest_class_map(true_map), true_map)
        self.conditions = self.conditions or ConditionedIou(len(self.class_names))
        self.conditions.add(label_map, true_map)

    def add_superpixels(self, image: SegmentedImage) -> None:
        from weaksam.metrics.superpixels import best_map

        true_map = self.truth.of(image.image_id, image.masks.size_hw) if image.image_id in self.measured else None
        if true_map is not None:
            masks = decode_rles(image.masks.mask_rle, image.masks.size_hw)
            self._row(BOUND).add(image.image_id, best_map(true_map, masks, image.masks.level.tolist()), true_map)

    def _row(self, name: str) -> LabelMapQuality:
        from weaksam.metrics.label_maps import LabelMapQuality

        if name not in self.rows:
            self.rows[name] = LabelMapQuality(len(self.class_names))
        return self.rows[name]

    def to_plain(self) -> dict[str, Any]:
        counts = {"images": self.images, "measured": len(self.measured), "undecided": self.undecided / self.pixels}
        if self.conditions is None:
            return {**counts, "rows": [], "classes": [], "confusion": [], "worst": [], "conditions": []}
        scores = self.rows[MAPS].scores()
        return {
            **counts,
            "rows": [_row_of(name, quality.scores()) for name, quality in self.rows.items()],
            "classes": [
                {
                    "name": name,
                    "pixels": int(scores.confusion[n].sum()),
                    "iou": known(scores.iou[n]),
                    "boundary_iou": known(scores.boundary_iou[n]),
                    "precision": known(scores.precision[n]),
                    "recall": known(scores.recall[n]),
                }
                for n, name in enumerate(("background", *self.class_names))
            ],
            "confusion": scores.confusion.tolist(),
            "worst": self.worst.to_plain(),
            "conditions": [{**of._asdict(), "mean_iou": known(of.mean_iou)} for of in self.conditions.scores()],
        }


def _row_of(name: str, scores: LabelMapScores) -> dict[str, Any]:
    return {
        "name": name,
        "mean_iou": known(scores.mean_iou),
        "boundary_iou": known(scores.mean_boundary_iou),
        "pixel_accuracy": known(scores.pixel_accuracy),
    }


def _summary(split: str, measured: Mapping[str, Any]) -> str:
    if not measured["rows"]:
        return f"{split}: {measured['images']:,} label maps, no true ones to measure them"
    own, background, largest, *_ = measured["rows"]
    beside = f"background {percent(background['mean_iou'])}, largest class {percent(largest['mean_iou'])}"
    return f"{split}: mean IoU {percent(own['mean_iou'])} ({beside}), boundary IoU {percent(own['boundary_iou'])}"
