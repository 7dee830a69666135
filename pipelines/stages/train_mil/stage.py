"""The train-mil stage: a weakly-supervised detector learns from proposals and image-level labels, on Ray Train.

Reads the images table and the proposals; learns from the one split that labels are granted to. Images with unknown labels,
with none of the classes, or without proposals are left out and counted. Leaves ``detector.safetensors``, which ``detect``
reads, and its checkpoints and scalars under ``checkpoints/``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.index import Index
from pipelines.products.proposals import proposal_tables
from pipelines.recipe.config import ResourcesConfig, TrainMilConfig
from pipelines.recipe.keys import INDEX, Input, Inputs
from pipelines.recipe.model import Recipe, verb_of
from pipelines.store.planned import CONTENT
from pipelines.training.fit import describe, fit
from pipelines.training.images import LabelledImage, counted, labelled_images, labels_column, told
from pipelines.training.trained import Trained, TrainingFacts
from weaksam.config.weights import NotInKey
from weaksam.errors import ConfigError, DataError
from weaksam.structures import SELECTIVE_SEARCH, TABLE_SOURCES, WHOLE_IMAGE


class TrainedMil(Trained):
    """The product of ``train-mil``: a weakly-supervised detector."""


@dataclass(frozen=True, kw_only=True)
class TrainMilOptions:
    """Which detector learns from which proposals, and how."""

    index: Input = INDEX
    proposals: Inputs
    mil: TrainMilConfig
    include_difficult: bool  # labels count objects marked difficult
    data_uri: NotInKey[str]  # for messages
    resources: NotInKey[ResourcesConfig]


class TrainMilStage(Stage[TrainMilOptions]):
    """See the module."""

    verb = "train-mil"
    help = "Train a weakly-supervised detector, such as MIST or OICR, on proposals and image-level labels."
    product = TrainedMil
    revision = 2
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> TrainMilOptions:  # noqa: ARG002
        """Take the section of the detector; raise ConfigError for a source that no proposals of ``propose`` have."""
        _check_sources(recipe.mil)
        return TrainMilOptions(
            proposals=recipe.mil.proposals,
            mil=recipe.mil,
            include_difficult=recipe.data.include_difficult,
            data_uri=recipe.data.uri,
            resources=recipe.resources,
        )

    def images(self, options: TrainMilOptions) -> ImagesRead:
        """Return those that labels are granted to."""
        return ImagesRead(columns=(CONTENT, labels_column(options.include_difficult)), granted=True)

    def trains_when_asked(self, options: TrainMilOptions) -> bool:
        """Whether the recipe says so."""
        return options.mil.train_again == "asked"

    def is_idle(self, recipe: Recipe, name: str) -> bool:  # noqa: ARG002
        """Whether the detector's weights are given."""
        return bool(recipe.mil.weights)

    def check(self, options: TrainMilOptions) -> None:
        """Build the detector; see ``Stage.check``."""
        from weaksam.detectors.loading import build_detector

        build_detector(options.mil, num_classes=1)

    def describe(self, options: TrainMilOptions) -> str:
        """Return how long the training would be."""
        return describe(options.mil.detector.name, options.mil)

    def run(self, job: Job[TrainMilOptions]) -> TrainingFacts:
        """Train, and write the detector."""
        from pipelines.stages.train_mil.task import MilTask
        from weaksam.detectors.loading import detector_to_bytes
        from weaksam.detectors.mil.base import WeakDetector

        options, index = job.options, job.input(job.options.index, Index)
        proposals = proposal_tables(job, options.proposals)
        proposed = {image_id for table in proposals for image_id in table.ids()}
        images, left_out = choose_images(index.table.iter_rows(), proposed, options, index.granted_split)
        task = MilTask(
            config=options.mil,
            num_classes=len(index.class_names),
            images=images,
            proposals=proposals,
            cache_mib=options.resources.cache_mib,
        )
        detector, _, facts = fit(job, task, left_out=left_out)
        assert isinstance(detector, WeakDetector)
        TrainedMil(job.instance).write_weights(detector_to_bytes(detector, index.class_names))
        return facts


def _check_sources(mil: TrainMilConfig) -> None:
    """Refuse sources that no proposals of ``propose`` have; tables that are imported may have any."""
    made = (*TABLE_SOURCES, SELECTIVE_SEARCH, WHOLE_IMAGE)
    own = all(verb_of(name) == "propose" for name in mil.proposals)
    for source in mil.proposal_sources if own else ():
        if source not in made:
            close = difflib.get_close_matches(source, made, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"mil.proposal_sources: expected some of {', '.join(made)}, got {source!r}{hint}")


def choose_images(
    rows: Iterable[Mapping[str, Any]], proposed: set[str], options: TrainMilOptions, split: str
) -> tuple[tuple[LabelledImage, ...], dict[str, int]]:
    """Choose what to learn from.

    Args:
        rows: of the images table.
        proposed: ids of the images that have a row of proposals.
        options: say whether labels count difficult objects.
        split: the one that labels are granted to.

    Returns:
        the training images, and how many others of the split were left out, by reason.

    Raises:
        DataError: no image is left.
    """
    known, unknown = labelled_images(rows, split, include_difficult=options.include_difficult)
    labelled = [image for image in known if image.labels]
    images = tuple(image for image in labelled if image.image_id in proposed)
    left_out = counted(
        {
            "with unknown labels": unknown,
            "without any class": len(known) - len(labelled),
            "without proposals": len(labelled) - len(images),
        }
    )
    if not images:
        raise DataError(
            f"{options.data_uri}: no image to learn from (labels are granted to split {split!r}): "
            f"{told(left_out) or 'the split is empty'}; label the images and propose for their split, or give mil.weights of "
            "a detector trained elsewhere"
        )
    return images, left_out


STAGE = TrainMilStage()
