"""The true-masks stage: the true masks of the labelled split as pseudo labels with masks.

This is the one way in which true masks reach a trainer: as the instance ``true-masks``, which ``retrain.learn_from`` can name.
Every row and the manifest say ``supervision: masks``, and whatever is made of them repeats it. A box is its mask's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.dataflow.rows import planned_images
from pipelines.engine.stage import Content, ImagesRead, Job, Stage
from pipelines.exchange.true_objects import granted_truth, learnable_objects
from pipelines.products.index import Index
from pipelines.products.pseudo_labels import PseudoMaskFacts, PseudoMaskTable
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.store.planned import CONTENT
from pipelines.store.proof import prove
from pipelines.store.schemas import PSEUDO_MASKS, pseudo_masks_to_row, with_class_names
from weaksam.boxes_np import paired_iou
from weaksam.config import DataConfig
from weaksam.config.weights import NotInKey
from weaksam.datasets.ground_truth import StatedSize, digest_of, mask_digest_of
from weaksam.errors import DataError
from weaksam.masks_np import rle_area, rle_boxes
from weaksam.structures import MASKS, GroundTruth, PseudoGroundTruth

_ROWS_PER_PART = 512  # images
_WITHOUT_MASK = "without a mask"


@dataclass(frozen=True, kw_only=True)
class TrueMasksFacts(PseudoMaskFacts):
    """What is said of true masks that became pseudo labels."""

    left_out: dict[str, int] = field(default_factory=dict)  # reason -> objects


@dataclass(frozen=True, kw_only=True)
class TrueMasksOptions:
    """Which masks become pseudo labels."""

    index: Input = INDEX
    include_difficult: bool
    stated_size: StatedSize
    data: NotInKey[DataConfig]


class TrueMasksStage(Stage[TrueMasksOptions]):
    """See the module."""

    verb = "true-masks"
    help = (
        "Make pseudo labels of the true masks of the labelled split: what do pseudo masks cost?\n\n"
        "A detector that is retrained on them (retrain.learn_from: true-masks) is not weakly supervised any more, and "
        "everything computed from it says `supervision: masks`."
    )
    product = PseudoMaskTable
    replaces_when_finished = True

    def options(self, recipe: Recipe, name: str) -> TrueMasksOptions:  # noqa: ARG002
        """Take what the recipe says of its data."""
        return TrueMasksOptions(
            include_difficult=recipe.data.include_difficult, stated_size=recipe.data.stated_size, data=recipe.data
        )

    def images(self, options: TrueMasksOptions) -> ImagesRead:  # noqa: ARG002
        """Return those that labels are granted to; masks are those of the pictures' sizes."""
        return ImagesRead(columns=(CONTENT,), granted=True)

    def contents(self, options: TrueMasksOptions) -> Mapping[str, Content]:
        """Return the true masks."""
        return {"true masks": Content(options.data, _digest)}

    def run(self, job: Job[TrueMasksOptions]) -> TrueMasksFacts:
        """Write the masks. Crowds are left out, objects without a mask, and difficult ones unless they are included.

        Raises:
            DataError: labels are granted to no split, or none of its objects has a mask.
        """
        options, index = job.options, job.input(job.options.index, Index)
        truth = granted_truth(options.data, index.granted_split, masks=True)
        planned = job.instance.planned_rows()
        rows = planned_images(planned, index.read()).to_pylist()
        objects = learnable_objects(rows, truth, options.include_difficult, job.instance)
        table = job.instance.table(with_class_names(PSEUDO_MASKS, index.class_names))
        known = [row for row in rows if row["image_id"] in objects.images]
        masks = without = 0
        for start in range(0, len(known), _ROWS_PER_PART):
            part = []
            for row in known[start : start + _ROWS_PER_PART]:
                found = objects.images[row["image_id"]]
                part.append(_row(row["image_id"], row["input"], found))
                masks += len(part[-1]["mask_rle"])
                without += len(found.class_index) - len(part[-1]["mask_rle"])
            table.write_rows(part, f"part-{start // _ROWS_PER_PART:05d}")
        if known and not masks:
            raise DataError(
                f"{options.data.uri}: expected true masks of the split that labels are granted to ({index.granted_split}), got "
                f"{without:,} objects without any; see docs/RUNNING.md for where each data set keeps them"
            )
        left_out = {**objects.left_out, **({_WITHOUT_MASK: without} if without else {})}
        proof = prove(planned, table, job.instance.dropped)
        apart = "".join(f" · {reason} left out {count:,}" for reason, count in left_out.items())
        return TrueMasksFacts(
            text=f"{proof} · masks {masks:,}{apart} · supervision: {MASKS}",
            images=proof,
            split=index.granted_split,
            boxes=masks,
            left_out=left_out,
            supervision=MASKS,
        )


def _digest(config: DataConfig) -> str:
    from weaksam.datasets import open_dataset, train_split

    truth = granted_truth(config, train_split(open_dataset(config), config), masks=True)
    return mask_digest_of(truth) + digest_of(truth)  # of classes and flags, too


def _row(image_id: str, input: str, objects: GroundTruth) -> dict[str, Any]:
    found = [(n, rle) for n, rle in enumerate(objects.mask_rle or []) if rle is not None and rle_area([rle])[0]]
    at, masks = [n for n, _ in found], [rle for _, rle in found]
    certain = np.ones(len(masks), np.float32)
    boxes_xyxy, own_xyxy = rle_boxes(masks), objects.boxes_xyxy[at]
    return pseudo_masks_to_row(
        image_id,
        input,
        objects.size_hw,
        PseudoGroundTruth(
            boxes_xyxy=boxes_xyxy,
            class_index=objects.class_index[at],
            score=certain,
            score_normalised=certain,
            mask_rle=masks,
        ),
        prompted_xyxy=own_xyxy,
        columns={
            "area": rle_area(masks),
            "box_iou": paired_iou(own_xyxy.astype(np.float64), boxes_xyxy.astype(np.float64)),
            "predicted_iou": certain,
            "stability": certain,
        },
        reasons=[""] * len(masks),
        supervision=MASKS,
    )


STAGE = TrueMasksStage()
