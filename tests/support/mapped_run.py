"""A run on drawn images that has label maps to learn from: the true ones, as if another segmenter had predicted them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.store.instances import Instance
from pipelines.store.schemas import LABEL_MAPS, label_map_to_row, with_class_names
from tests.support.drawn_run import SHAPES, write_run
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.datasets.shapes import Shapes
from weaksam.masks_np import decode_rle
from weaksam.structures import MASKS

TRUTH = "predict-maps.truth"


def write_mapped_run(run_uri: str) -> Shapes:
    """Write a finished ``index``, and the true maps of its training images, marked as such, under ``TRUTH``."""
    dataset = write_run(run_uri)
    write_maps(instance_of(run_uri, TRUTH), dataset, supervision=MASKS)
    return dataset


def write_maps(instance: Instance, dataset: Shapes, *, supervision: str) -> None:
    """Write a finished table of the true maps of the training images."""
    instance.begin({})
    rows = [
        label_map_to_row(image_id, FROM_NOTHING, label_map, supervision=supervision)
        for image_id, label_map in true_maps(dataset, "train").items()
    ]
    instance.table(with_class_names(LABEL_MAPS, dataset.class_names)).write_rows(rows, "part-0")
    instance.finish({"text": f"images {len(rows)}", "supervision": supervision})


def true_maps(dataset: Shapes, split: str) -> dict[str, NDArray[np.uint8]]:
    """Image id -> label map ``[H, W]``; where objects overlap the later one lies on top."""
    maps = {}
    for image_id, truth in dataset.ground_truth(split, masks=True).items():
        label_map = np.zeros((SHAPES.size, SHAPES.size), np.uint8)
        for class_index, rle in zip(truth.class_index.tolist(), truth.mask_rle or (), strict=True):
            if rle is not None:
                label_map[decode_rle(rle)] = class_index + 1
        maps[image_id] = label_map
    return maps
