"""The label stage: the detections of the training images become the pseudo ground truth that ``retrain`` learns from.

Reads the images table and detections, file by file, and works on the one split that labels are granted to. Labels that
count difficult objects decide which classes may have boxes, as published. An image without labels, or without detections of
them, gets a row without boxes and is counted; one that ``detect`` dropped gets none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.engine.stage import Job, Stage
from pipelines.recipe.config import method_of
from pipelines.recipe.model import Recipe, verb_of
from pipelines.store.instances import Instance, prove
from pipelines.store.schemas import BOX, DETECTIONS, IMAGES, PSEUDO_LABELS, with_class_names
from pipelines.training.fit import granted_split
from weaksam.config import PseudoLabelsConfig
from weaksam.errors import DataError
from weaksam.pseudo_labels.boxes import KEPT, REASONS, Selection, fill_in, select
from weaksam.structures import IMAGE_LABELS

THRESHOLDS = ("tau_s", "tau_o")  # of adaptive selection, that the recipe may leave to the data
_COLUMNS = ("image_id", "split", "size_hw", "boxes_xyxy", "class_index", "score")


def execute(job: Job) -> dict[str, Any]:
    """Write the pseudo labels of the labelled split and return the proof with what was rejected, by reason."""
    index = job.upstream["index"].table(IMAGES)
    detections = job.upstream[job.recipe.pseudo_labels.detections].table(DETECTIONS)
    class_names, split = index.class_names(), granted_split(job)
    number_of, labels = label_matrix(index.read(("image_id", "split", "labels_difficult")), split, len(class_names))
    table = job.instance.table(with_class_names(PSEUDO_LABELS, class_names))
    table.remove_all()  # of an interrupted run, whose parts may have been other ones
    planned: list[str] = []
    counts: Counter[str] = Counter()

    def parts() -> Iterator[tuple[pa.Table, NDArray[np.bool_]]]:
        for part in detections.iter_parts(_COLUMNS):
            part = part.filter(pc.equal(part["split"], split)).combine_chunks()
            if part.num_rows:
                yield part, labels[[number_of[image_id] for image_id in part["image_id"].to_pylist()]]

    config = filled_in(parts(), job.recipe.pseudo_labels)
    for n, (part, labelled) in enumerate(parts()):
        rows, counted = label_part(part, labelled, table.schema, config)
        table.write_part(rows, f"part-{n:05d}")
        planned += part["image_id"].to_pylist()
        counts += counted
    if not planned:
        raise DataError(
            f"{detections.folder}: expected detections in images of the split that labels are granted to ({split}), got none; "
            "name it in detect.splits (empty = all), or grant labels with data.train_split"
        )
    summary = _summary(prove(planned, table, job.instance.dropped), counts, len(number_of))
    thresholds = {name: getattr(config, name) for name in THRESHOLDS}
    chosen = [
        f"{name} {thresholds[name]:.3g}" for name in THRESHOLDS if getattr(job.recipe.pseudo_labels, name) == "auto"
    ]
    text = " · chosen: ".join([summary["text"], *([", ".join(chosen)] if chosen else [])])
    return {"split": split, **summary, "text": text, "thresholds": thresholds}


def holds_pseudo_labels(instance: Instance) -> bool:
    """Whether an instance's table is one of pseudo labels: made here, or of true boxes; other imports are proposals."""
    verb = verb_of(instance.name)
    return verb == "label" or (verb == "import" and "supervision" in (instance.manifest() or {}))


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
    if "auto" not in (config.tau_s, config.tau_o):
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
    part: pa.Table, labels: NDArray[np.bool_], schema: pa.Schema, config: PseudoLabelsConfig
) -> tuple[pa.Table, Counter[str]]:
    """Turn B rows of detections into rows of pseudo labels.

    Args:
        part: of the detections table, one chunk.
        labels: ``[B, C]`` of its images.
        schema: of the pseudo labels, with the class names.
        config: how to choose.

    Returns:
        the rows, in the same order; and how many detections went each way (``REASONS``), "empty" and "unlabelled" images.

    Raises:
        DataError: a score is not finite.
    """
    columns, image_index = _columns(part)
    found = select(columns["boxes_xyxy"], columns["class_index"], columns["score"], image_index, labels, config)
    kept = np.bincount(image_index[found.kept], minlength=len(labels))
    rejected = np.bincount(image_index[~found.kept], minlength=len(labels))
    arrays = {
        **{name: part[name].combine_chunks() for name in ("image_id", "split", "size_hw")},
        "boxes_xyxy": _lists(_boxes(columns["boxes_xyxy"][found.kept]), kept),
        "class_index": _lists(pa.array(columns["class_index"][found.kept]), kept),
        "score": _lists(pa.array(columns["score"][found.kept]), kept),
        "score_normalised": _lists(pa.array(found.score_normalised[found.kept]), kept),
        "noise": pa.nulls(len(labels), schema.field("noise").type),
        "rejected": _lists(_rejected(columns, found), rejected),
        "supervision": pa.array([IMAGE_LABELS] * len(labels)),
    }
    counts = Counter(dict(zip(REASONS, np.bincount(found.reason, minlength=len(REASONS)).tolist(), strict=True)))
    counts += Counter(empty=int((kept == 0).sum()), unlabelled=int((~labels.any(axis=1)).sum()))
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema), counts


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


def _summary(proof: Mapping[str, Any], counts: Mapping[str, int], indexed: int) -> dict[str, Any]:
    """Return what the manifest says."""
    images, boxes = proof["images"], counts[REASONS[KEPT]]
    rejected = {reason: counts[reason] for reason in REASONS[KEPT + 1 :] if counts[reason]}
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items()) or "none"
    undetected = f" · never detected in {indexed - images:,}" if indexed > images else ""
    return {
        "text": f"{proof['text']}{undetected} · boxes {boxes:,}, {boxes / images:.2f} an image · without any box "
        f"{counts['empty']:,} ({counts['unlabelled']:,} without labels) · rejected: {reasons}",
        "images": proof,
        "boxes": boxes,
        "boxes_per_image": round(boxes / images, 4),
        "without_boxes": counts["empty"],
        "without_labels": counts["unlabelled"],
        "undetected": indexed - images,
        "rejected": rejected,
        "supervision": IMAGE_LABELS,
    }


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    return {"pseudo_labels": method_of(recipe.pseudo_labels)}


def _describe(recipe: Recipe) -> str:
    config = recipe.pseudo_labels
    if config.mode == "top1":
        return f"the best {config.top_k} of each label"
    return f"scores above {config.tau_s}, covered to less than {config.tau_o}"


STAGE = Stage(
    verb="label",
    help="Turn the detections of the training images into pseudo ground truth.",
    reads=lambda recipe, _name: ("index", recipe.pseudo_labels.detections),
    method=_method,
    execute=execute,
    table=PSEUDO_LABELS,
    describe=_describe,
)
