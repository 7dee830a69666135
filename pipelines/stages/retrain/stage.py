"""The retrain stage: a detector learns from pseudo ground truth, on Ray Train.

Reads the images table and a table of pseudo labels: what ``label`` made of another detector's findings, or masks that
``segment`` made of these; or ``true-boxes``, ``true-masks`` and what ``import-masks`` read, in which case everything downstream
is marked with their ``supervision``. Images without a box are left out and counted. Leaves ``detector.safetensors``, which
``detect`` reads, and its checkpoints and scalars, among them what the loss drop dropped, under ``checkpoints/``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.index import Index, Picture
from pipelines.products.pseudo_labels import PseudoLabelledImage, PseudoLabelTable, PseudoMaskTable
from pipelines.recipe.config import ResourcesConfig, RetrainStageConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.registry import stage_of
from pipelines.store.planned import CONTENT
from pipelines.training.fit import describe, fit
from pipelines.training.images import counted, told
from pipelines.training.loss_drop import dropped_shares, warn_of_dropped_positives
from pipelines.training.trained import Trained, TrainingFacts
from weaksam.config import require
from weaksam.config.weights import NotInKey
from weaksam.errors import DataError

if TYPE_CHECKING:
    from pipelines.stages.retrain.task import BoxedImage


@dataclass(frozen=True, kw_only=True)
class RetrainFacts(TrainingFacts):
    """What ``retrain`` says of its training."""

    loss_drop: dict[str, float] = field(default_factory=dict)  # of what -> the fraction that was dropped
    thresholds: dict[str, float] = field(default_factory=dict)  # of the drop, where the training chose them


class TrainedDetector(Trained):
    """The product of ``retrain``: a detector that finds its boxes alone."""

    facts_type = RetrainFacts


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """Which detector learns from which pseudo labels, and how."""

    index: Input = INDEX
    learn_from: Input
    retrain: RetrainStageConfig
    resources: NotInKey[ResourcesConfig]


class RetrainStage(Stage[RetrainOptions]):
    """See the module."""

    verb = "retrain"
    help = (
        "Train a detector, such as Faster R-CNN, DINO, Mask R-CNN or Mask2Former, on pseudo ground truth; losses that look "
        "like noise are dropped."
    )
    product = TrainedDetector
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> RetrainOptions:  # noqa: ARG002
        """Take the section of the detector, without what says nothing."""
        retrain = recipe.retrain.settled
        return RetrainOptions(learn_from=retrain.learn_from, retrain=retrain, resources=recipe.resources)

    def images(self, options: RetrainOptions) -> ImagesRead:  # noqa: ARG002
        """Return those that labels are granted to; their labels enter through the pseudo labels."""
        return ImagesRead(columns=(CONTENT,), granted=True)

    def trains_when_asked(self, options: RetrainOptions) -> bool:
        """Whether the recipe says so."""
        return options.retrain.train_again == "asked"

    def is_idle(self, recipe: Recipe, name: str) -> bool:  # noqa: ARG002
        """Whether the detector's weights are given."""
        return bool(recipe.retrain.weights)

    def check(self, options: RetrainOptions) -> None:
        """Build the detector, and see that it has masks to learn from if it wants any; see ``Stage.check``."""
        from weaksam.detectors.loading import build_retrained

        detector = options.retrain.detector
        masked = issubclass(stage_of(options.learn_from).product, PseudoMaskTable)
        wanted = f"an instance of segment, true-masks or import-masks, which have masks, with {detector.name}"
        require(masked or not detector.learns_masks, "retrain.learn_from", wanted, options.learn_from)
        build_retrained(options.retrain, num_classes=1)

    def describe(self, options: RetrainOptions) -> str:
        """Return how long the training would be."""
        return describe(options.retrain.detector.name, options.retrain)

    def run(self, job: Job[RetrainOptions]) -> RetrainFacts:
        """Train, and write the detector."""
        from pipelines.stages.retrain.task import RetrainTask
        from weaksam.detectors.loading import detector_to_bytes
        from weaksam.detectors.retrained.base import RetrainedDetector

        options, index = job.options, job.input(job.options.index, Index)
        labels = job.input(options.learn_from, PseudoLabelTable)
        if labels.class_names != index.class_names:
            raise DataError(
                f"{labels.table.folder}: expected pseudo labels of the classes {', '.join(index.class_names)}, got "
                f"{', '.join(labels.class_names)}"
            )
        labelled = labels.images(masks=False)  # looked up by loaders: of COCO's images they are half a gigabyte
        images, left_out, supervision = choose_images(labelled, index.pictures(), options.retrain.min_box_side)
        task = RetrainTask(
            config=options.retrain,
            num_classes=len(index.class_names),
            images=images,
            masks=labels.table if options.retrain.detector.learns_masks else None,
            cache_mib=options.resources.cache_mib,
        )
        watch = warn_of_dropped_positives(job.voice)
        detector, result, facts = fit(job, task, left_out=left_out, watch=watch)
        assert isinstance(detector, RetrainedDetector)
        thresholds = {name: value for name, value in detector.chosen_thresholds().items() if math.isfinite(value)}
        detector.loss_history = None
        weights = detector_to_bytes(detector, index.class_names, supervision)
        TrainedDetector(job.instance).write_weights(weights)
        shares = dropped_shares(result.scalars)
        dropped = "".join(f" · dropped {share:.1%} of {what}" for what, share in shares.items() if share)
        chosen = "".join(f" · chosen {name} {value:.3g}" for name, value in thresholds.items())
        text = f"{facts.text}{chosen}{dropped} · supervision: {supervision}"
        return RetrainFacts(
            **{**vars(facts), "text": text, "supervision": supervision}, loss_drop=shares, thresholds=thresholds
        )


def choose_images(
    labelled: Iterable[PseudoLabelledImage], pictures: Mapping[str, Picture], min_box_side: int
) -> tuple[tuple[BoxedImage, ...], dict[str, int], str]:
    """Choose what to learn from.

    Args:
        labelled: images of a pseudo labels table.
        pictures: by image id, in an order that does not change.
        min_box_side: pixels; boxes with a shorter side are left out.

    Returns:
        the training images, each with a box or more; how many others were left out, by reason; the boxes' supervision.

    Raises:
        DataError: no image is left, or the boxes of some have another supervision than those of others.
    """
    from pipelines.stages.retrain.task import BoxedImage
    from weaksam.detectors.retrained.samples import learnable

    images: dict[str, BoxedImage] = {}
    left_out = {"not indexed": 0, "without boxes": 0}
    supervisions: set[str] = set()
    for image in labelled:
        truth = learnable(image.truth, min_box_side)
        if image.image_id not in pictures:
            left_out["not indexed"] += 1
        elif not len(truth):
            left_out["without boxes"] += 1
        else:
            supervisions.add(image.supervision)
            images[image.image_id] = BoxedImage(image.image_id, *pictures[image.image_id], truth)
    left_out = counted(left_out)
    if len(supervisions) != 1:
        why = told(left_out) or "the table is empty"
        found = f"those of {' and of '.join(sorted(supervisions))}" if supervisions else f"none ({why})"
        raise DataError(f"retrain.learn_from: expected images with boxes of one supervision, got {found}")
    # In the order of the index: that of the rows follows the names of their files, which differ from run to run.
    return tuple(images[image_id] for image_id in pictures if image_id in images), left_out, supervisions.pop()


STAGE = RetrainStage()
