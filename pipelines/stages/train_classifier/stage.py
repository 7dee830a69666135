"""The train-classifier stage: a clue network learns image-level labels, on Ray Train.

Reads the images table and learns from the one split that labels are granted to; images with unknown labels are left out and
counted, unreadable ones are dropped with a reason while training goes on. Leaves ``classifier.safetensors``,
which ``propose`` (of this run or another) reads, and its checkpoints and scalars under ``checkpoints/``, where
``tensorboard --logdir RUN`` finds the curves of all trainings of a run (``pip install tensorboard``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from pipelines.engine.stage import Content, Job, Stage
from pipelines.recipe.model import Recipe
from pipelines.stages.index import in_hash_order
from pipelines.store.numbers import known
from pipelines.store.schemas import IMAGES
from pipelines.store.tables import write_bytes, write_json
from pipelines.training.fit import granted_split, initial_weights, train
from weaksam.errors import DataError

if TYPE_CHECKING:
    from pipelines.stages.train_classifier.task import LabelledImage

WEIGHTS_FILE = "classifier.safetensors"
METRICS_FILE = "metrics.json"
SCORED_TRAINING_IMAGES = 500  # that the training mAP is measured on, first in hash order
HELD_OUT_DIVISOR = 10  # select: best-map judges by one training image in ten


def execute(job: Job) -> dict[str, Any]:
    """Train, write the classifier and its scores; return the proof."""
    from pipelines.stages.train_classifier.task import ClassifierTask, score_classifier
    from weaksam.clues.loading import classifier_to_bytes

    recipe, instance = job.recipe, job.instance
    table = job.upstream["index"].table(IMAGES)
    class_names = table.class_names()
    training, validation, unknown = choose_images(table.read().to_pylist(), recipe, granted_split(job))
    task = ClassifierTask(
        name=recipe.clues.name,
        config=recipe.classifier,
        num_classes=len(class_names),
        images=training,
        validation=validation,
        cache_mib=recipe.resources.cache_mib,
    )
    by_id = {image.image_id: image for image in training}
    left_out = {"with unknown labels": unknown} if unknown else {}
    result, summary = train(job, task, {image_id: image.uri for image_id, image in by_id.items()}, left_out)

    network = task.build_model()
    network.load_state_dict(result.model if result.best is None else result.best["model"])
    write_bytes(instance.file(WEIGHTS_FILE), classifier_to_bytes(network, class_names))
    scored = [by_id[i] for i in in_hash_order(list(by_id))[:SCORED_TRAINING_IMAGES]]
    scores = score_classifier(network, scored, recipe.classifier.crop_size)
    metrics = {
        "class_names": list(class_names),
        "training_loss": result.scalars[-1].loss,
        "training_map": known(scores.mean_ap),
        "training_map_per_image": known(scores.mean_ap_per_image),
        "training_map_images": scores.images,
        "training_ap": {n: known(float(ap)) for n, ap in zip(class_names, scores.per_class, strict=True)},
        "best": result.best and {"step": result.best["step"], "validation_map": result.best["score"]},
    }
    write_json(instance.file(METRICS_FILE), metrics)
    judged = f" · best mAP {result.best['score']:.3f} at step {result.best['step']:,}" if result.best else ""
    text = f"{summary['text']} · training mAP {scores.mean_ap:.3f}{judged}"
    return {**summary, "text": text, "unknown_labels": unknown, "metrics": metrics}


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
    from pipelines.stages.train_classifier.task import LabelledImage

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


def _contents(recipe: Recipe, _name: str) -> Mapping[str, Content]:
    config = recipe.classifier
    return initial_weights(config.resnet_cam.pretrained if recipe.clues.name == "resnet_cam" else config.init)


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
    help="Train the classifier whose activation maps are the clues, on image-level labels.",
    reads=lambda _recipe, _name: ("index",),
    method=_method,
    execute=execute,
    contents=_contents,
    describe=lambda recipe: f"{recipe.classifier.epochs} epochs in batches of {recipe.classifier.batch_size}",
)
