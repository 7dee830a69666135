"""The propose stage: images in, object proposals out, on Ray Data.

    index ─► fetch and validate (CPU tasks) ─► PromptActor pool ─► SegmentActor pool ─► Parquet

Resume is subtraction: what the index asks for, minus what the table holds, minus what was dropped. A first pass goes over all
that is left; images that are neither done nor dropped afterwards (a process died over their task) are tried again one per
task, and one that kills its process again is dropped as "process died".
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipelines import cluster
from pipelines.actors import TODO, ActorSpec, PromptActor, SegmentActor, fetch, write_dropped
from pipelines.index import in_hash_order
from pipelines.progress import rows_progress
from pipelines.recipe import Recipe
from pipelines.runs import Instance, prove
from pipelines.schemas import IMAGES, PROPOSALS, with_class_names
from pipelines.stage import Job, Stage
from pipelines.store import Table
from weaksam.config import SAM_INPUT_SIDE
from weaksam.errors import DataError

logger = logging.getLogger(__name__)

_DEATHS_PER_TASK = 2  # restarts granted to a task whose process dies before its images are tried one by one


def execute(job: Job) -> dict[str, Any]:
    """Propose for every indexed image of the chosen splits; return the proof and what the actors were."""
    recipe, instance = job.recipe, job.instance
    index = job.upstream["index"].table(IMAGES)
    images = _planned(index.read(), recipe)
    schema = with_class_names(PROPOSALS, index.class_names())
    table = instance.table(schema)
    table.remove_torn()
    instance.dropped.remove_torn()
    if job.options.retry_dropped:
        _forget_dropped(instance)

    cluster.connect(recipe.resources, job.options.address)
    sizes = _sizes(recipe, images.num_rows)
    spec = _actor_spec(job, images, index.class_names(), sizes)
    started, before = time.time(), table.count()
    todo = _todo(images, table, instance.dropped)
    with rows_progress(job.console, table, total=images.num_rows, label="propose"):
        if todo.num_rows:
            job.console.print(f"  {todo.num_rows:,} of {images.num_rows:,} images to do; {sizes.describe()}")
            _run_ray(todo, spec, schema, sizes)
        todo = _todo(images, table, instance.dropped)
        if todo.num_rows:
            job.console.print(f"  {todo.num_rows:,} image(s) left over by tasks whose process died: one per task now")
            _run_ray(todo, spec, schema, replace(sizes, rows_per_task=1), deaths=0)
            dead = _todo(images, table, instance.dropped).to_pylist()
            write_dropped(
                instance, [{**row, "reason": "process died", "detail": "twice, the second time alone"} for row in dead]
            )
    seconds = time.time() - started
    proof = prove(images["image_id"].to_pylist(), table, instance.dropped)
    new = table.count() - before
    return {
        "text": proof.pop("text"),
        "images": proof,
        "throughput": {"images": new, "seconds": round(seconds, 2), "images_per_s": round(new / max(seconds, 1e-9), 2)},
        "actors": sizes.describe(),
        "gallery": sorted(spec.gallery),
    }


def _planned(images: pa.Table, recipe: Recipe) -> pa.Table:
    """Return the indexed images to work on as TODO rows, their labels being those that gating may use."""
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
    return pa.Table.from_pylist(rows, schema=TODO)


def _todo(images: pa.Table, table: Table, dropped: Table) -> pa.Table:
    finished = set(table.ids()) | set(dropped.ids())
    return images.filter(pa.array([i not in finished for i in images["image_id"].to_pylist()], pa.bool_()))


def _forget_dropped(instance: Instance) -> None:
    from weaksam.files import open_fs

    fs, _ = open_fs(instance.folder)
    for path in instance.dropped.parts():
        fs.rm_file(path)


def _sizes(recipe: Recipe, images: int) -> cluster.PoolSizes:
    import ray

    resources = ray.cluster_resources()
    with_clues = recipe.clues.name != "none"
    return cluster.pool_sizes(
        recipe.resources, images, with_clues, int(resources.get("CPU", 1)), resources.get("GPU", 0.0)
    )


def _actor_spec(job: Job, images: pa.Table, class_names: tuple[str, ...], sizes: cluster.PoolSizes) -> ActorSpec:
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


def _run_ray(
    todo: pa.Table, spec: ActorSpec, schema: pa.Schema, sizes: cluster.PoolSizes, deaths: int = _DEATHS_PER_TASK
) -> None:
    """Run the four operators over ``todo``. A task whose process dies more often than ``deaths`` leaves its rows undone."""
    import ray
    from ray.data.datasource import FilenameProvider

    class PartNames(FilenameProvider):  # type: ignore[misc]
        def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
            return f"part-{write_uuid}-{task_index:06}.parquet"

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # one block per task: a replayed task of several can lose or double rows
    context.max_errored_blocks = -1  # lost blocks are found by subtraction and tried again one image per task
    context.execution_options.preserve_order = False

    def actors(count: int) -> dict[str, Any]:
        return {
            "batch_format": "pyarrow",
            "batch_size": sizes.rows_per_task,
            "compute": ray.data.ActorPoolStrategy(size=count),
            "num_cpus": sizes.cpu_share,
            "num_gpus": sizes.gpu_share or None,
            "runtime_env": {"env_vars": cluster.KEEP_HEAP_ENV},
            "max_restarts": -1,
            "max_task_retries": deaths,
        }

    # max_restarts and max_task_retries have no named place yet; this is the only deprecation silenced.
    warnings.filterwarnings("ignore", message=".*`ray_remote_args` is deprecated.*")
    dataset = ray.data.from_arrow(todo).repartition(target_num_rows_per_block=sizes.rows_per_task)
    dataset = dataset.map_batches(
        fetch,
        batch_format="pyarrow",
        batch_size=sizes.rows_per_task,
        num_cpus=0.25,
        fn_kwargs={"longest_side": SAM_INPUT_SIDE[spec.sam.name]},
    )
    if sizes.prompt_actors:
        dataset = dataset.map_batches(PromptActor, fn_constructor_kwargs={"spec": spec}, **actors(sizes.prompt_actors))
    dataset = dataset.map_batches(
        SegmentActor, fn_constructor_kwargs={"spec": spec, "schema": schema}, **actors(sizes.segment_actors)
    )
    dataset.write_parquet(
        spec.instance.folder,
        filename_provider=PartNames(),
        mode="append",
        compression="zstd",
        ray_remote_args={"num_cpus": 0.25},
    )


def _clue_weights(recipe: Recipe, upstream: Mapping[str, Instance]) -> str:
    """Return where the clue network's weights are: of this run's training, or those that the recipe names."""
    if recipe.clues.name == "none":
        return ""
    if recipe.clues.weights:
        return resolve_weights(recipe.clues.weights)
    return upstream["train-classifier"].file("classifier.safetensors")


def resolve_weights(uri: str) -> str:
    """Return the weights file that ``clues.weights`` means: a file as it is, of a run folder the classifier trained there."""
    from pipelines.runs import current_instance

    trained = current_instance(uri, "train-classifier")
    return uri if trained is None else trained.file("classifier.safetensors")


def _reads(recipe: Recipe, _name: str) -> tuple[str, ...]:
    trains = recipe.clues.name != "none" and not recipe.clues.weights
    return ("index", "train-classifier") if trains else ("index",)


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    return {
        "propose": recipe.propose,
        "clues": recipe.clues,
        "prompts": recipe.prompts,
        "sam": recipe.sam,
        "proposals": recipe.proposals,
    }


def _fingerprints(recipe: Recipe) -> Mapping[str, str]:
    """Return the checksums of the weights that come from outside the run."""
    from weaksam.weights import PUBLISHED, fetch_weights, sam_weights

    published = PUBLISHED.get(recipe.sam.name)
    known = recipe.sam.sha256 or ("" if recipe.sam.weights or published is None else published.sha256)
    prints = {"sam": known or sam_weights(recipe.sam).sha256}
    if recipe.clues.name != "none" and recipe.clues.weights:
        uri = resolve_weights(recipe.clues.weights)
        prints["clues"] = recipe.clues.sha256 or fetch_weights(uri).sha256
    return prints


STAGE = Stage(
    verb="propose",
    help="prompt SAM with grids and clues, and write object proposals",
    reads=_reads,
    method=_method,
    execute=execute,
    fingerprints=_fingerprints,
)
