"""The train-classifier stage: a clue network learns image-level labels, on Ray Train.

Reads the images table and learns from the one split that labels are granted to; images with unknown labels are left out and
counted, unreadable ones are dropped with a reason while training goes on. Leaves ``classifier.safetensors``,
which ``propose`` (of this run or another) reads, and its checkpoints and scalars under ``checkpoints/``, where
``tensorboard --logdir RUN`` finds the curves of all trainings of a run (``pip install tensorboard``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.index import Index, in_hash_order
from pipelines.recipe.config import ResourcesConfig, TrainClassifierConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.stages.train_classifier.trained import ClassifierFacts, TrainedClassifier
from pipelines.store.files import write_json
from pipelines.store.numbers import known
from pipelines.store.planned import CONTENT
from pipelines.training.fit import fit
from pipelines.training.images import LabelledImage, labelled_images, labels_column
from weaksam.config import ClueNetworkConfig, ClueSourceConfig
from weaksam.config.weights import NotInKey
from weaksam.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pipelines.training.task import TrainingResult
    from weaksam.metrics.classification import ClassificationScores

METRICS_FILE = "metrics.json"
SCORED_TRAINING_IMAGES = 500  # that the training mAP is measured on, first in hash order
HELD_OUT_DIVISOR = 10  # select: best-map judges by one training image in ten


@dataclass(frozen=True, kw_only=True)
class TrainClassifierOptions:
    """Which clue network is trained, and how."""

    index: Input = INDEX
    source: ClueSourceConfig
    classifier: TrainClassifierConfig
    include_difficult: bool  # labels count objects marked difficult
    data_uri: NotInKey[str]  # for messages
    resources: NotInKey[ResourcesConfig]


class TrainClassifierStage(Stage[TrainClassifierOptions]):
    """See the module."""

    verb = "train-classifier"
    help = "Train the classifier whose activation maps are the clues, on image-level labels."
    product = TrainedClassifier
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> TrainClassifierOptions:  # noqa: ARG002
        """Take what the clue network needs."""
        return TrainClassifierOptions(
            source=recipe.clues.source,
            classifier=recipe.classifier,
            include_difficult=recipe.data.include_difficult,
            data_uri=recipe.data.uri,
            resources=recipe.resources,
        )

    def images(self, options: TrainClassifierOptions) -> ImagesRead:
        """Return those that labels are granted to."""
        return ImagesRead(columns=(CONTENT, labels_column(options.include_difficult)), granted=True)

    def trains_when_asked(self, options: TrainClassifierOptions) -> bool:
        """Whether the recipe says so."""
        return options.classifier.train_again == "asked"

    def is_idle(self, recipe: Recipe, name: str) -> bool:  # noqa: ARG002
        """Whether there are no clues, or their source is not trained, or its weights are given."""
        return not (recipe.uses_clues and recipe.clues.source.trained) or bool(recipe.clues.weights)

    def check(self, options: TrainClassifierOptions) -> None:
        """Build the network; see ``Stage.check``."""
        from weaksam.clues.loading import build_classifier

        if not isinstance(options.source, ClueNetworkConfig):
            raise ConfigError(
                f"clues.source: expected one that is trained on image labels, got {options.source.name}, which is not"
            )
        build_classifier(options.source, num_classes=1)

    def describe(self, options: TrainClassifierOptions) -> str:
        """Return how long the training would be."""
        return f"{options.classifier.epochs} epochs in batches of {options.classifier.batch_size}"

    def run(self, job: Job[TrainClassifierOptions]) -> ClassifierFacts:
        """Train, and write the classifier and its scores."""
        from pipelines.stages.train_classifier.task import ClassifierTask, score_classifier
        from weaksam.clues.base import ClueNetwork
        from weaksam.clues.loading import classifier_to_bytes

        options, index = job.options, job.input(job.options.index, Index)
        assert isinstance(options.source, ClueNetworkConfig)
        training, validation, unknown = choose_images(index.table.iter_rows(), options, index.granted_split)
        task = ClassifierTask(
            source=options.source,
            config=options.classifier,
            num_classes=len(index.class_names),
            images=training,
            validation=validation,
            cache_mib=options.resources.cache_mib,
        )
        left_out = {"with unknown labels": unknown} if unknown else {}
        network, result, facts = fit(job, task, left_out=left_out)
        assert isinstance(network, ClueNetwork)
        TrainedClassifier(job.instance).write_weights(classifier_to_bytes(network, index.class_names))
        by_id = {image.image_id: image for image in training}
        scored = [by_id[i] for i in in_hash_order(list(by_id))[:SCORED_TRAINING_IMAGES]]
        scores = score_classifier(network, scored, options.classifier.crop_size)
        metrics = _metrics(index.class_names, result, scores)
        write_json(job.instance.file(METRICS_FILE), metrics)
        best = f" · best mAP {result.best['score']:.3f} at step {result.best['step']:,}" if result.best else ""
        text = f"{facts.text} · training mAP {scores.mean_ap:.3f}{best}"
        return ClassifierFacts(**{**vars(facts), "text": text}, metrics=metrics)


def choose_images(
    rows: Iterable[Mapping[str, Any]], options: TrainClassifierOptions, split: str
) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...], int]:
    """Choose what to learn from and what to be judged by.

    Args:
        rows: of the images table.
        options: say whether labels count difficult objects, and how weights are selected.
        split: the one that labels are granted to.

    Returns:
        training images; held-out images, none unless weights are selected by them; the number of images with unknown labels.

    Raises:
        DataError: no image has labels, or too few to hold some out.
    """
    known, unknown = labelled_images(rows, split, include_difficult=options.include_difficult)
    held_out = set[str]()
    if options.classifier.select == "best-map":
        held_out = set(in_hash_order([image.image_id for image in known])[: len(known) // HELD_OUT_DIVISOR])
        if known and not held_out:
            raise DataError(
                f"{options.data_uri}: classifier.select: best-map holds out one image in {HELD_OUT_DIVISOR}, but only "
                f"{len(known)} have labels; use select: last"
            )
    if not known:
        raise DataError(
            f"{options.data_uri}: no image has labels to learn from (labels are granted to split {split!r}); label the images, "
            "or give clues.weights of a classifier trained elsewhere"
        )
    training = tuple(image for image in known if image.image_id not in held_out)
    return training, tuple(image for image in known if image.image_id in held_out), unknown


def _metrics(class_names: Sequence[str], result: TrainingResult, scores: ClassificationScores) -> dict[str, Any]:
    """Return what ``metrics.json`` holds."""
    return {
        "class_names": list(class_names),
        "training_loss": result.scalars[-1].loss,
        "training_map": known(scores.mean_ap),
        "training_map_per_image": known(scores.mean_ap_per_image),
        "training_map_images": scores.images,
        "training_ap": {n: known(float(ap)) for n, ap in zip(class_names, scores.per_class, strict=True)},
        "best": result.best and {"step": result.best["step"], "validation_map": result.best["score"]},
    }


STAGE = TrainClassifierStage()
