"""How the evaluate stage measures pseudo masks: how well they fit the true objects, beside masks that no network makes.

Reads the pseudo labels file by file and the data set's true masks, on the driver. Every row is measured alike: the pseudo
masks; their boxes, filled; ellipses in these; and GrabCut on some of the images, beside the pseudo masks of the same ones. What
the others earn is owed to the boxes, not to SAM.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable
from pipelines.evaluate.conclusion import conclude
from pipelines.evaluate.detected_masks import failures_of_grabcut
from pipelines.evaluate.options import PseudoMaskOptions
from pipelines.evaluate.worst import WorstImages
from pipelines.products.index import Index, in_hash_order
from pipelines.products.measured import EvaluationFacts
from pipelines.products.pseudo_labels import PseudoMaskedImage, PseudoMaskTable
from pipelines.recipe.model import Recipe
from pipelines.store.numbers import known, percent
from weaksam.datasets.ground_truth import true_objects
from weaksam.errors import ImageError
from weaksam.structures import GroundTruth, PseudoGroundTruth

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from weaksam.metrics.pseudo_masks import ComparedObjects, PseudoMaskQuality
    from weaksam.metrics.trivial_masks import GrabCutInBox, MaskRule

SEGMENTED, BOXES, ELLIPSES, GRABCUT = "pseudo masks", "boxes, filled", "ellipses in the boxes", "GrabCut in the boxes"
IOU = 0.5  # above which a mask counts as right


def options(recipe: Recipe) -> PseudoMaskOptions:
    """Return what an instance depends on that measures pseudo masks."""
    how = recipe.evaluate
    return PseudoMaskOptions(
        of=how.of, grabcut_images=how.grabcut_images, stated_size=recipe.data.stated_size, data=recipe.data
    )


def run(job: Job[PseudoMaskOptions]) -> EvaluationFacts:
    """Measure the pseudo masks and print their table."""
    from weaksam.datasets import open_dataset

    index, table = job.input(job.options.index, Index), job.input(job.options.of, PseudoMaskTable)
    sample = set(in_hash_order(table.table.ids())[: job.options.grabcut_images])
    dataset = open_dataset(job.options.data)
    splits = measure(
        table.masked_images(),
        table.class_names,
        lambda split: dataset.ground_truth(split, masks=True),
        sample,
        index.image_reader(),
    )
    return conclude(
        job,
        "pseudo_masks",
        splits,
        class_names=table.class_names,
        supervision=table.facts.supervision,
        tables=[text_table],
        summary=_summary,
    )


def measure(
    images: Iterable[PseudoMaskedImage],
    class_names: Sequence[str],
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
    sample: Collection[str],
    read_image: Callable[[str], NDArray[np.uint8]],
) -> dict[str, dict[str, Any]]:
    """Measure pseudo masks per split.

    Args:
        images: in any order, each once.
        class_names: C.
        ground_truth: split -> image id -> true objects with masks; empty for a split whose true objects are not known.
        sample: ids of the images on which GrabCut is measured.
        read_image: image id -> its pixels ``[H, W, 3]``.

    Returns:
        split -> ``images``, ``masks`` per image, ``objects`` that have a true mask (null where none of the split is known),
        ``without_mask`` (objects that have a box alone), ``rows`` (one for each way to make masks, with the number of its
        images), ``histogram`` (of the pseudo masks: objects by IoU, in equal bins), ``classes`` (the pseudo masks', one by
        one) and ``worst`` (the images whose objects are fitted worst, with the mean IoU of these). Shares are in [0, 1], null
        where there is nothing to measure.
    """
    splits: dict[str, _Split] = {}
    for image in images:
        if image.split not in splits:
            splits[image.split] = _Split(class_names, ground_truth(image.split))
        splits[image.split].add(image, read_image if image.image_id in sample else None)
    return {split: splits[split].to_plain() for split in sorted(splits)}


def text_table(split: str, measured: Mapping[str, Any]) -> TextTable:
    """Lay out one split's rows for people to read, in per cent."""
    truth = "no true masks" if measured["objects"] is None else f"{measured['objects']:,} objects with a mask"
    boxes_alone = f", {measured['without_mask']:,} without" if measured["without_mask"] else ""
    failed = failures_of_grabcut(measured["grabcut"]) if measured["rows"] else ""
    masks = f"{measured['masks']:.2f} pseudo masks an image"
    title = f"{split}: {measured['images']:,} images, {truth}{boxes_alone}; {masks}{failed}"
    text = TextTable(title)
    text.add_columns(Kind.NAME, "")
    figures = {
        "IoU": "iou",
        "boundary F": "boundary_f",
        "AP": "ap",
        "AP50": "ap50",
        f"precision, IoU > {IOU:g}": "precision",
        f"recall, IoU > {IOU:g}": "recall",
    }
    text.add_columns(Kind.FIGURE, "images", *figures)
    for row in measured["rows"]:
        text.add_row(row["name"], f"{row['images']:,}", *(percent(row[key]) for key in figures.values()))
    return text


@dataclass
class _Row:
    """One way to make masks, measured."""

    quality: PseudoMaskQuality
    images: int = 0

    def add(self, image_id: str, masks: PseudoGroundTruth, truth: GroundTruth) -> ComparedObjects:
        self.images += 1
        return self.quality.add(image_id, masks, truth)

    def to_plain(self, name: str) -> dict[str, Any]:
        scores = self.quality.scores(IOU)
        of_labels = scores.labels.summary
        return {
            "name": name,
            "images": self.images,
            "iou": known(scores.mean_iou),
            "boundary_f": known(scores.mean_boundary_f),
            "ap": known(scores.coco.mean()),
            "ap50": known(scores.coco.mean(iou_threshold=0.5)),
            "precision": known(of_labels["precision"]),
            "recall": known(of_labels["recall"]),
        }


@dataclass
class _Split:
    class_names: Sequence[str]
    truth: Mapping[str, GroundTruth]
    images: int = 0
    masks: int = 0
    without_mask: int = 0
    rows: dict[str, _Row] = field(default_factory=dict)
    worst: WorstImages = field(default_factory=WorstImages)  # by the mean of an image's objects

    def __post_init__(self) -> None:
        from weaksam.metrics.trivial_masks import GrabCutInBox

        self._grab_cut: GrabCutInBox = GrabCutInBox()
        self._known = any(of_image.mask_rle is not None for of_image in self.truth.values())

    def add(self, image: PseudoMaskedImage, read_image: Callable[[str], NDArray[np.uint8]] | None) -> None:
        from weaksam.metrics.regions import objects_without_mask
        from weaksam.metrics.trivial_masks import filled_box, inscribed_ellipse

        self.images += 1
        self.masks += len(image.truth)
        if not self._known:
            return
        truth = true_objects(self.truth, image.image_id, image.size_hw)
        self.without_mask += objects_without_mask(truth)
        if truth.mask_rle is None:  # an image without annotations of masks in a split that has some
            return
        blank: NDArray[np.uint8] = np.broadcast_to(np.uint8(0), (*image.size_hw, 3))
        compared = self._row(SEGMENTED).add(image.image_id, image.truth, truth)
        if len(compared.iou):
            self.worst.add(image.image_id, float(compared.iou.mean()))
        self._row(BOXES).add(image.image_id, _ruled(filled_box, blank, image), truth)
        self._row(ELLIPSES).add(image.image_id, _ruled(inscribed_ellipse, blank, image), truth)
        if read_image is not None:
            try:
                pixels = read_image(image.image_id)
            except ImageError as error:
                logger.warning("image %s: not measured with GrabCut: %s", image.image_id, error)
                return
            self._row(GRABCUT).add(image.image_id, _ruled(self._grab_cut, pixels, image), truth)
            self._row(f"{SEGMENTED}, same images").add(image.image_id, image.truth, truth)

    def _row(self, name: str) -> _Row:
        from weaksam.metrics.pseudo_masks import PseudoMaskQuality

        if name not in self.rows:
            self.rows[name] = _Row(PseudoMaskQuality(len(self.class_names)))
        return self.rows[name]

    def to_plain(self) -> dict[str, Any]:
        counts = {"images": self.images, "masks": self.masks / self.images, "without_mask": self.without_mask}
        if not self.rows:
            return {**counts, "objects": None, "rows": [], "histogram": [], "classes": [], "worst": []}
        scores = self.rows[SEGMENTED].quality.scores(IOU)
        return {
            **counts,
            "objects": int(scores.objects.sum()),
            "rows": [row.to_plain(name) for name, row in self.rows.items()],
            "histogram": scores.histogram.sum(axis=0).tolist(),
            "grabcut": {"masks": self._grab_cut.masks, "fell_back": self._grab_cut.fell_back},
            "classes": [
                {
                    "name": name,
                    "objects": int(scores.objects[n]),
                    "iou": known(scores.iou[n]),
                    "boundary_f": known(scores.boundary_f[n]),
                    "ap": known(scores.coco.per_class()[n]),
                    "ap50": known(scores.coco.per_class(iou_threshold=0.5)[n]),
                    "precision": known(scores.labels.precision[n]),
                    "recall": known(scores.labels.recall[n]),
                }
                for n, name in enumerate(self.class_names)
            ],
            "worst": self.worst.to_plain(),
        }


def _ruled(rule: MaskRule, pixels: NDArray[np.uint8], image: PseudoMaskedImage) -> PseudoGroundTruth:
    """Return the pseudo ground truth with masks that a rule makes of the prompted boxes."""
    from weaksam.metrics.trivial_masks import ruled

    boxes_xyxy = image.prompted_xyxy
    return replace(image.truth, boxes_xyxy=boxes_xyxy, mask_rle=ruled(rule, pixels, boxes_xyxy))


def _summary(split: str, measured: Mapping[str, Any]) -> str:
    if not measured["rows"]:
        return f"{split}: {measured['masks']:.2f} masks an image, no true masks to measure them"
    rows = {row["name"]: row for row in measured["rows"]}
    filled = percent(rows[BOXES]["iou"])
    own = rows[SEGMENTED]
    return f"{split}: IoU {percent(own['iou'])} (filled boxes {filled}), boundary F {percent(own['boundary_f'])}"
