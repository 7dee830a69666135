"""The segment stage: SAM turns the pseudo boxes of the training images into masks, on Ray Data (method 8.1).

    index, pseudo labels ─► fetch and validate (CPU tasks) ─► MaskActor pool ─► Parquet

What it leaves are pseudo labels again, whose boxes are those of the masks. A box without a mask is rejected and counted; an
image without a row of pseudo labels is not planned. One without a row of the peaks is left out and counted: it gets its masks
once ``propose`` has its row. Resumable like ``propose``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataflow.passes import work_off
from pipelines.dataflow.pools import Pools
from pipelines.dataflow.rows import beside, decode_row, fetch, planned_images, use_cpu, work_batch
from pipelines.engine.stage import Content, ImagesRead, Job, Stage, sha256_of
from pipelines.products.index import Index
from pipelines.products.proposals import ProposalTable
from pipelines.products.pseudo_labels import PseudoLabelTable, PseudoMaskFacts, PseudoMaskTable
from pipelines.recipe.config import ResourcesConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.store.current import CurrentRows
from pipelines.store.instances import Instance
from pipelines.store.planned import CONTENT
from pipelines.store.schemas import (
    PROMPT_COLUMNS,
    PSEUDO_MASKS,
    prompts_from_columns,
    pseudo_labels_from_row,
    pseudo_masks_to_row,
    with_class_names,
)
from weaksam.boxes_np import paired_iou
from weaksam.config import SamConfig, SegmentConfig
from weaksam.config.weights import NotInKey
from weaksam.errors import DataError
from weaksam.sam import SAMS, named_weights

EMPTY, SMALL, NO_AREA = "empty mask", "small mask", "box without area"  # why a box is rejected
_LABELS = ("boxes_xyxy", "class_index", "score", "score_normalised", "noise", "supervision")


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Which boxes become masks, and how."""

    index: Input = INDEX
    labels: Input
    peaks: Input  # "" where boxes alone prompt
    segment: SegmentConfig
    sam: SamConfig
    resources: NotInKey[ResourcesConfig]


class SegmentStage(Stage[SegmentOptions]):
    """See the module."""

    verb = "segment"
    help = "Prompt SAM with the pseudo boxes of the training images, and write pseudo labels with masks."
    product = PseudoMaskTable
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> SegmentOptions:  # noqa: ARG002
        """Take the section of masks, and the recipe's SAM."""
        config = recipe.segment.settled
        return SegmentOptions(
            labels=config.labels,
            peaks=config.peaks,
            segment=config,
            sam=replace(recipe.sam, weights=named_weights(recipe.sam)),
            resources=recipe.resources,
        )

    def contents(self, options: SegmentOptions) -> Mapping[str, Content]:
        """Return SAM's weights."""
        return {"sam": Content(options.sam.weights, sha256_of)}

    def images(self, options: SegmentOptions) -> ImagesRead:  # noqa: ARG002
        """Return those that labels are granted to; their labels enter through the pseudo labels."""
        return ImagesRead(columns=(CONTENT,), granted=True)

    def makes_rows(self, options: SegmentOptions) -> bool:  # noqa: ARG002
        """True: no image depends on another."""
        return True

    def describe(self, options: SegmentOptions) -> str:
        """Return what prompts SAM."""
        return f"{options.labels}'s boxes{f' and peaks of {options.peaks} inside them' if options.peaks else ''}"

    def run(self, job: Job[SegmentOptions]) -> PseudoMaskFacts:
        """Make a mask of every pseudo box."""
        options, index = job.options, job.input(job.options.index, Index)
        labels = job.input(options.labels, PseudoLabelTable)
        images = planned_images(job.instance.planned_rows(), index.read())
        images = beside(images, labels.table.read(("image_id", *_LABELS)))
        if not images.num_rows:
            raise DataError(f"{labels.table.folder}: expected pseudo labels of images that are indexed, got none")
        labelled = images.num_rows
        if options.peaks:
            prompts = job.input(options.peaks, ProposalTable).table
            names = [column.name for column in PROMPT_COLUMNS]
            images = beside(images, prompts.read(("image_id", *names)))
            if not images.num_rows:
                raise DataError(
                    f"{job.instance.name}: none of {labelled:,} images with labels has a row of {options.peaks}"
                )
        schema = with_class_names(PSEUDO_MASKS, index.class_names)

        def operators(dataset: Any, pools: Pools) -> Any:
            spec = MaskSpec(
                instance=job.instance,
                sam=options.sam,
                config=options.segment,
                threads=pools.sizes.threads,
                device=pools.sizes.device,
            )
            dataset = pools.tasks(dataset, fetch, longest_side=SAMS[options.sam.name].input_side)
            return pools.actors(dataset, MaskActor, pools.sizes.segment_actors, spec=spec, schema=schema)

        facts = work_off(job, images, schema, options.resources, operators)
        table = CurrentRows(job.instance.table(schema), job.instance.planned_rows())
        if without := labelled - images.num_rows:
            facts = replace(facts, text=f"{facts.text} · {without:,} without a row of {options.peaks} left out")
        return _with_counts(PseudoMaskFacts(**vars(facts)), table, labels)


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """What an actor must know to build itself; small and picklable."""

    instance: Instance
    sam: SamConfig
    config: SegmentConfig
    threads: int
    device: str  # "cpu" or "cuda"


class MaskActor:
    """Holds SAM; turns images and their pseudo boxes into masks. Columns FETCHED and ``_LABELS`` -> PSEUDO_MASKS."""

    def __init__(self, spec: MaskSpec, schema: pa.Schema = PSEUDO_MASKS) -> None:
        from weaksam.sam.load import load_sam

        use_cpu(spec.threads, spec.device)
        self._spec = spec
        self._schema = schema  # with the class names in its metadata
        self._sam = load_sam(spec.sam, spec.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Segment the boxes of each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        ahead = self._spec.device == "cuda"
        return work_batch(batch, self._spec.instance, self._schema, self._segment, self._prepare, ahead=ahead)

    def _prepare(self, row: dict[str, Any]) -> Any:
        from weaksam.sam.encode import resize_image

        return resize_image(self._sam, decode_row(row))

    def _segment(self, row: dict[str, Any], *, ready: Callable[[], Any]) -> dict[str, Any]:
        from weaksam.sam.segment import peaks_inside, segment_boxes

        config, truth, image = self._spec.config, pseudo_labels_from_row(row), ready()
        peaks = prompts_from_columns(row) if "prompt_source" in row else []
        points_xy = peaks_inside(truth.boxes_xyxy, truth.class_index, peaks, config.max_points)
        masks = segment_boxes(self._sam, image, truth.boxes_xyxy, points_xy, config)
        reasons = np.where(masks.area == 0, EMPTY, np.where(masks.area < config.min_area, SMALL, ""))
        reasons = np.where((truth.boxes_xyxy[:, 2:] > truth.boxes_xyxy[:, :2]).all(axis=1), reasons, NO_AREA)
        return pseudo_masks_to_row(
            row["image_id"],
            row["input"],
            image.size_hw,
            replace(truth, boxes_xyxy=masks.boxes_xyxy, mask_rle=masks.mask_rle),
            prompted_xyxy=truth.boxes_xyxy,
            columns={
                "area": masks.area,
                "box_iou": paired_iou(truth.boxes_xyxy.astype(np.float64), masks.boxes_xyxy.astype(np.float64)),
                "predicted_iou": masks.predicted_iou,
                "stability": masks.stability,
            },
            reasons=reasons.tolist(),
            noise=row["noise"],
            supervision=row["supervision"],
        )


def _with_counts(facts: PseudoMaskFacts, table: CurrentRows, labels: PseudoLabelTable) -> PseudoMaskFacts:
    """Say how many boxes have masks, and why others have none."""
    boxes, overlap, rejected = 0, 0.0, Counter[str]()
    for part in table.iter_parts(("box_iou", "rejected")):
        ious = part["box_iou"].combine_chunks().flatten()
        boxes, overlap = boxes + len(ious), overlap + (pc.sum(ious).as_py() or 0.0)
        reasons = part["rejected"].combine_chunks().flatten().field("reason")
        rejected += Counter({row["values"]: row["counts"] for row in pc.value_counts(reasons).to_pylist()})
    mean = round(overlap / boxes, 4) if boxes else None
    told = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items()) or "none"
    agree = f" · IoU of boxes and their masks' {mean:.2f}" if mean is not None else ""
    return replace(
        facts,
        text=f"{facts.text} · masks {boxes:,}{agree} · rejected: {told}",
        split=labels.facts.split,
        boxes=boxes,
        supervision=labels.facts.supervision,
        thresholds=labels.facts.thresholds,
        rejected=dict(rejected),
        box_iou=mean,
    )


STAGE = SegmentStage()
