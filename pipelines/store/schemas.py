"""The tables: one Arrow schema each, and the way between a row and the method's structures.

One row is one image. Ragged things are list columns with explicit types, so that every file of a table has the same schema
whatever its rows hold: inferred types differ between a block of empty lists and a full one, and the folder then no longer
reads as one table. Class names travel in the schema's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from weaksam.errors import DataError
from weaksam.label_maps import decode_label_map, encode_label_map
from weaksam.structures import AutomaticMasks, Detections, Prompts, Proposals, PseudoGroundTruth

SCHEMA_VERSION = 2  # raise it when a column changes its meaning: instance keys contain it

POINT = pa.list_(pa.float32(), 2)
BOX = pa.list_(pa.float32(), 4)
RLE = pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", pa.binary())])
_ADDED_LATER = {b"added": b"later"}  # marks a column that files of before lack: it is null in them

IMAGE_ID = pa.field("image_id", pa.string(), nullable=False)  # of every table
# What the row of an image was computed from, see ``planned``: of every table but the images.
INPUT = pa.field("input", pa.string(), nullable=False)

IMAGES = pa.schema(
    [
        IMAGE_ID,
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),  # of the picture: see ``weaksam.io.contents``
        pa.field("labels", pa.list_(pa.int32())),  # null = unknown or not granted to this split
        pa.field("labels_difficult", pa.list_(pa.int32())),
    ]
)

PROMPT_COLUMNS = [
    pa.field("prompt_points_xy", pa.list_(pa.list_(POINT))),
    pa.field("prompt_source", pa.list_(pa.string())),
    pa.field("prompt_kind", pa.list_(pa.string())),
    pa.field("prompt_class_index", pa.list_(pa.int32())),
]

PROPOSALS = pa.schema(
    [
        IMAGE_ID,
        INPUT,
        pa.field("size_hw", pa.list_(pa.int32(), 2)),
        pa.field("boxes_xyxy", pa.list_(BOX)),
        pa.field("source", pa.list_(pa.string())),
        pa.field("prompt_index", pa.list_(pa.int32())),
        pa.field("mask_index", pa.list_(pa.int8())),
        pa.field("predicted_iou", pa.list_(pa.float32())),
        pa.field(
            "discarded",
            pa.list_(pa.struct([("source", pa.string()), ("reason", pa.string()), ("count", pa.int32())])),
        ),
        *PROMPT_COLUMNS,
        pa.field("mask_rle", pa.list_(RLE)),  # null unless masks were asked for
    ]
)

DETECTIONS = pa.schema(
    [
        IMAGE_ID,
        INPUT,
        pa.field("size_hw", pa.list_(pa.int32(), 2)),
        pa.field("boxes_xyxy", pa.list_(BOX)),
        pa.field("class_index", pa.list_(pa.int32())),
        pa.field("score", pa.list_(pa.float32())),
        pa.field("image_scores", pa.list_(pa.float32())),  # per class: is one of it in the image?
        pa.field("mask_rle", pa.list_(RLE), metadata=_ADDED_LATER),  # null unless the detector finds masks
    ]
)

PSEUDO_LABELS = pa.schema(
    [
        IMAGE_ID,
        INPUT,
        pa.field("size_hw", pa.list_(pa.int32(), 2)),
        pa.field("boxes_xyxy", pa.list_(BOX)),
        pa.field("class_index", pa.list_(pa.int32())),
        pa.field("score", pa.list_(pa.float32())),
        pa.field("score_normalised", pa.list_(pa.float32())),
        # per box: what was done to a true one (``pseudo_labels.noise``); else null
        pa.field("noise", pa.list_(pa.string())),
        pa.field(
            "rejected",
            pa.list_(
                pa.struct(
                    [
                        ("box_xyxy", BOX),
                        ("class_index", pa.int32()),
                        ("score", pa.float32()),
                        ("reason", pa.string()),
                    ]
                )
            ),
        ),
        pa.field("supervision", pa.string(), nullable=False),  # what the boxes are owed to: "image-labels" or "boxes"
    ]
)

# The same once SAM has made masks of the boxes: ``boxes_xyxy`` are those of the masks.
PSEUDO_MASKS = pa.schema(
    [
        *PSEUDO_LABELS,
        pa.field("mask_rle", pa.list_(RLE)),
        pa.field("area", pa.list_(pa.int32())),  # pixels of the mask
        pa.field("prompted_boxes_xyxy", pa.list_(BOX)),  # the pseudo labels' own
        pa.field("box_iou", pa.list_(pa.float32())),  # of the prompted box and the mask's
        pa.field("predicted_iou", pa.list_(pa.float32())),
        pa.field("stability", pa.list_(pa.float32())),
    ]
)

LABEL_MAPS = pa.schema(
    [
        IMAGE_ID,
        INPUT,
        pa.field("size_hw", pa.list_(pa.int32(), 2)),
        pa.field("label_map", pa.binary(), nullable=False),  # a grey PNG, see ``weaksam.label_maps``
        pa.field("supervision", pa.string(), nullable=False),  # what it is owed to
    ]
)

# The same where superpixels were painted.
SEEDS = pa.schema(
    [
        *LABEL_MAPS,
        pa.field("superpixels", pa.int32()),  # their number
        pa.field("coverage", pa.float32()),  # share of the image's pixels that lie in one of them
        pa.field("fallback", pa.bool_()),  # there was none, and each pixel took its own class
        # With the seeds of other views; null of an image without a class, or not measured.
        pa.field("agreement", pa.float32()),
        # CLIP's probability of a class where it sees what the seed calls so; null likewise.
        pa.field("clip_score", pa.float32()),
    ]
)

# All of SAM's automatic masks: which of them are superpixels, their readers say.
SUPERPIXELS = pa.schema(
    [
        IMAGE_ID,
        INPUT,
        pa.field("size_hw", pa.list_(pa.int32(), 2)),
        pa.field("mask_rle", pa.list_(RLE)),
        pa.field("level", pa.list_(pa.int8())),  # 0 subpart, 1 part, 2 whole
        pa.field("area", pa.list_(pa.int32())),  # pixels of the mask
        pa.field("boxes_xyxy", pa.list_(BOX)),
        pa.field("predicted_iou", pa.list_(pa.float32())),
        pa.field("stability", pa.list_(pa.float32())),
        pa.field("point_xy", pa.list_(POINT)),  # the prompt
        pa.field("crop_xyxy", pa.list_(BOX)),  # the part of the image that SAM saw
    ]
)

DROPPED = pa.schema(
    [
        IMAGE_ID,
        INPUT,
        pa.field("stage", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # short and stable: reports count by it
        pa.field("detail", pa.string(), nullable=False),
    ]
)


def with_class_names(schema: pa.Schema, class_names: Sequence[str]) -> pa.Schema:
    """Return ``schema`` with the class list, in index order, in its metadata."""
    return schema.with_metadata({b"class_names": json.dumps(list(class_names)).encode()})


def class_names_of(schema: pa.Schema) -> tuple[str, ...]:
    """Return the class list of a schema's metadata; empty when it has none."""
    return tuple(json.loads((schema.metadata or {}).get(b"class_names", b"[]")))


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return ``table`` with the columns of ``schema`` that it lacks because there were none when it was written: null."""
    for place, field in enumerate(schema):
        if field.name not in table.column_names and (field.metadata or {}).items() >= _ADDED_LATER.items():
            table = table.add_column(min(place, table.num_columns), field, pa.nulls(table.num_rows, field.type))
    return table


def check(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Return ``table`` unchanged if it has exactly the columns of ``schema``; raise DataError naming the difference."""
    if table.schema.equals(schema, check_metadata=False):
        return table
    expected, got = (
        {f.name: f"{f.type}{'' if f.nullable else ' not null'}" for f in s} for s in (schema, table.schema)
    )
    missing = [f"{n}: {t}" for n, t in expected.items() if got.get(n) != t]
    surplus = [f"{n}: {t}" for n, t in got.items() if expected.get(n) != t]
    raise DataError(f"{where}: expected columns {missing or list(expected)}, got {surplus or list(got)}")


def prompts_to_columns(prompts: Sequence[Prompts]) -> dict[str, list[Any]]:
    """Flatten the prompts of one image, all sources in order, into the values of ``PROMPT_COLUMNS``."""
    return {
        "prompt_points_xy": [points.tolist() for p in prompts for points in p.points_xy],
        "prompt_source": [p.source for p in prompts for _ in range(len(p))],
        "prompt_kind": [kind for p in prompts for kind in p.kind],
        "prompt_class_index": [int(c) for p in prompts for c in p.class_index],
    }


def prompts_from_columns(row: dict[str, Any]) -> list[Prompts]:
    """Rebuild the prompts of one image, grouped by source in order of first appearance."""
    by_source: dict[str, list[int]] = {}
    for index, source in enumerate(row["prompt_source"]):
        by_source.setdefault(source, []).append(index)
    return [
        Prompts(
            source=source,
            points_xy=[np.asarray(row["prompt_points_xy"][i], np.float32).reshape(-1, 2) for i in indices],
            kind=[row["prompt_kind"][i] for i in indices],
            class_index=[row["prompt_class_index"][i] for i in indices],
        )
        for source, indices in by_source.items()
    ]


def proposals_to_row(image_id: str, input: str, proposals: Proposals) -> dict[str, Any]:
    """Return the row of ``PROPOSALS`` that holds one image's proposals."""
    return {
        "image_id": image_id,
        "input": input,
        "size_hw": list(proposals.size_hw),
        "boxes_xyxy": proposals.boxes_xyxy.tolist(),
        "source": list(proposals.source),
        "prompt_index": proposals.prompt_index.tolist(),
        "mask_index": proposals.mask_index.tolist(),
        "predicted_iou": proposals.predicted_iou.tolist(),
        "discarded": [
            {"source": source, "reason": reason, "count": count}
            for (source, reason), count in sorted(proposals.discarded.items())
        ],
        **prompts_to_columns(proposals.prompts),
        "mask_rle": None if proposals.mask_rle is None else [dict(rle) for rle in proposals.mask_rle],
    }


def proposals_from_row(row: dict[str, Any]) -> Proposals:
    """Rebuild one image's proposals from its row, the inverse of ``proposals_to_row``."""
    return Proposals(
        size_hw=(row["size_hw"][0], row["size_hw"][1]),
        boxes_xyxy=np.asarray(row["boxes_xyxy"], np.float32).reshape(-1, 4),
        source=row["source"],
        prompt_index=np.asarray(row["prompt_index"], np.int32),
        mask_index=np.asarray(row["mask_index"], np.int8),
        predicted_iou=np.asarray(row["predicted_iou"], np.float32),
        discarded={(d["source"], d["reason"]): d["count"] for d in row["discarded"]},
        prompts=prompts_from_columns(row),
        mask_rle=row["mask_rle"],
    )


def detections_to_row(image_id: str, input: str, size_hw: tuple[int, int], detections: Detections) -> dict[str, Any]:
    """Return the row of ``DETECTIONS`` that holds one image's detections."""
    return {
        "image_id": image_id,
        "input": input,
        "size_hw": list(size_hw),
        "boxes_xyxy": detections.boxes_xyxy.tolist(),
        "class_index": detections.class_index.tolist(),
        "score": detections.score.tolist(),
        "image_scores": detections.image_scores.tolist(),
        "mask_rle": None if detections.mask_rle is None else list(detections.mask_rle),
    }


def detections_from_row(row: dict[str, Any]) -> Detections:
    """Rebuild one image's detections from its row, the inverse of ``detections_to_row``."""
    return Detections(
        boxes_xyxy=np.asarray(row["boxes_xyxy"], np.float32).reshape(-1, 4),
        class_index=np.asarray(row["class_index"], np.int64),
        score=np.asarray(row["score"], np.float32),
        image_scores=np.asarray(row["image_scores"], np.float32),
        mask_rle=row.get("mask_rle"),
    )


def pseudo_labels_to_row(
    image_id: str,
    input: str,
    size_hw: tuple[int, int],
    truth: PseudoGroundTruth,
    *,
    supervision: str,
    noise: Sequence[str] | None = None,
    rejected: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the row of ``PSEUDO_LABELS`` that holds one image's pseudo ground truth."""
    return {
        "image_id": image_id,
        "input": input,
        "size_hw": list(size_hw),
        "boxes_xyxy": truth.boxes_xyxy.tolist(),
        "class_index": truth.class_index.tolist(),
        "score": truth.score.tolist(),
        "score_normalised": truth.score_normalised.tolist(),
        "noise": None if noise is None else list(noise),
        "rejected": list(rejected),
        "supervision": supervision,
    }


def pseudo_masks_to_row(
    image_id: str,
    input: str,
    size_hw: tuple[int, int],
    truth: PseudoGroundTruth,
    *,
    prompted_xyxy: NDArray[np.float32],
    columns: Mapping[str, NDArray[Any]],
    reasons: Sequence[str],
    supervision: str,
    noise: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the row of ``PSEUDO_MASKS`` that holds one image's pseudo ground truth.

    Args:
        image_id: of the image.
        input: what the row is computed from.
        size_hw: of the image.
        truth: N boxes with masks.
        prompted_xyxy: ``[N, 4]``, the boxes that these masks were made of.
        columns: what else is known of each mask, ``[N]`` by column.
        reasons: why each is rejected; "" where it is kept.
        supervision: what the boxes are owed to.
        noise: of each box, where it is known.
    """
    kept = [n for n, reason in enumerate(reasons) if not reason]
    row = pseudo_labels_to_row(
        image_id,
        input,
        size_hw,
        truth.take(kept),
        supervision=supervision,
        noise=None if noise is None else [noise[n] for n in kept],
        rejected=[
            {
                "box_xyxy": prompted_xyxy[n].tolist(),
                "class_index": int(truth.class_index[n]),
                "score": float(truth.score[n]),
                "reason": reason,
            }
            for n, reason in enumerate(reasons)
            if reason
        ],
    )
    masks = truth.mask_rle or []
    more = {name: values[kept].tolist() for name, values in columns.items()}
    return {**row, "mask_rle": [masks[n] for n in kept], "prompted_boxes_xyxy": prompted_xyxy[kept].tolist(), **more}


def pseudo_labels_from_row(row: dict[str, Any]) -> PseudoGroundTruth:
    """Rebuild one image's pseudo ground truth from its row, the inverse of ``pseudo_labels_to_row``."""
    return PseudoGroundTruth(
        boxes_xyxy=np.asarray(row["boxes_xyxy"], np.float32).reshape(-1, 4),
        class_index=np.asarray(row["class_index"], np.int64),
        score=np.asarray(row["score"], np.float32),
        score_normalised=np.asarray(row["score_normalised"], np.float32),
        mask_rle=row.get("mask_rle"),
    )


def label_map_to_row(image_id: str, input: str, label_map: NDArray[np.uint8], *, supervision: str) -> dict[str, Any]:
    """Return the row of ``LABEL_MAPS`` that holds one image's label map ``[H, W]``."""
    return {
        "image_id": image_id,
        "input": input,
        "size_hw": list(label_map.shape),
        "label_map": encode_label_map(label_map),
        "supervision": supervision,
    }


def label_map_from_row(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the label map ``[H, W]`` of a row, the inverse of ``label_map_to_row``."""
    return decode_label_map(row["label_map"], f"image {row['image_id']}")


def automatic_masks_to_row(image_id: str, input: str, masks: AutomaticMasks) -> dict[str, Any]:
    """Return the row of ``SUPERPIXELS`` that holds one image's automatic masks."""
    return {
        "image_id": image_id,
        "input": input,
        "size_hw": list(masks.size_hw),
        "mask_rle": list(masks.mask_rle),
        "level": masks.level.tolist(),
        "area": masks.area.tolist(),
        "boxes_xyxy": masks.boxes_xyxy.tolist(),
        "predicted_iou": masks.predicted_iou.tolist(),
        "stability": masks.stability.tolist(),
        "point_xy": masks.point_xy.tolist(),
        "crop_xyxy": masks.crop_xyxy.tolist(),
    }


def automatic_masks_from_row(row: dict[str, Any]) -> AutomaticMasks:
    """Rebuild one image's automatic masks from its row, the inverse of ``automatic_masks_to_row``."""
    return AutomaticMasks(
        size_hw=(row["size_hw"][0], row["size_hw"][1]),
        mask_rle=row["mask_rle"],
        level=np.asarray(row["level"], np.int8),
        area=np.asarray(row["area"], np.int32),
        boxes_xyxy=np.asarray(row["boxes_xyxy"], np.float32).reshape(-1, 4),
        predicted_iou=np.asarray(row["predicted_iou"], np.float32),
        stability=np.asarray(row["stability"], np.float32),
        point_xy=np.asarray(row["point_xy"], np.float32).reshape(-1, 2),
        crop_xyxy=np.asarray(row["crop_xyxy"], np.float32).reshape(-1, 4),
    )
