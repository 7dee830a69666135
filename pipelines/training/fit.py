"""What the training stages share: resources for the machine, progress for people, images that drop out, the proof.

A stage supplies a ``TrainingTask``; ``loop`` does the steps. Checkpoints, scalars and TensorBoard's events go to
``checkpoints/`` of the instance, where ``tensorboard --logdir RUN`` finds the curves of all trainings of a run
(``pip install tensorboard``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipelines.engine import ray_session
from pipelines.engine.nodes import Node, nodes
from pipelines.engine.reach import Reach, reach
from pipelines.engine.stage import Job
from pipelines.engine.voice import Step
from pipelines.products.rows import Throughput
from pipelines.recipe.config import ResourcesConfig
from pipelines.store.dropped import write_dropped
from pipelines.store.numbers import loss_figure
from pipelines.store.proof import Proof
from pipelines.training.images import told
from pipelines.training.trained import Steps, TrainingFacts, checkpoints_uri
from weaksam.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from pipelines.training.task import Progress, TrainingPlan, TrainingResources, TrainingResult, TrainingTask

MOST_THREADS = 16  # of one worker; small networks gain nothing from more


class HasResources(Protocol):
    """The options of a stage that trains."""

    @property
    def resources(self) -> ResourcesConfig:
        """How much of the machine or cluster it takes."""


class Fitted(NamedTuple):
    """What came of a training."""

    model: nn.Module  # with its last weights, or with the best where they are judged; on the CPU
    result: TrainingResult
    facts: TrainingFacts


def fit(
    job: Job[HasResources],
    task: TrainingTask,
    *,
    left_out: Mapping[str, int],
    watch: Callable[[Progress], None] = lambda _row: None,
) -> Fitted:
    """Train a task to its end, continuing where an earlier run stopped.

    Args:
        job: its instance gets the checkpoints and, for images that could not be used, rows of ``_dropped``.
        task: what to train.
        left_out: reason -> images of the split that are not learnt from.
        watch: called for every row of the scalars.
    """
    from pipelines.training.loop import run_training

    plan = task.plan
    others = f", {told(left_out)} left out" if left_out else ""
    job.voice.say(f"  {plan.images:,} images{others}; {plan.steps:,} steps of {plan.batch_size}")
    with job.voice.steps(job.instance.name) as show:

        def progress(row: Progress) -> None:
            means = {"loss": row.loss, "images_per_s": row.images_per_s}
            show(Step(done=row.step, planned=row.steps, left_s=row.eta_s, **means))
            watch(row)
            if job.on_scalars is not None:
                job.on_scalars(job, task, row)

        result = run_training(
            task,
            storage_uri=checkpoints_uri(job.instance),
            run_name=job.instance.key,
            resources=lambda: _find_room(job, plan),
            progress=progress,
            say=job.voice.say,
        )
    if result.images_per_pass and not job.options.resources.images_per_pass:
        job.voice.say(f"  {result.images_per_pass} image(s) in a pass of a worker, for which its memory has room")
    model = task.build_model()
    model.load_state_dict(result.model if result.best is None else result.best["model"])
    return Fitted(model, result, _facts(result, _drop_skipped(job, task, result), left_out))


def _find_room(job: Job[HasResources], plan: TrainingPlan) -> TrainingResources:
    """Connect to Ray, wait until something of it can be taken, and choose what; say so."""
    asked = job.options.resources
    ray_session.connect(asked, job.asked.address)
    # Workers of a training are no actors, and are waited for one by one when they begin.
    reached = reach(replace(asked, least_actors=0), job.voice)
    resources = choose_resources(asked, plan.batch_size, reached, [] if asked.here else nodes())
    each = "one GPU" if resources.use_gpu else f"{resources.threads} thread(s)"
    workers = f"{_counted(resources)} worker(s)" if resources.workers else "in this process"
    job.voice.say(f"  {workers}, {each}{' each' if resources.workers else ''}")
    return resources


def _facts(result: TrainingResult, proof: Proof, left_out: Mapping[str, int]) -> TrainingFacts:
    rates = [row.images_per_s for row in result.scalars]
    return TrainingFacts(
        text=f"{result.text} · loss {loss_figure(result.scalars[-1].loss)}",
        images=proof,
        steps=Steps(planned=result.steps_planned, done=result.steps_done, resumed_at=result.resumed_at),
        throughput=Throughput(images_per_s=round(sum(rates) / len(rates), 2), seconds=round(result.seconds, 2)),
        images_per_pass=result.images_per_pass or None,
        gpu_memory_mib=None if result.gpu_memory_mib is None else round(result.gpu_memory_mib, 1),
        left_out=dict(left_out),
    )


class Length(Protocol):
    """How long a network is trained, and on which backbone."""

    @property
    def backbone(self) -> str:
        """Its name."""

    @property
    def steps(self) -> int:
        """Of the optimiser; 0 where epochs decide."""

    @property
    def epochs(self) -> int:
        """Passes over the images."""

    @property
    def batch_size(self) -> int:
        """Images of a step."""


def describe(network: str, config: Length) -> str:
    """Say in a line what the training of a network would do, for ``--dry-run``."""
    length = f"{config.steps:,} steps" if config.steps else f"{config.epochs} epochs"
    return f"{network} on {config.backbone}, {length} in batches of {config.batch_size}"


def choose_resources(
    config: ResourcesConfig, batch_size: int, reached: Reach, found: Sequence[Node]
) -> TrainingResources:
    """Choose the sizes that the recipe leaves open (0) for a machine or cluster.

    On GPUs there is one worker on each, as many as share the batch evenly, and the CPUs beside its GPU load images. Without a
    GPU one worker takes all CPUs of a node: convolutions use threads better than a second copy of the network does. With
    ``here`` the driver trains.

    Raises:
        ConfigError: no number of workers that the recipe allows divides the batch.
    """
    from pipelines.training.room import cpus_each
    from pipelines.training.task import TrainingResources, number_of_workers

    least = config.train_workers or config.least_train_workers or 1
    most = config.train_workers or config.most_train_workers or max(reached.gpus, least)
    workers = number_of_workers(batch_size, least, most)
    if not workers:
        raise ConfigError(
            f"resources.{'train_workers' if config.train_workers else 'least_train_workers'}: expected a number of workers "
            f"that divides the batch of {batch_size}, got {least if least == most else f'{least} to {most}'}"
        )
    on_gpus = reached.gpus > 0
    # Nodes that are still to come bring the CPUs beside their GPUs.
    own = MOST_THREADS if on_gpus and not config.cpus and not config.here else reached.cpus // workers
    threads = max(1, min(own, MOST_THREADS))
    cpus = threads if config.here else cpus_each(found, workers, threads, use_gpu=on_gpus)
    cpus = cpus if cpus or on_gpus else threads
    return TrainingResources(
        workers=0 if config.here else workers,
        least_workers=0 if config.here else min(least, workers),
        use_gpu=on_gpus,
        threads=max(1, cpus),
        cpus=cpus,
        images_per_pass=config.images_per_pass,
        loader_processes=config.loader_workers or None,
        wait_s=config.wait_for_workers,
    )


def _counted(resources: TrainingResources) -> str:
    few, many = resources.least, resources.workers
    return f"{many}" if few == many else f"{few} to {many}"


def _drop_skipped(job: Job[Any], task: TrainingTask, result: TrainingResult) -> Proof:
    """Write the images that could not be used into ``_dropped`` and prove that every image was done or dropped."""
    uris = {image.image_id: image.uri for image in task.images}
    planned = job.instance.planned_rows()
    inputs = dict(zip(planned["image_id"].to_pylist(), planned["input"].to_pylist(), strict=True))
    rows = [
        {
            "image_id": skipped.image_id,
            "input": inputs[skipped.image_id],
            "uri": uris[skipped.image_id],
            "reason": skipped.reason,
            "detail": skipped.detail,
        }
        for skipped in {skipped.image_id: skipped for skipped in result.skipped}.values()
    ]
    write_dropped(job.instance, rows)
    return Proof(images=len(uris), done=len(uris) - len(rows), dropped=len(rows))
