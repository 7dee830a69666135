"""The retrain stage: a detector learns from pseudo ground truth, on Ray Train.

Reads the images table and a table of pseudo labels: what ``label`` made of another detector's findings, or what ``export --as
pseudo-labels`` wrote from true boxes, in which case everything downstream is marked ``supervision: boxes``. Images without
a box are left out and counted. Leaves ``detector.safetensors``, which ``detect`` reads, and its checkpoints and scalars,
among them what the loss drop dropped, under ``checkpoints/``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.engine.stage import Job, Stage
from pipelines.recipe.config import method_of
from pipelines.recipe.model import Recipe
from pipelines.stages.detect import DETECTOR_FILE
from pipelines.store.schemas import IMAGES, PSEUDO_LABELS, pseudo_labels_from_row
from pipelines.store.tables import write_bytes
from pipelines.training.fit import describe, initial_weights, train
from pipelines.training.loss_drop import dropped_shares, warn_of_dropped_positives
from weaksam.errors import DataError

if TYPE_CHECKING:
    from pipelines.stages.retrain.task import BoxedImage
    from pipelines.training.task import Progress

# Where weights lie and what the detect stage adds is not in the key.
_NOT_METHOD = ("init", "weights", "faster_rcnn", "dino", "test")
_COLUMNS = ("image_id", "boxes_xyxy", "class_index", "score", "score_normalised", "supervision")


def execute(job: Job) -> dict[str, Any]:
    """Train and write the detector; return the proof."""
    from pipelines.stages.retrain.task import RetrainTask
    from weaksam.detectors.loading import detector_to_bytes

    recipe = job.recipe
    index = job.upstream["index"].table(IMAGES)
    labels = job.upstream[recipe.retrain.learn_from].table(PSEUDO_LABELS)
    class_names = index.class_names()
    if labels.class_names() != class_names:
        raise DataError(
            f"{labels.folder}: expected pseudo labels of the classes {', '.join(class_names)}, got "
            f"{', '.join(labels.class_names())}"
        )
    uris = {row["image_id"]: row["uri"] for row in index.iter_rows(("image_id", "uri"))}
    images, left_out, supervision = choose_images(labels.iter_rows(_COLUMNS), uris, recipe)
    task = RetrainTask(
        config=recipe.retrain, num_classes=len(class_names), images=images, cache_mib=recipe.resources.cache_mib
    )
    used = {image.image_id: image.uri for image in images}
    warn = warn_of_dropped_positives(job.console)

    def watch(row: Progress) -> None:
        warn(row)
        if job.options.look is not None:
            job.options.look(job, task, row)

    result, summary = train(job, task, used, left_out, watch=watch)
    detector = task.build_model()
    detector.load_state_dict(result.model)
    thresholds = {name: value for name, value in detector.chosen_thresholds().items() if math.isfinite(value)}
    detector.loss_history = None
    write_bytes(job.instance.file(DETECTOR_FILE), detector_to_bytes(detector, class_names, supervision))
    shares = dropped_shares(result.scalars)
    dropped = "".join(f" · dropped {share:.1%} of {what}" for what, share in shares.items() if share)
    chosen = "".join(f" · chosen {name} {value:.3g}" for name, value in thresholds.items())
    return {
        **summary,
        "text": f"{summary['text']}{chosen}{dropped} · supervision: {supervision}",
        "left_out": left_out,
        "supervision": supervision,
        "loss_drop": shares,
        "thresholds": thresholds,
    }


def choose_images(
    rows: Iterable[dict[str, Any]], uris: Mapping[str, str], recipe: Recipe
) -> tuple[tuple[BoxedImage, ...], dict[str, int], str]:
    """Choose what to learn from.

    Args:
        rows: of a pseudo labels table.
        uris: image id -> where it is, in an order that does not change.
        recipe: ``retrain.min_box_side`` is read.

    Returns:
        the training images, each with a box or more; how many others were left out, by reason; what the boxes are owed to.

    Raises:
        DataError: no image is left, or some boxes are owed to image labels and others to true boxes.
    """
    from pipelines.stages.retrain.task import BoxedImage
    from weaksam.detectors.retrained.samples import learnable

    images: dict[str, BoxedImage] = {}
    left_out = {"not indexed": 0, "without boxes": 0}
    supervisions: set[str] = set()
    for row in rows:
        truth = learnable(pseudo_labels_from_row(row), recipe.retrain.min_box_side)
        if row["image_id"] not in uris:
            left_out["not indexed"] += 1
        elif not len(truth):
            left_out["without boxes"] += 1
        else:
            supervisions.add(row["supervision"])
            images[row["image_id"]] = BoxedImage(row["image_id"], uris[row["image_id"]], truth)
    left_out = {reason: count for reason, count in left_out.items() if count}
    if len(supervisions) != 1:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "the table is empty"
        found = f"those of {' and of '.join(sorted(supervisions))}" if supervisions else f"none ({why})"
        raise DataError(f"retrain.learn_from: expected images with boxes of one supervision, got {found}")
    # In the order of the index: that of the rows follows the names of their files, which differ from run to run.
    return tuple(images[image_id] for image_id in uris if image_id in images), left_out, supervisions.pop()


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    config = recipe.retrain
    return {
        "retrain": method_of(config, _NOT_METHOD),
        config.detector: config.of_detector,
    }


STAGE = Stage(
    verb="retrain",
    help="Train a detector, such as Faster R-CNN or DINO, on pseudo ground truth; losses that look like noise are dropped.",
    reads=lambda recipe, _name: ("index", recipe.retrain.learn_from),
    method=_method,
    execute=execute,
    contents=lambda recipe, _name: initial_weights(recipe.retrain.init),
    describe=lambda recipe: describe(recipe.retrain),
)
