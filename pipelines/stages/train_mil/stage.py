"""The train-mil stage: a weakly-supervised detector learns from proposals and image-level labels, on Ray Train.

Reads the images table and the proposals; learns from the one split that labels are granted to. Images with unknown labels,
with none of the classes, or without proposals are left out and counted. Leaves ``detector.safetensors``, which ``detect``
reads, and its checkpoints and scalars under ``checkpoints/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.engine.stage import Job, Stage
from pipelines.recipe.config import method_of
from pipelines.recipe.model import Recipe
from pipelines.stages.detect import DETECTOR_FILE
from pipelines.store.schemas import IMAGES, PROPOSALS
from pipelines.store.tables import write_bytes
from pipelines.training.fit import describe, granted_split, initial_weights, train
from weaksam.errors import DataError

if TYPE_CHECKING:
    from pipelines.stages.train_mil.task import WeakImage

REVISION = 2  # raise it when the same settings train another detector: keys contain it, so that older ones are not taken for it
# Where weights lie and what the detect stage adds is not in the key.
_NOT_METHOD = ("init", "weights", "oicr", "mist")


def execute(job: Job) -> dict[str, Any]:
    """Train and write the detector; return the proof."""
    from pipelines.stages.train_mil.task import MilTask
    from weaksam.detectors.loading import detector_to_bytes

    recipe = job.recipe
    index, proposals = job.upstream["index"].table(IMAGES), job.upstream[recipe.mil.proposals].table(PROPOSALS)
    class_names = index.class_names()
    images, left_out = choose_images(index.read().to_pylist(), set(proposals.ids()), recipe, granted_split(job))
    task = MilTask(
        config=recipe.mil,
        num_classes=len(class_names),
        images=images,
        proposals=proposals,
        cache_mib=recipe.resources.cache_mib,
    )
    result, summary = train(job, task, {image.image_id: image.uri for image in images}, left_out)
    detector = task.build_model()
    detector.load_state_dict(result.model)
    write_bytes(job.instance.file(DETECTOR_FILE), detector_to_bytes(detector, class_names))
    return {**summary, "left_out": left_out}


def choose_images(
    rows: Sequence[Mapping[str, Any]], proposed: set[str], recipe: Recipe, split: str
) -> tuple[tuple[WeakImage, ...], dict[str, int]]:
    """Choose what to learn from.

    Args:
        rows: of the images table.
        proposed: ids of the images that have a row of proposals.
        recipe: says whether labels count difficult objects.
        split: the one that labels are granted to.

    Returns:
        the training images, and how many others of the split were left out, by reason.

    Raises:
        DataError: no image is left.
    """
    from pipelines.stages.train_mil.task import WeakImage

    column = "labels_difficult" if recipe.data.include_difficult else "labels"
    images: list[WeakImage] = []
    left_out = {"with unknown labels": 0, "without any class": 0, "without proposals": 0}
    for row in rows:
        if row["split"] != split:
            continue
        if row[column] is None:
            left_out["with unknown labels"] += 1
        elif not row[column]:
            left_out["without any class"] += 1
        elif row["image_id"] not in proposed:
            left_out["without proposals"] += 1
        else:
            images.append(WeakImage(row["image_id"], row["uri"], tuple(row[column])))
    left_out = {reason: count for reason, count in left_out.items() if count}
    if not images:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "the split is empty"
        raise DataError(
            f"{recipe.data.uri}: no image to learn from (labels are granted to split {split!r}): {why}; label the images and "
            "propose for their split, or give mil.weights of a detector trained elsewhere"
        )
    return tuple(images), left_out


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    config = recipe.mil
    return {
        "revision": REVISION,
        "mil": method_of(config, _NOT_METHOD),
        config.detector: getattr(config, config.detector),
        "include_difficult": recipe.data.include_difficult,
    }


STAGE = Stage(
    verb="train-mil",
    help="Train a weakly-supervised detector, such as MIST or OICR, on proposals and image-level labels.",
    reads=lambda recipe, _name: ("index", recipe.mil.proposals),
    method=_method,
    execute=execute,
    contents=lambda recipe, _name: initial_weights(recipe.mil.init),
    describe=lambda recipe: describe(recipe.mil),
)
