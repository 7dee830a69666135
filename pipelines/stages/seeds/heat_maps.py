"""The maps behind seeds, computed anew for the few images that a page shows: a run keeps none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.dataflow.rows import one_thread
from pipelines.page.shown_run import ShownRun
from pipelines.products.index import Index
from pipelines.stages.seeds.stage import SeedOptions
from pipelines.training.images import labels_column
from pipelines.training.trained import Trained
from weaksam.config.weights import Weights
from weaksam.errors import RunError

SeedHeatMaps = Mapping[int, NDArray[np.float32]]  # class index -> map [h, w] in [0, 1]


def decides_maps(options: SeedOptions) -> tuple[Any, ...]:
    """Return what decides the maps of an instance: of two that agree in it, what is painted of the maps differs alone."""
    config = options.seeds
    return options.model, options.maps, options.include_difficult, config.affinity, config.scale, config.max_side


def heat_maps(run: ShownRun, options: SeedOptions, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, SeedHeatMaps]:
    """Return the maps of the classes of some images as seeds are painted of them, cut at 0 and each stretched to [0, 1].

    Works on the CPU, and forgets the network in the end.

    Args:
        run: whose page is made.
        options: of the instance of ``seeds``.
        images: by id, each ``[H, W, 3]`` RGB, upright; one whose labels are unknown has no maps.

    Raises:
        WeaksamError: the model or CLIP's weights are not to be had, or are of other classes or another network.
    """
    from pipelines.stages.seeds.maps import class_mapper
    from weaksam.networks.clip.affinity import normalised_scores

    index, trained = run.products[options.index], run.products.get(options.model)
    assert isinstance(index, Index)
    if not isinstance(trained, Trained):
        raise RunError(f"{options.model} is not finished; bring it up to date first")
    rows = index.read().filter(pc.is_in(index.read()["image_id"], pa.array(images, pa.string())))
    labels = dict(
        zip(rows["image_id"].to_pylist(), rows[labels_column(options.include_difficult)].to_pylist(), strict=True)
    )
    found: dict[str, SeedHeatMaps] = {}
    with one_thread():
        maps_of = class_mapper(options.maps, Weights(trained.weights_uri), options.seeds, index.class_names, "cpu")
        for image_id, image in images.items():
            classes = sorted(labels[image_id] or ())
            found[image_id] = dict(zip(classes, normalised_scores(maps_of(image, classes)).numpy(), strict=True))
    return found
