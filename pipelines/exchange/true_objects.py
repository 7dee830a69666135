"""True objects of the labelled split, for the stages that hand them to a trainer and mark what they hand over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.exchange.masked_objects import ANOTHER_SIZE
from pipelines.products.index import NO_SPLIT
from pipelines.store.dropped import write_dropped
from pipelines.store.instances import Instance
from weaksam.config import DataConfig
from weaksam.datasets.ground_truth import true_objects
from weaksam.errors import DataError, ImageError
from weaksam.io.images import read_size
from weaksam.structures import GroundTruth

_READERS = 16


@dataclass(frozen=True, kw_only=True)
class TrueObjects:
    """What the pictures of a split show that is to be learnt from."""

    images: dict[str, GroundTruth]  # by image id, of each picture that can be read, in its own size
    left_out: dict[str, int]  # reason -> objects


def granted_truth(config: DataConfig, split: str, *, masks: bool = False) -> dict[str, GroundTruth]:
    """Read the annotations of the split that labels are granted to.

    Raises:
        DataError: there are none.
    """
    from weaksam.datasets import open_dataset

    truth = {} if split == NO_SPLIT else open_dataset(config).ground_truth(split, masks=masks)
    if not truth:
        raise DataError(
            f"{config.uri}: expected true boxes of the split that labels are granted to ({split}), got none; annotate it, or "
            "name another in data.train_split"
        )
    return truth


def learnable_objects(
    rows: Sequence[Mapping[str, Any]], truth: Mapping[str, GroundTruth], include_difficult: bool, instance: Instance
) -> TrueObjects:
    """Choose the objects of every image that can be read; others go to ``_dropped``.

    Crowds are left out, and so are difficult objects unless they are included.

    Raises:
        DataError: none of the images can be used.
    """
    images: dict[str, GroundTruth] = {}
    dropped = []
    left_out = {"difficult": 0, "crowd": 0, "without area in their image": 0}
    with ThreadPoolExecutor(_READERS) as threads:
        for row, size in zip(rows, threads.map(read_size, (row["uri"] for row in rows)), strict=True):
            objects = _objects_of(truth, row["image_id"], size)
            if isinstance(objects, ImageError):
                dropped.append({**row, "reason": objects.reason, "detail": objects.detail})
                continue
            difficult = objects.difficult & ~objects.crowd & (not include_difficult)
            left_out["difficult"] += int(difficult.sum())
            left_out["without area in their image"] += objects.left_out
            left_out["crowd"] += int(objects.crowd.sum())
            images[row["image_id"]] = objects.take(np.flatnonzero(~(difficult | objects.crowd)).tolist())
    write_dropped(instance, dropped)
    if rows and not images:
        row = dropped[0]
        raise DataError(f"none of the {len(rows):,} images can be used; {row['uri']}: {row['reason']}: {row['detail']}")
    return TrueObjects(images=images, left_out={reason: count for reason, count in left_out.items() if count})


def _objects_of(
    truth: Mapping[str, GroundTruth], image_id: str, size_hw: tuple[int, int] | ImageError
) -> GroundTruth | ImageError:
    """Return a picture's true objects, or why it has none: unreadable, or annotated in another size."""
    if isinstance(size_hw, ImageError):
        return size_hw
    try:
        return replace(true_objects(truth, image_id, size_hw), size_hw=size_hw)
    except DataError as error:
        return ImageError(ANOTHER_SIZE, str(error))
