"""A run on drawn images that has label maps to learn from: the true ones, as if another segmenter had predicted them."""

from __future__ import annotations

from tests.support.drawn_run import write_run
from tests.support.label_maps import shifted, write_maps
from weaksam.datasets.shapes import Shapes
from weaksam.structures import MASKS

TRUTH = "predict-maps.truth"


def write_mapped_run(run_uri: str) -> Shapes:
    """Write a finished ``index``, and the true maps of its training images, marked as such, under ``TRUTH``."""
    dataset = write_run(run_uri)
    write_maps(run_uri, TRUTH, shifted(dataset, "train", 0), dataset.class_names, supervision=MASKS)
    return dataset
