"""The seeds stage: maps of an image's classes, and superpixels that take the class they hold most of (FMA method 4, 5).

    index, superpixels ─► fetch and validate (CPU tasks) ─► SeedActor pool ─► Parquet

Maps and attention are made and used in one actor: stored they would be gigabytes. An image without a class is background. One
without a row of superpixels is left out and counted: it gets its seed once ``superpixels`` has its row. Resumable like
``propose``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.dataflow.passes import work_off
from pipelines.dataflow.pools import Pools
from pipelines.dataflow.rows import among, fetch, planned_images, use_cpu, work_batch
from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.index import Index
from pipelines.products.label_maps import SeedFacts, SeedTable
from pipelines.products.superpixels import ImageSuperpixels, SuperpixelTable
from pipelines.recipe.config import ResourcesConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe, verb_of
from pipelines.store.current import CurrentRows
from pipelines.store.instances import Instance
from pipelines.store.numbers import known
from pipelines.store.planned import CONTENT
from pipelines.store.schemas import SEEDS, label_map_to_row, with_class_names
from pipelines.store.tables import Rows
from pipelines.training.images import labels_column
from pipelines.training.trained import Trained
from weaksam.config import CamConfig, ClipConfig, SeedConfig, require
from weaksam.config.weights import NotInKey, Weights
from weaksam.errors import DataError
from weaksam.masks_np import Rle
from weaksam.networks.clip import with_weights_named

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SeedOptions:
    """Whose maps and superpixels become seeds, and how."""

    index: Input = INDEX
    model: Input  # whose maps
    superpixels: Input  # "" = none
    maps: ClipConfig | CamConfig  # of prompts, or of a classifier
    seeds: SeedConfig
    include_difficult: bool  # labels count objects marked difficult
    resources: NotInKey[ResourcesConfig]


class SeedStage(Stage[SeedOptions]):
    """See the module."""

    verb = "seeds"
    help = "Make label maps of the training images: superpixels take the class whose map is strongest in them."
    product = SeedTable
    revision = 2
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> SeedOptions:  # noqa: ARG002
        """Take the section of seeds, and that of the maps that the model makes."""
        of_prompts = verb_of(recipe.seeds.model) == "train-prompts"
        clues = recipe.clues
        require(
            of_prompts or (clues.source.trained and not clues.weights),
            "seeds.model",
            "prompts, or a classifier that this run trains (clues.source trained, clues.weights empty)",
            recipe.seeds.model,
        )
        measured = recipe.seeds.measure_agreement
        for possible, wanted in (
            (of_prompts, "false of a classifier's maps: only CLIP says how sure it is of what a seed shows"),
            (not recipe.seeds.grabcut, "false with seeds.grabcut, which changes seeds after they are measured"),
        ):
            require(possible or not measured, "seeds.measure_agreement", wanted, measured)
        return SeedOptions(
            model=recipe.seeds.model,
            superpixels=recipe.seeds.superpixels,
            maps=with_weights_named(recipe.clip) if of_prompts else recipe.clues.cam,
            seeds=recipe.seeds,
            include_difficult=recipe.data.include_difficult,
            resources=recipe.resources,
        )

    def images(self, options: SeedOptions) -> ImagesRead:
        """Return those that labels are granted to; a seed holds their classes and no others."""
        return ImagesRead(columns=(CONTENT, labels_column(options.include_difficult)), granted=True)

    def makes_rows(self, options: SeedOptions) -> bool:  # noqa: ARG002
        """True: no image depends on another."""
        return True

    def describe(self, options: SeedOptions) -> str:
        """Return what is made of what."""
        cut = ", cut out by GrabCut" if options.seeds.grabcut else ""
        return f"maps of {options.model} on {options.superpixels or 'single pixels'}{cut}"

    def run(self, job: Job[SeedOptions]) -> SeedFacts:
        """Make the seed of every image whose labels are known."""
        options, index = job.options, job.input(job.options.index, Index)
        trained = job.input(options.model, Trained)
        column = labels_column(options.include_difficult)
        images = planned_images(job.instance.planned_rows(), index.read(), column)
        unknown = images["labels"].null_count
        images = images.filter(images["labels"].is_valid())
        labelled, superpixels = images.num_rows, None
        if options.superpixels:
            superpixels = job.input(options.superpixels, SuperpixelTable).table
            images = among(images, superpixels.ids())
        if not images.num_rows:
            also = f" and superpixels of {options.superpixels}" if options.superpixels else ""
            raise DataError(f"{job.instance.name}: expected images with known labels{also}, got none")
        schema = with_class_names(SEEDS, index.class_names)

        def operators(dataset: Any, pools: Pools) -> Any:
            spec = SeedSpec(
                instance=job.instance,
                maps=options.maps,
                model=Weights(trained.weights_uri).as_seen(),
                config=options.seeds,
                superpixels=superpixels,
                class_names=index.class_names,
                supervision=trained.facts.supervision,
                threads=pools.sizes.threads,
                device=pools.sizes.device,
            )
            dataset = pools.tasks(dataset, fetch, longest_side=options.seeds.max_side)
            return pools.actors(dataset, SeedActor, pools.sizes.segment_actors, spec=spec, schema=schema)

        facts = work_off(job, images, schema, options.resources, operators)
        table = CurrentRows(job.instance.table(schema), job.instance.planned_rows())
        left_out = f" · {unknown:,} with unknown labels left out" if unknown else ""
        if without := labelled - images.num_rows:
            left_out += f" · {without:,} without a row of {options.superpixels} left out"
        said = {**vars(facts), "text": f"{facts.text}{left_out}"}
        return _with_counts(SeedFacts(**said, supervision=trained.facts.supervision), table)


@dataclass(frozen=True, kw_only=True)
class SeedSpec:
    """What an actor must know to build itself; small and picklable."""

    instance: Instance
    maps: ClipConfig | CamConfig
    model: Weights
    config: SeedConfig
    superpixels: Rows | None  # the table of them; None = each pixel takes its own class
    class_names: tuple[str, ...]  # of the data; the model's must be the same
    supervision: str
    threads: int
    device: str  # "cpu" or "cuda"


class SeedActor:
    """Holds the network of the maps; turns images and their superpixels into seeds. Columns FETCHED -> SEEDS."""

    def __init__(self, spec: SeedSpec, schema: pa.Schema = SEEDS) -> None:
        from pipelines.stages.seeds.maps import class_mapper

        use_cpu(spec.threads, spec.device)
        self._spec = spec
        self._schema = schema  # with the class names in its metadata
        self._maps = class_mapper(spec.maps, spec.model, spec.config, spec.class_names, spec.device)
        table = spec.superpixels
        self._superpixels = None if table is None else ImageSuperpixels(table, spec.config.max_inside)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Make the seed of each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        ahead = self._spec.device == "cuda"
        return work_batch(batch, self._spec.instance, self._schema, self._seed, ahead=ahead)

    def _seed(self, row: dict[str, Any], *, ready: Callable[[], NDArray[np.uint8]]) -> dict[str, Any]:
        from weaksam.mask_runs import MaskRuns
        from weaksam.segmentation.agreement import NOT_CHECKED, check_seed
        from weaksam.segmentation.class_maps import PromptMapper
        from weaksam.segmentation.seeding import Seed, cut_along_colours, sam_seed

        image, config = ready(), self._spec.config
        size_hw = (image.shape[0], image.shape[1])
        class_index = sorted(row["labels"])
        maps = self._maps(image, class_index)
        masks_rle: Sequence[Rle] = ()
        level: list[int] = []
        if self._superpixels is not None:
            chosen = self._superpixels[row["image_id"]]
            masks_rle, level = chosen.mask_rle, chosen.level.tolist()
        superpixels = MaskRuns.of(masks_rle, size_hw)

        def paint(maps: Tensor) -> Seed:
            return sam_seed(maps, class_index, superpixels, level, config.background_power)

        seed, checked = paint(maps), NOT_CHECKED
        if config.measure_agreement and isinstance(self._maps, PromptMapper):
            checked = check_seed(self._maps, image, class_index, seed, paint)
        label_map = cut_along_colours(image, seed.label_map, maps, class_index) if config.grabcut else seed.label_map
        return {
            **label_map_to_row(row["image_id"], row["input"], label_map, supervision=self._spec.supervision),
            "superpixels": superpixels.count,
            "coverage": superpixels.coverage(),
            "fallback": seed.fallback,
            "agreement": known(checked.agreement),
            "clip_score": known(checked.clip_score),
        }


def _with_counts(facts: SeedFacts, table: CurrentRows) -> SeedFacts:
    """Say how many superpixels there are, how much of the images they cover, and what was measured of the seeds."""
    rows, superpixels, coverage, fallbacks = 0, 0, 0.0, 0
    agreement, clip_score = list[float](), list[float]()
    for part in table.iter_parts(("superpixels", "coverage", "fallback", "agreement", "clip_score")):
        rows += part.num_rows
        superpixels += pc.sum(part["superpixels"]).as_py() or 0
        coverage += pc.sum(part["coverage"]).as_py() or 0.0
        fallbacks += pc.sum(part["fallback"]).as_py() or 0
        agreement += part["agreement"].drop_null().to_pylist()
        clip_score += part["clip_score"].drop_null().to_pylist()
    if not rows:
        return facts
    of_image, share = superpixels / rows, coverage / rows
    told = f" · {of_image:.1f} superpixels an image, which cover {share:.0%}" if superpixels else ""
    alone = f" · {fallbacks:,} without one" if fallbacks and superpixels else ""
    facts = replace(
        facts,
        text=f"{facts.text}{told}{alone}",
        superpixels=round(of_image, 2),
        coverage=round(share, 4),
        fallbacks=fallbacks,
    )
    if not agreement:
        return facts
    agrees, seen = math.fsum(agreement) / len(agreement), math.fsum(clip_score) / len(clip_score)
    text = f"{facts.text} · views agree to {agrees:.1%}, CLIP sees a class in its seed to {seen:.1%}"
    return replace(facts, text=text, agreement=round(agrees, 6), clip_score=round(seen, 6))


STAGE = SeedStage()
