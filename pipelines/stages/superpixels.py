"""The superpixels stage: SAM's masks of everything in each image, on Ray Data (FMA method 5.1).

    index ─► fetch and validate (CPU tasks) ─► EverythingActor pool ─► Parquet

All masks are kept, with their levels: which of them are superpixels depends on a threshold of those who read them. An image in
which nothing is found has a row without masks. Resumable like ``propose``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.dataflow.passes import work_off
from pipelines.dataflow.pools import Pools
from pipelines.dataflow.rows import fetch, planned_images, use_cpu, work_batch
from pipelines.engine.stage import Content, ImagesRead, Job, Stage, sha256_of
from pipelines.products.index import Index
from pipelines.products.rows import RowFacts
from pipelines.products.superpixels import SuperpixelFacts, SuperpixelTable
from pipelines.recipe.config import ResourcesConfig, SuperpixelsConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.store.current import CurrentRows
from pipelines.store.instances import Instance
from pipelines.store.planned import CONTENT
from pipelines.store.schemas import SUPERPIXELS, automatic_masks_to_row
from weaksam.config import EverythingConfig, SamConfig
from weaksam.config.weights import NotInKey
from weaksam.sam import SAMS, named_weights
from weaksam.structures import PART, SUBPART, WHOLE

_LEVEL_NAMES = {WHOLE: "whole", PART: "part", SUBPART: "subpart"}


@dataclass(frozen=True, kw_only=True)
class SuperpixelsOptions:
    """Which images get masks, and how they are found."""

    index: Input = INDEX
    superpixels: SuperpixelsConfig
    sam: SamConfig
    resources: NotInKey[ResourcesConfig]


class SuperpixelsStage(Stage[SuperpixelsOptions]):
    """See the module."""

    verb = "superpixels"
    help = (
        "Let SAM find masks of everything in the training images, and write them with their levels.\n\n"
        "`--set superpixels.splits=[train,val]` says of which images, `--set superpixels.crop_layers=1` looks closer."
    )
    product = SuperpixelTable
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> SuperpixelsOptions:  # noqa: ARG002
        """Take the section, and the recipe's SAM."""
        return SuperpixelsOptions(
            superpixels=recipe.superpixels,
            sam=replace(recipe.sam, weights=named_weights(recipe.sam)),
            resources=recipe.resources,
        )

    def contents(self, options: SuperpixelsOptions) -> Mapping[str, Content]:
        """Return SAM's weights."""
        return {"sam": Content(options.sam.weights, sha256_of)}

    def images(self, options: SuperpixelsOptions) -> ImagesRead:
        """Return those of the chosen splits, else those that labels are granted to, or all; no labels are read."""
        splits = options.superpixels.splits
        return ImagesRead(columns=(CONTENT,), splits=splits, granted=not splits, or_all=True)

    def makes_rows(self, options: SuperpixelsOptions) -> bool:  # noqa: ARG002
        """True: no image depends on another."""
        return True

    def knows_classes(self, options: SuperpixelsOptions) -> bool:  # noqa: ARG002
        """False: SAM is not told any."""
        return False

    def describe(self, options: SuperpixelsOptions) -> str:
        """Return what prompts SAM."""
        config = options.superpixels
        crops = f", and crops in {config.crop_layers} layer(s)" if config.crop_layers else ""
        return f"a grid of {config.points_per_side} x {config.points_per_side} points{crops}"

    def run(self, job: Job[SuperpixelsOptions]) -> SuperpixelFacts:
        """Find the masks of every image of the chosen splits."""
        options, index = job.options, job.input(job.options.index, Index)
        images = planned_images(job.instance.planned_rows(), index.read())

        def operators(dataset: Any, pools: Pools) -> Any:
            spec = EverythingSpec(
                instance=job.instance,
                sam=options.sam,
                config=options.superpixels,
                threads=pools.sizes.threads,
                device=pools.sizes.device,
            )
            dataset = pools.tasks(dataset, fetch, longest_side=SAMS[options.sam.name].input_side)
            return pools.actors(dataset, EverythingActor, pools.sizes.segment_actors, spec=spec)

        facts = work_off(job, images, SUPERPIXELS, options.resources, operators)
        return _with_counts(facts, CurrentRows(job.instance.table(SUPERPIXELS), job.instance.planned_rows()))


@dataclass(frozen=True, kw_only=True)
class EverythingSpec:
    """What an actor must know to build itself; small and picklable."""

    instance: Instance
    sam: SamConfig
    config: EverythingConfig
    threads: int
    device: str  # "cpu" or "cuda"


class EverythingActor:
    """Holds SAM; turns images into masks of everything. Columns FETCHED -> SUPERPIXELS, bad rows set aside."""

    def __init__(self, spec: EverythingSpec) -> None:
        from weaksam.sam.load import load_sam

        use_cpu(spec.threads, spec.device)
        self._spec = spec
        self._sam = load_sam(spec.sam, spec.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Segment each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        ahead = self._spec.device == "cuda"
        return work_batch(batch, self._spec.instance, SUPERPIXELS, self._segment, ahead=ahead)

    def _segment(self, row: dict[str, Any], *, ready: Callable[[], NDArray[np.uint8]]) -> dict[str, Any]:
        from weaksam.sam.everything import segment_everything

        masks = segment_everything(self._sam, ready(), self._spec.config)
        return automatic_masks_to_row(row["image_id"], row["input"], masks)


def _with_counts(facts: RowFacts, table: CurrentRows) -> SuperpixelFacts:
    """Say how many masks there are of each level, and how many images have none."""
    count, without = Counter[int](), 0
    for part in table.iter_parts(("level",)):
        levels = part["level"].combine_chunks()
        without += pc.sum(pc.equal(pc.list_value_length(levels), 0)).as_py() or 0
        count += Counter({row["values"]: row["counts"] for row in pc.value_counts(levels.flatten()).to_pylist()})
    masks = {name: count[level] for level, name in _LEVEL_NAMES.items()}
    told = " · ".join(f"{name} {number:,}" for name, number in masks.items())
    return SuperpixelFacts(
        **{**vars(facts), "text": f"{facts.text} · masks: {told} · images without {without:,}"},
        masks=masks,
        without_masks=without,
    )


STAGE = SuperpixelsStage()
