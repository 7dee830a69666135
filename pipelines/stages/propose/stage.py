"""The propose stage: images in, object proposals out, on Ray Data.

    index ─► fetch and validate (CPU tasks) ─► PromptActor pool ─► SegmentActor pool ─► Parquet

What is planned, resumed and retried is ``passes``' business; this file says what happens to one image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipelines.dataflow.passes import Pools, work_off
from pipelines.dataflow.rows import PLANNED, fetch
from pipelines.engine import ray_session
from pipelines.engine.stage import Content, Job, Stage
from pipelines.recipe.config import method_of
from pipelines.recipe.model import Recipe
from pipelines.stages.index import in_hash_order
from pipelines.stages.propose.actors import ActorSpec, PromptActor, SearchActor, SegmentActor
from pipelines.store.instances import Instance, current_instance
from pipelines.store.schemas import IMAGES, PROPOSALS, with_class_names
from weaksam.config import SAM_INPUT_SIDE, CluesConfig, SamConfig
from weaksam.errors import DataError


def execute(job: Job) -> dict[str, Any]:
    """Propose for every indexed image of the chosen splits; return the proof and what the actors were."""
    recipe = job.recipe
    index = job.upstream["index"].table(IMAGES)
    images = planned_images(index.read(), recipe)
    class_names = index.class_names() or _clue_class_names(recipe, job.upstream)
    schema = with_class_names(PROPOSALS, class_names)
    ray_session.connect(recipe.resources, job.options.address)
    sizes = ray_session.connected_pool_sizes(recipe.resources, images.num_rows, with_clues=recipe.uses_clues)
    spec = _actor_spec(job, images, class_names, sizes)

    def operators(dataset: Any, pools: Pools) -> Any:
        dataset = pools.tasks(dataset, fetch, longest_side=SAM_INPUT_SIDE[recipe.sam.name])
        if recipe.propose.method == "selective-search":
            search = {"instance": job.instance, "config": recipe.selective_search, "schema": schema}
            return pools.actors(dataset, SearchActor, sizes.segment_actors, **search)
        if recipe.uses_clues:
            dataset = pools.actors(dataset, PromptActor, sizes.prompt_actors, spec=spec)
        return pools.actors(dataset, SegmentActor, sizes.segment_actors, spec=spec, schema=schema)

    return {**work_off(job, images, schema, sizes, operators), "gallery": sorted(spec.gallery)}


def planned_images(images: pa.Table, recipe: Recipe) -> pa.Table:
    """Return the indexed images to work on as PLANNED rows, their labels being those that gating may use."""
    wanted = recipe.propose.splits
    splits = set(images["split"].to_pylist())
    unknown = [s for s in wanted if s not in splits]
    if unknown:
        raise DataError(f"propose.splits: {', '.join(unknown)} not indexed; indexed are {', '.join(sorted(splits))}")
    labels = "labels_difficult" if recipe.clues.cam.include_difficult else "labels"
    rows = [
        {"image_id": r["image_id"], "split": r["split"], "uri": r["uri"], "labels": r[labels]}
        for r in images.to_pylist()
        if not wanted or r["split"] in wanted
    ]
    return pa.Table.from_pylist(rows, schema=PLANNED)


def _actor_spec(job: Job, images: pa.Table, class_names: tuple[str, ...], sizes: ray_session.PoolSizes) -> ActorSpec:
    recipe = job.recipe
    gallery = in_hash_order(images["image_id"].to_pylist())[: recipe.report.gallery_images]
    return ActorSpec(
        instance=job.instance,
        clues=recipe.clues,
        clue_weights=_clue_weights(recipe, job.upstream),
        prompts=recipe.prompts,
        sam=recipe.sam,
        proposals=recipe.proposals,
        class_names=class_names,
        gallery=frozenset(gallery),
        threads=sizes.threads,
        device="cuda" if sizes.gpu_share else "cpu",
    )


def _clue_weights(recipe: Recipe, upstream: Mapping[str, Instance]) -> str:
    """Return where the clue network's weights are: of this run's training, or those that the recipe names."""
    if not recipe.uses_clues:
        return ""
    if recipe.clues.weights:
        return resolve_weights(recipe.clues.weights)
    return upstream[recipe.propose.classifier].file("classifier.safetensors")


def _clue_class_names(recipe: Recipe, upstream: Mapping[str, Instance]) -> tuple[str, ...]:
    """Return the classes of the clue network, for data that has none of its own."""
    if not recipe.uses_clues:
        return ()
    from weaksam.clues.loading import load_classifier
    from weaksam.io.weights import fetch_weights

    return load_classifier(fetch_weights(_clue_weights(recipe, upstream)).path).class_names


def resolve_weights(uri: str) -> str:
    """Return the weights file that ``clues.weights`` means: a file as it is, of a run folder the classifier trained there."""
    trained = current_instance(uri, "train-classifier")
    return uri if trained is None else trained.file("classifier.safetensors")


def _reads(recipe: Recipe, _name: str) -> tuple[str, ...]:
    return ("index", recipe.propose.classifier) if recipe.trains_classifier else ("index",)


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    if recipe.propose.method == "selective-search":
        return {"propose": method_of(recipe.propose), "selective_search": recipe.selective_search}
    # What weights hold is in the key through their checksums; where they lie is not.
    return {
        "propose": method_of(recipe.propose),
        "clues": replace(recipe.clues, weights="", sha256=""),
        "prompts": recipe.prompts,
        "sam": replace(recipe.sam, weights="", sha256=""),
        "proposals": recipe.proposals,
    }


def _contents(recipe: Recipe, _name: str) -> Mapping[str, Content]:
    if recipe.propose.method != "sam":
        return {}
    contents = {"sam": Content(recipe.sam, _sam_sha256)}
    if recipe.uses_clues and recipe.clues.weights:
        contents["clues"] = Content(recipe.clues, _clues_sha256)
    return contents


def _sam_sha256(config: SamConfig) -> str:
    from weaksam.io.weights import PUBLISHED
    from weaksam.sam import sam_weights

    published = PUBLISHED.get(config.name)
    known = config.sha256 or ("" if config.weights or published is None else published.sha256)
    return known or sam_weights(config).sha256


def _clues_sha256(config: CluesConfig) -> str:
    from weaksam.io.weights import fetch_weights

    return config.sha256 or fetch_weights(resolve_weights(config.weights)).sha256


STAGE = Stage(
    verb="propose",
    help="Prompt SAM with grids and clues, and write object proposals.",
    reads=_reads,
    method=_method,
    execute=execute,
    table=PROPOSALS,
    contents=_contents,
)
