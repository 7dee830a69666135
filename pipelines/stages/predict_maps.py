"""The predict-maps stage: a segmenter over images, on Ray Data.

    index ( superpixels ) ─► fetch and validate (CPU tasks) ─► MapActor pool ─► Parquet

With superpixels, an image without a row of them is left out and counted. Resumable like ``propose``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.dataflow.passes import work_off
from pipelines.dataflow.pools import Pools
from pipelines.dataflow.rows import among, fetch, planned_images, use_cpu, work_batch
from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.index import Index
from pipelines.products.label_maps import LabelMapFacts, LabelMapTable
from pipelines.products.superpixels import ImageSuperpixels, SuperpixelTable
from pipelines.recipe.config import ResourcesConfig
from pipelines.recipe.keys import INDEX, NOTHING, Input
from pipelines.recipe.model import Recipe
from pipelines.store.instances import Instance
from pipelines.store.planned import CONTENT
from pipelines.store.schemas import LABEL_MAPS, label_map_to_row, with_class_names
from pipelines.store.tables import Rows
from pipelines.training.trained import weights_of_job
from weaksam.config import PredictMapsConfig, SegmenterConfig, SegmenterNetworkConfig, require
from weaksam.config.weights import NotInKey, Weights
from weaksam.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SegmenterArchitecture:
    """What of a segmenter's options decides what it finds with given weights."""

    network: SegmenterNetworkConfig
    backbone: str
    side: int
    max_side: int


@dataclass(frozen=True, kw_only=True)
class PredictMapsOptions:
    """Which segmenter is run over which images, and how."""

    index: Input = INDEX
    model: Input  # "" where the segmenter's weights are given
    superpixels: Input  # "" = none
    weights: Weights  # of a given segmenter
    architecture: SegmenterArchitecture
    predict_maps: PredictMapsConfig
    segmenter: NotInKey[SegmenterConfig]  # how it was trained; see ``architecture``
    resources: NotInKey[ResourcesConfig]


class PredictMapsStage(Stage[PredictMapsOptions]):
    """See the module."""

    verb = "predict-maps"
    help = "Run a trained segmenter over images, and write which class each of their pixels belongs to."
    product = LabelMapTable
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> PredictMapsOptions:  # noqa: ARG002
        """Look up how the segmenter was trained."""
        config = recipe.predict_maps.settled
        segmenter = recipe.of(config.model).segmenter
        safe = segmenter.network.halves or config.precision != "fast"
        wanted = f"exact or tf32 with {segmenter.network.name}, which does not find the same in half precision"
        require(safe, "predict_maps.precision", wanted, config.precision)
        return PredictMapsOptions(
            model=NOTHING if segmenter.weights else config.model,
            superpixels=config.superpixels,
            weights=segmenter.weights,
            architecture=SegmenterArchitecture(
                network=segmenter.network,
                backbone=segmenter.backbone,
                side=segmenter.side,
                max_side=segmenter.max_side,
            ),
            predict_maps=config,
            segmenter=segmenter,
            resources=recipe.resources,
        )

    def images(self, options: PredictMapsOptions) -> ImagesRead:
        """Return those of the chosen splits; a segmenter sees no labels."""
        return ImagesRead(columns=(CONTENT,), splits=options.predict_maps.splits, whole=True)

    def makes_rows(self, options: PredictMapsOptions) -> bool:  # noqa: ARG002
        """True: no image depends on another."""
        return True

    def describe(self, options: PredictMapsOptions) -> str:
        """Return what is run, at which sizes."""
        config, network = options.predict_maps, options.architecture
        sides = ", ".join(f"{scale * network.side:g}" for scale in config.scales)
        mirrored = ", and mirrored" if config.flip else ""
        by = f", by {options.superpixels}" if options.superpixels else ""
        return f"{network.network.name} on {network.backbone}, {sides} pixels{mirrored}{by}"

    def run(self, job: Job[PredictMapsOptions]) -> LabelMapFacts:
        """Predict the label map of every image of the chosen splits."""
        options, index = job.options, job.input(job.options.index, Index)
        images = planned_images(job.instance.planned_rows(), index.read())
        if not images.num_rows:
            raise DataError(
                f"{job.instance.name}.splits: no image of {', '.join(options.predict_maps.splits) or 'any split'}"
            )
        asked, superpixels = images.num_rows, None
        if options.superpixels:
            superpixels = job.input(options.superpixels, SuperpixelTable).table
            images = among(images, superpixels.ids())
            if not images.num_rows:
                raise DataError(f"{job.instance.name}: none of {asked:,} images has a row of {options.superpixels}")
        weights = weights_of_job(job, options.model, options.weights)
        class_names, supervision = _said_of(weights)
        schema = with_class_names(LABEL_MAPS, index.class_names or class_names)

        def operators(dataset: Any, pools: Pools) -> Any:
            spec = MapSpec(
                instance=job.instance,
                weights=weights,
                segmenter=options.segmenter,
                config=options.predict_maps,
                superpixels=superpixels,
                class_names=index.class_names or class_names,
                threads=pools.sizes.threads,
                device=pools.sizes.device,
            )
            dataset = pools.tasks(dataset, fetch, longest_side=options.segmenter.max_side)
            return pools.actors(dataset, MapActor, pools.sizes.segment_actors, spec=spec, schema=schema)

        facts = work_off(job, images, schema, options.resources, operators)
        left_out = asked - images.num_rows
        without = f" · {left_out:,} without a row of {options.superpixels} left out" if left_out else ""
        text = f"{facts.text}{without} · supervision: {supervision}"
        return LabelMapFacts(**{**vars(facts), "text": text}, supervision=supervision)


@dataclass(frozen=True, kw_only=True)
class MapSpec:
    """What an actor must know to build itself; small and picklable."""

    instance: Instance
    weights: Weights  # of the segmenter
    segmenter: SegmenterConfig
    config: PredictMapsConfig
    superpixels: Rows | None  # the table of them, by which maps are told; None = by pixels
    class_names: tuple[str, ...]  # of the data; the segmenter's must be the same
    threads: int
    device: str  # "cpu" or "cuda"


class MapActor:
    """Holds a segmenter; turns images into label maps. Columns FETCHED -> LABEL_MAPS, bad rows set aside."""

    def __init__(self, spec: MapSpec, schema: pa.Schema = LABEL_MAPS) -> None:
        from weaksam.segmentation.segmenters.loading import load_segmenter

        use_cpu(spec.threads, spec.device)
        self._spec = spec
        self._schema = schema  # with the class names in its metadata
        loaded = load_segmenter(spec.weights.fetch().path, spec.segmenter)
        if loaded.class_names != spec.class_names:
            raise DataError(
                f"{spec.weights}: expected a segmenter of the classes {', '.join(spec.class_names)}, got one of "
                f"{', '.join(loaded.class_names)}"
            )
        self._segmenter, self._supervision = loaded.segmenter.to(spec.device), loaded.supervision
        table = spec.superpixels
        self._superpixels = None if table is None else ImageSuperpixels(table, spec.config.max_inside)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predict the label map of each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        ahead = self._spec.device == "cuda"
        return work_batch(batch, self._spec.instance, self._schema, self._predict, ahead=ahead)

    def _predict(self, row: dict[str, Any], *, ready: Callable[[], NDArray[np.uint8]]) -> dict[str, Any]:
        from weaksam.mask_runs import MaskRuns
        from weaksam.segmentation.inference import class_probabilities, label_map_of, superpixel_label_map

        found = class_probabilities(self._segmenter, ready(), self._spec.config)
        if self._superpixels is not None:
            chosen = self._superpixels[row["image_id"]]
            superpixels = MaskRuns.of(chosen.mask_rle, found.size_hw)
            label_map = superpixel_label_map(found.strips(), superpixels, chosen.level.tolist())
        else:
            label_map = label_map_of(found.strips())
        return label_map_to_row(row["image_id"], row["input"], label_map, supervision=self._supervision)


def _said_of(weights: Weights) -> tuple[tuple[str, ...], str]:
    """Return the classes of a segmenter, for data that has none of its own, and what it owes its maps to."""
    from weaksam.segmentation.segmenters.loading import described_in

    return described_in(weights.fetch().path)


STAGE = PredictMapsStage()
