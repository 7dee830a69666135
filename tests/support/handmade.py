"""Runs written by hand, as ``index`` and ``propose`` would leave them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.store.schemas import IMAGES, PROPOSALS, proposals_to_row
from tests.support.sets import FROM_NOTHING, instance_of, of_index
from weaksam.structures import Proposals


def write_index(run_uri: str, images: Mapping[str, Sequence[str]], *, kind: str, folder: Path | None = None) -> None:
    """Write a finished ``index`` of split -> image ids; with ``folder``, the images too: 20 pixels wide, 10 high."""
    rows = []
    for split, ids in images.items():
        for image_id in ids:
            uri = f"/nowhere/{image_id}.png" if folder is None else str(folder / f"{image_id}.png")
            if folder is not None:
                Image.new("RGB", (20, 10)).save(uri)
            rows.append(
                {
                    "image_id": image_id,
                    "uri": uri,
                    "split": split,
                    "content": "",
                    "labels": None,
                    "labels_difficult": None,
                }
            )
    index = instance_of(run_uri, "index")
    index.begin({})
    index.table(IMAGES).write_rows(rows, "part-0")
    index.finish({"kind": kind, "splits": {split: len(ids) for split, ids in images.items()}})


def write_proposals(run_uri: str, boxes: Mapping[str, Sequence[Sequence[float]]], *, parts: int = 1) -> None:
    """Write a finished ``propose`` of image id -> XYXY boxes, every second one without a predicted IoU, into some files.

    The images are those of the run's index, which is finished.
    """
    propose = of_index(run_uri, "propose")
    propose.begin({})
    rows = [
        proposals_to_row(image_id, FROM_NOTHING, proposals_of(image_boxes)) for image_id, image_boxes in boxes.items()
    ]
    for n in range(parts):
        propose.table(PROPOSALS).write_rows(rows[n::parts], f"part-{n}")
    propose.finish({})


def proposals_of(boxes: Sequence[Sequence[float]]) -> Proposals:
    """Boxes of one image; predicted IoUs are .5, unknown, .5, unknown …"""
    number = len(boxes)
    return Proposals(
        size_hw=(10, 20),
        boxes_xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
        source=["grid"] * number,
        prompt_index=np.full(number, -1, np.int32),
        mask_index=np.full(number, -1, np.int8),
        predicted_iou=np.where(np.arange(number) % 2, np.nan, 0.5).astype(np.float32),
    )
