"""The label stage: the detections of the training images become the pseudo ground truth that ``retrain`` learns from.

Reads the images table and detections, file by file, and works on the one split that labels are granted to. Labels that
count difficult objects decide which classes may have boxes, as published. An image without labels, or without detections of
them, gets a row without boxes and is counted; one that ``detect`` dropped gets none. With given thresholds images do not depend
on each other, and rows of before stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.detections import DetectionTable
from pipelines.products.index import Index
from pipelines.products.pseudo_labels import PseudoLabelFacts, PseudoLabelTable
from pipelines.recipe.config import LabelConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.store.copies import remove_copies
from pipelines.store.current import CurrentRows
from pipelines.store.identities import identities
from pipelines.store.planned import LABELS_DIFFICULT, without
from pipelines.store.proof import Proof, prove
from pipelines.store.schemas import BOX, PSEUDO_LABELS, with_class_names
from pipelines.store.tables import Rows, part_name
from weaksam.config import PseudoLabelsConfig
from weaksam.errors import DataError
from weaksam.pseudo_labels.boxes import KEPT, REASONS, Selection, fill_in, select
from weaksam.structures import IMAGE_LABELS

_COLUMNS = ("image_id", "size_hw", "boxes_xyxy", "class_index", "score")


@dataclass(frozen=True, kw_only=True)
class LabelFacts(PseudoLabelFacts):
    """What ``label`` says of its table, for readers of its manifest."""

    boxes_per_image: float = 0.0
    without_boxes: int = 0  # images
    without_labels: int = 0  # images
    undetected: int = 0  # images of the split that have no row of detections
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> detections


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Which detections become pseudo labels, and how."""

    index: Input = INDEX
    detections: Input
    pseudo_labels: LabelConfig


class LabelStage(Stage[LabelOptions]):
    """See the module."""

    verb = "label"
    help = "Turn the detections of the training images into pseudo ground truth."
    product = PseudoLabelTable

    def options(self, recipe: Recipe, name: str) -> LabelOptions:  # noqa: ARG002
        """Take the section of pseudo labels."""
        return LabelOptions(detections=recipe.pseudo_labels.detections, pseudo_labels=recipe.pseudo_labels)

    def describe(self, options: LabelOptions) -> str:
        """Return how detections are chosen."""
        config = options.pseudo_labels
        if config.mode == "top1":
            return f"the best {config.top_k} of each label"
        return f"scores above {config.tau_s}, covered to less than {config.tau_o}"

    def images(self, options: LabelOptions) -> ImagesRead:  # noqa: ARG002
        """Return those with labels: they decide which classes may have boxes."""
        return ImagesRead(columns=(LABELS_DIFFICULT,), granted=True)

    def makes_rows(self, options: LabelOptions) -> bool:
        """Whether no threshold is chosen from all images together."""
        return not options.pseudo_labels.open_thresholds

    def run(self, job: Job[LabelOptions]) -> LabelFacts:
        """Write the pseudo labels of the labelled split, and count what was rejected, by reason."""
        index = job.input(job.options.index, Index)
        detected = job.input(job.options.detections, DetectionTable)
        detections, supervision = detected.table, detected.facts.supervision
        class_names, split = index.class_names, index.granted_split
        number_of, labels = label_matrix(index.read(("image_id", "split", "labels_difficult")), split, len(class_names))
        table = job.instance.table(with_class_names(PSEUDO_LABELS, class_names))
        remove_copies(table)
        if not self.makes_rows(job.options):
            table.remove_all()  # of an interrupted run, whose thresholds may have been other ones
        planned = job.instance.planned_rows()
        planned = planned.filter(pc.is_in(planned["image_id"], pa.array(detections.ids(), pa.string())))
        if not planned.num_rows:
            raise DataError(
                f"{detections.folder}: expected detections in images of the split that labels are granted to ({split}), got "
                "none; name it in detect.splits (empty = all), or grant labels with data.train_split"
            )
        left = without(planned, identities(table))

        def parts(of: pa.Table) -> Iterator[tuple[pa.Table, NDArray[np.bool_]]]:
            for part in detections.iter_parts(_COLUMNS):
                at = pc.index_in(part["image_id"], of["image_id"].combine_chunks())
                part = part.append_column("input", of["input"].take(at)).filter(at.is_valid()).combine_chunks()
                if part.num_rows:
                    yield part, labels[[number_of[image_id] for image_id in part["image_id"].to_pylist()]]

        config = filled_in(parts(planned), job.options.pseudo_labels)
        for part, labelled in parts(left):
            rows = label_part(part, labelled, table.schema, config, supervision)
            table.write_part(rows, part_name(rows, job.lock.token))
        proof = prove(planned, table, job.instance.dropped, planned.num_rows - left.num_rows)
        of_planned = {image_id: labels[number_of[image_id]] for image_id in planned["image_id"].to_pylist()}
        facts = _facts(proof, counted(CurrentRows(table, planned), of_planned), len(number_of), supervision)
        thresholds = {name: float(getattr(config, name)) for name in ("tau_s", "tau_o")}
        chosen = ", ".join(f"{name} {thresholds[name]:.3g}" for name in job.options.pseudo_labels.open_thresholds)
        text = " · chosen: ".join([facts.text, *([chosen] if chosen else [])])
        return replace(facts, text=text, split=split, thresholds=thresholds)


def label_matrix(images: pa.Table, split: str, num_classes: int) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Return the labels of a split's images, difficult objects counted.

    Returns:
        image id -> row of the matrix ``[B, C]``; unknown labels are rows of False.
    """
    mine = images.filter(pc.equal(images["split"], split)).combine_chunks()
    labels = mine["labels_difficult"].combine_chunks()
    rows = np.repeat(np.arange(len(labels)), _lengths(labels))
    matrix = np.zeros((len(labels), num_classes), np.bool_)
    matrix[rows, labels.flatten().to_numpy()] = True
    return {image_id: n for n, image_id in enumerate(mine["image_id"].to_pylist())}, matrix


def filled_in(parts: Iterable[tuple[pa.Table, NDArray[np.bool_]]], config: PseudoLabelsConfig) -> PseudoLabelsConfig:
    """Return ``config`` with numbers where it leaves thresholds to the data: all parts of a table together.

    Args:
        parts: of the detections table, one chunk each, and the labels of their images ``[B, C]``.
        config: as in the recipe.

    Raises:
        DataError: a score is not finite.
    """
    if not config.open_thresholds:
        return config
    found: list[tuple[NDArray[Any], ...]] = []
    images = 0
    labels: list[NDArray[np.bool_]] = []
    for part, labelled in parts:
        columns, image_index = _columns(part)
        found.append((columns["boxes_xyxy"], columns["class_index"], columns["score"], image_index + images))
        labels.append(labelled)
        images += len(labelled)
    if not found:
        return config  # there is nothing to choose from: the stage says so
    boxes_xyxy, class_index, score, image_index = (np.concatenate(column) for column in zip(*found, strict=True))
    return fill_in(boxes_xyxy, class_index, score, image_index, np.concatenate(labels), config)


def label_part(
    part: pa.Table,
    labels: NDArray[np.bool_],
    schema: pa.Schema,
    config: PseudoLabelsConfig,
    supervision: str = IMAGE_LABELS,
) -> pa.Table:
    """Turn B rows of detections into rows of pseudo labels.

    Args:
        part: of the detections table, one chunk, with the ``input`` of each row of pseudo labels.
        labels: ``[B, C]`` of its images.
        schema: of the pseudo labels, with the class names.
        config: how to choose.
        supervision: what the detections are owed to.

    Returns:
        the rows, in the same order.

    Raises:
        DataError: a score is not finite.
    """
    columns, image_index = _columns(part)
    found = select(columns["boxes_xyxy"], columns["class_index"], columns["score"], image_index, labels, config)
    kept = np.bincount(image_index[found.kept], minlength=len(labels))
    rejected = np.bincount(image_index[~found.kept], minlength=len(labels))
    arrays = {
        **{name: part[name].combine_chunks() for name in ("image_id", "input", "size_hw")},
        "boxes_xyxy": _lists(_boxes(columns["boxes_xyxy"][found.kept]), kept),
        "class_index": _lists(pa.array(columns["class_index"][found.kept]), kept),
        "score": _lists(pa.array(columns["score"][found.kept]), kept),
        "score_normalised": _lists(pa.array(found.score_normalised[found.kept]), kept),
        "noise": pa.nulls(len(labels), schema.field("noise").type),
        "rejected": _lists(_rejected(columns, found), rejected),
        "supervision": pa.array([supervision] * len(labels)),
    }
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def counted(rows: Rows, labels: Mapping[str, NDArray[np.bool_]]) -> Counter[str]:
    """Return how many detections went each way (``REASONS``), and how many images are "empty" and "unlabelled".

    Args:
        rows: of pseudo labels.
        labels: of their images, by id.
    """
    counts: Counter[str] = Counter(unlabelled=sum(not of_image.any() for of_image in labels.values()))
    for part in rows.iter_parts(("class_index", "rejected")):
        kept = _lengths(part["class_index"].combine_chunks())
        counts += Counter({REASONS[KEPT]: int(kept.sum()), "empty": int((kept == 0).sum())})
        reasons = part["rejected"].combine_chunks().flatten().field("reason")
        counts += Counter({row["values"]: row["counts"] for row in pc.value_counts(reasons).to_pylist()})
    return counts


def _columns(part: pa.Table) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Return the detections of a part as flat columns, and the number of each one's image; raise DataError for a bad score."""
    boxes = part["boxes_xyxy"].combine_chunks()
    image_index = np.repeat(np.arange(len(boxes)), _lengths(boxes))
    columns = {
        "boxes_xyxy": boxes.flatten().flatten().to_numpy().reshape(-1, 4),
        "class_index": part["class_index"].combine_chunks().flatten().to_numpy(),
        "score": part["score"].combine_chunks().flatten().to_numpy(),
    }
    bad = np.flatnonzero(~np.isfinite(columns["score"]))
    if len(bad):
        image_id = part["image_id"][int(image_index[bad[0]])].as_py()
        raise DataError(f"image {image_id}: expected finite scores of detections, got NaN or infinity; train anew")
    return columns, image_index


def _rejected(columns: Mapping[str, NDArray[Any]], found: Selection) -> pa.Array:
    gone = ~found.kept
    return pa.StructArray.from_arrays(
        [
            _boxes(columns["boxes_xyxy"][gone]),
            pa.array(columns["class_index"][gone]),
            pa.array(columns["score"][gone]),
            pa.array(REASONS).take(pa.array(found.reason[gone])),
        ],
        fields=list(PSEUDO_LABELS.field("rejected").type.value_type),
    )


def _boxes(boxes_xyxy: NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(boxes_xyxy.ravel()), type=BOX)


def _lists(flat: pa.Array, lengths: NDArray[np.int64]) -> pa.Array:
    """Cut a flat array into one list per image."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32()), flat)


def _lengths(lists: pa.Array) -> NDArray[np.int64]:
    """Return the length of each list, 0 for null."""
    lengths: NDArray[np.int64] = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return lengths


def _facts(proof: Proof, counts: Mapping[str, int], indexed: int, supervision: str) -> LabelFacts:
    images, boxes = proof.images, counts[REASONS[KEPT]]
    rejected = {reason: counts[reason] for reason in REASONS[KEPT + 1 :] if counts[reason]}
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items()) or "none"
    undetected = f" · never detected in {indexed - images:,}" if indexed > images else ""
    return LabelFacts(
        text=f"{proof}{undetected} · boxes {boxes:,}, {boxes / images:.2f} an image · without any box "
        f"{counts['empty']:,} ({counts['unlabelled']:,} without labels) · rejected: {reasons}",
        images=proof,
        boxes=boxes,
        boxes_per_image=round(boxes / images, 4),
        without_boxes=counts["empty"],
        without_labels=counts["unlabelled"],
        undetected=indexed - images,
        rejected=rejected,
        supervision=supervision,
    )


STAGE = LabelStage()
