"""The train-classifier stage: a clue network learns image-level labels, on Ray Train.

Reads the images table and learns from the one split that labels are granted to; images with unknown labels are left out and
counted, unreadable ones are dropped with a reason while training goes on. Leaves ``classifier.safetensors``,
which ``propose`` (of this run or another) reads, and its checkpoints and scalars under ``checkpoints/``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from pipelines import cluster
from pipelines.config import ResourcesConfig
from pipelines.index import in_hash_order
from pipelines.recipe import Recipe
from pipelines.schemas import IMAGES
from pipelines.stage import Job, Stage
from pipelines.store import write_bytes, write_json
from weaksam.errors import DataError

if TYPE_CHECKING:
    from pipelines.classifier_task import LabelledImage
    from pipelines.training import Progress, TrainingResources, TrainingResult

WEIGHTS_FILE = "classifier.safetensors"
METRICS_FILE = "metrics.json"
SCORED_TRAINING_IMAGES = 500  # that the training mAP is measured on, first in hash order
HELD_OUT_DIVISOR = 10  # select: best-map judges by one training image in ten
MOST_THREADS = 16  # of one worker; small networks gain nothing from more
_LINE_S = 15.0  # one plain line this often where there is no terminal


def execute(job: Job) -> dict[str, Any]:
    """Train, write the classifier and its scores; return the proof."""
    from pipelines.classifier_task import ClassifierTask, score_classifier
    from pipelines.worker_loop import run_training
    from weaksam.clues import classifier_to_bytes

    recipe, instance = job.recipe, job.instance
    table = job.upstream["index"].table(IMAGES)
    class_names = table.class_names()
    training, validation, unknown = choose_images(table.read().to_pylist(), recipe, _granted_split(job))
    task = ClassifierTask(
        name=recipe.clues.name,
        config=recipe.classifier,
        num_classes=len(class_names),
        images=training,
        validation=validation,
        cache_mib=recipe.resources.cache_mib,
    )
    cluster.connect(recipe.resources, job.options.address)
    cpus, gpus = cluster.connected_size()
    resources = choose_resources(recipe.resources, task.plan.batch_size, cpus, gpus)
    left_out = f", {unknown:,} with unknown labels left out" if unknown else ""
    job.console.print(
        f"  {len(training):,} images{left_out}; {task.plan.steps:,} steps of {task.plan.batch_size}; "
        f"{resources.workers} worker(s), {'one GPU' if resources.use_gpu else f'{resources.threads} thread(s)'} each"
    )
    with training_progress(job.console, instance.name) as progress:
        result = run_training(
            task,
            storage_uri=instance.file("checkpoints"),
            run_name=instance.key,
            resources=resources,
            progress=progress,
        )

    network = task.build_model()
    network.load_state_dict(result.model if result.best is None else result.best["model"])
    write_bytes(instance.file(WEIGHTS_FILE), classifier_to_bytes(network, class_names))
    proof = _write_dropped(job, training, result)
    by_id = {image.image_id: image for image in training}
    scored = [by_id[i] for i in in_hash_order(list(by_id))[:SCORED_TRAINING_IMAGES]]
    scores = score_classifier(network, scored, recipe.classifier.crop_size)
    metrics = {
        "class_names": list(class_names),
        "training_loss": result.scalars[-1].loss,
        "training_map": _known(scores.mean_ap),
        "training_map_per_image": _known(scores.mean_ap_per_image),
        "training_map_images": scores.images,
        "training_ap": {n: _known(float(ap)) for n, ap in zip(class_names, scores.per_class, strict=True)},
        "best": result.best and {"step": result.best["step"], "validation_map": result.best["score"]},
    }
    write_json(instance.file(METRICS_FILE), metrics)
    judged = f" · best mAP {result.best['score']:.3f} at step {result.best['step']:,}" if result.best else ""
    return {
        "text": f"{result.text} · loss {result.scalars[-1].loss:.3f} · training mAP {scores.mean_ap:.3f}{judged}",
        "steps": {"planned": result.steps_planned, "done": result.steps_done, "resumed_at": result.resumed_at},
        "images": proof,
        "unknown_labels": unknown,
        "throughput": {
            "images_per_s": round(sum(r.images_per_s for r in result.scalars) / len(result.scalars), 2),
            "seconds": round(result.seconds, 2),
        },
        "metrics": metrics,
    }


def choose_images(
    rows: Sequence[Mapping[str, Any]], recipe: Recipe, split: str
) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...], int]:
    """Choose what to learn from and what to be judged by.

    Args:
        rows: of the images table.
        recipe: says whether labels count difficult objects, and how weights are selected.
        split: the one that labels are granted to.

    Returns:
        training images; held-out images, none unless weights are selected by them; images with unknown labels.

    Raises:
        DataError: no image has labels, or too few to hold some out.
    """
    from pipelines.classifier_task import LabelledImage

    column = "labels_difficult" if recipe.data.include_difficult else "labels"
    mine = [row for row in rows if row["split"] == split]
    known = {
        row["image_id"]: LabelledImage(row["image_id"], row["uri"], tuple(row[column]))
        for row in mine
        if row[column] is not None
    }
    held_out = set[str]()
    if recipe.classifier.select == "best-map":
        held_out = set(in_hash_order(list(known))[: len(known) // HELD_OUT_DIVISOR])
        if known and not held_out:
            raise DataError(
                f"{recipe.data.uri}: classifier.select: best-map holds out one image in {HELD_OUT_DIVISOR}, but only "
                f"{len(known)} have labels; use select: last"
            )
    if not known:
        raise DataError(
            f"{recipe.data.uri}: no image has labels to learn from (labels are granted to split {split!r}); label the images, "
            "or give clues.weights of a classifier trained elsewhere"
        )
    training = tuple(image for image_id, image in known.items() if image_id not in held_out)
    judging = tuple(image for image_id, image in known.items() if image_id in held_out)
    return training, judging, len(mine) - len(known)


def choose_resources(config: ResourcesConfig, batch_size: int, cpus: int, gpus: int) -> TrainingResources:
    """Choose the sizes that the recipe leaves open (0) for a cluster of ``cpus`` and ``gpus``.

    On GPUs there is one worker on each, as many as share the batch evenly, and its CPUs load images. Without a GPU one worker
    takes all CPUs: convolutions use threads better than a second copy of the network does.
    """
    from pipelines.training import TrainingResources

    workers = config.train_workers
    if not workers:
        workers = max(n for n in range(1, max(gpus, 1) + 1) if batch_size % n == 0)
    threads = max(1, min(cpus // workers, MOST_THREADS))
    return TrainingResources(
        workers=workers,
        use_gpu=gpus >= workers,
        threads=threads,
        images_per_pass=config.images_per_pass,
        loader_processes=config.loader_workers or (threads - 1 if gpus >= workers else 0),
    )


@contextmanager
def training_progress(console: Console, label: str) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows rows of the scalars: a bar on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        last = time.monotonic()

        def line(row: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_S:
                last = time.monotonic()
                console.print(f"  {label} step {row.step:,}/{row.steps:,} {_figures(row)}")

        yield line
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with ProgressBar(*columns, console=console) as bar:
        shown = bar.add_task(label, total=None, figures="starting workers")
        yield lambda row: bar.update(shown, total=row.steps, completed=row.step, figures=_figures(row))


def _figures(row: Progress) -> str:
    minutes, seconds = divmod(round(row.eta_s), 60)
    return f"loss {row.loss:.3f} {row.images_per_s:.0f} img/s, {minutes}:{seconds:02} left"


def _write_dropped(job: Job, images: Sequence[LabelledImage], result: TrainingResult) -> dict[str, Any]:
    """Write the images that could not be used into ``_dropped`` and return the proof that every image was done or dropped."""
    by_id = {image.image_id: image for image in images}
    split = _granted_split(job)
    rows = [
        {
            "image_id": skipped.image_id,
            "split": split,
            "stage": job.instance.name,
            "uri": by_id[skipped.image_id].uri,
            "reason": skipped.reason,
            "detail": skipped.detail,
        }
        for skipped in {skipped.image_id: skipped for skipped in result.skipped}.values()
    ]
    job.instance.dropped.write_rows(rows, "part-0")
    return {"images": len(images), "done": len(images) - len(rows), "dropped": len(rows), "duplicates": 0}


def _granted_split(job: Job) -> str:
    manifest = job.upstream["index"].manifest()
    assert manifest is not None  # an upstream instance is finished
    return str(manifest["labels_granted_to"])


def _known(value: float) -> float | None:
    """Return a number as JSON holds it: null for NaN."""
    return None if math.isnan(value) else value


def _fingerprints(recipe: Recipe) -> Mapping[str, str]:
    """Return the checksum of the weights that the network starts from."""
    from weaksam.weights import BUILTIN_STEM, fetch_weights, file_sha256

    config = recipe.classifier
    init = config.resnet_cam.pretrained if recipe.clues.name == "resnet_cam" else config.init
    if not init:
        return {}
    return {"init": file_sha256(BUILTIN_STEM) if init == "builtin" else fetch_weights(init).sha256}


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    # Where initial weights lie is not in the key; what they hold is, through their checksum.
    network = getattr(recipe.classifier, recipe.clues.name)
    return {
        "name": recipe.clues.name,
        "network": replace(network, pretrained="") if recipe.clues.name == "resnet_cam" else network,
        "classifier": {
            f.name: getattr(recipe.classifier, f.name)
            for f in fields(recipe.classifier)
            if f.name not in ("weaktr", "resnet_cam", "init")
        },
        "include_difficult": recipe.data.include_difficult,
    }


STAGE = Stage(
    verb="train-classifier",
    help="train the clue network on image-level labels",
    reads=lambda _recipe, _name: ("index",),
    method=_method,
    execute=execute,
    fingerprints=_fingerprints,
    describe=lambda recipe: f"{recipe.classifier.epochs} epochs in batches of {recipe.classifier.batch_size}",
)
