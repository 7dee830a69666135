"""The train-segmenter stage: a segmenter learns from label maps, on Ray Train.

Reads the images table and a table of label maps: those of ``seeds``, or what another segmenter predicted of the training
images. Images without a map are left out and counted. Whatever the maps are owed to, everything downstream repeats it as its
``supervision``. Leaves ``segmenter.safetensors``, which ``predict-maps`` reads, and its checkpoints and scalars under
``checkpoints/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.index import Index, Picture
from pipelines.products.label_maps import LabelMapTable
from pipelines.recipe.config import ResourcesConfig, TrainSegmenterConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.store.planned import CONTENT
from pipelines.training.fit import describe, fit
from pipelines.training.images import counted, told
from pipelines.training.trained import Trained, TrainingFacts
from weaksam.config.weights import NotInKey
from weaksam.errors import DataError

if TYPE_CHECKING:
    from pipelines.stages.train_segmenter.task import MappedImage


class TrainedSegmenter(Trained):
    """The product of ``train-segmenter``."""

    weights_file = "segmenter.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainSegmenterOptions:
    """Which segmenter learns from which label maps, and how."""

    index: Input = INDEX
    learn_from: Input
    segmenter: TrainSegmenterConfig
    resources: NotInKey[ResourcesConfig]


class TrainSegmenterStage(Stage[TrainSegmenterOptions]):
    """See the module."""

    verb = "train-segmenter"
    help = "Train a segmenter, such as DeepLab, on label maps: those of seeds, or what another one predicted."
    product = TrainedSegmenter
    revision = 2
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> TrainSegmenterOptions:  # noqa: ARG002
        """Take the section of the segmenter."""
        segmenter = recipe.segmenter
        return TrainSegmenterOptions(learn_from=segmenter.learn_from, segmenter=segmenter, resources=recipe.resources)

    def images(self, options: TrainSegmenterOptions) -> ImagesRead:  # noqa: ARG002
        """Return those that labels are granted to; their labels enter through the label maps."""
        return ImagesRead(columns=(CONTENT,), granted=True)

    def trains_when_asked(self, options: TrainSegmenterOptions) -> bool:
        """Whether the recipe says so."""
        return options.segmenter.train_again == "asked"

    def is_idle(self, recipe: Recipe, name: str) -> bool:  # noqa: ARG002
        """Whether the segmenter's weights are given."""
        return bool(recipe.segmenter.weights)

    def check(self, options: TrainSegmenterOptions) -> None:
        """Build the segmenter; see ``Stage.check``."""
        from weaksam.segmentation.segmenters.loading import build_segmenter

        build_segmenter(options.segmenter, num_classes=1)

    def describe(self, options: TrainSegmenterOptions) -> str:
        """Return how long the training would be."""
        return describe(options.segmenter.network.name, options.segmenter)

    def run(self, job: Job[TrainSegmenterOptions]) -> TrainingFacts:
        """Train, and write the segmenter."""
        from pipelines.stages.train_segmenter.task import SegmenterTask
        from weaksam.segmentation.segmenters.base import Segmenter
        from weaksam.segmentation.segmenters.loading import segmenter_to_bytes

        options, index = job.options, job.input(job.options.index, Index)
        maps = job.input(options.learn_from, LabelMapTable)
        if maps.class_names != index.class_names:
            raise DataError(
                f"{maps.table.folder}: expected label maps of the classes {', '.join(index.class_names)}, got "
                f"{', '.join(maps.class_names)}"
            )
        planned = set(job.instance.planned_rows()["image_id"].to_pylist())
        pictures = {image_id: picture for image_id, picture in index.pictures().items() if image_id in planned}
        images, left_out, supervision = choose_images(maps.table.iter_rows(("image_id", "supervision")), pictures)
        task = SegmenterTask(
            config=options.segmenter,
            num_classes=len(index.class_names),
            images=images,
            label_maps=maps.table,
            cache_mib=options.resources.cache_mib,
        )
        segmenter, _, facts = fit(job, task, left_out=left_out)
        assert isinstance(segmenter, Segmenter)
        TrainedSegmenter(job.instance).write_weights(segmenter_to_bytes(segmenter, index.class_names, supervision))
        text = f"{facts.text} · supervision: {supervision}"
        return TrainingFacts(**{**vars(facts), "text": text, "supervision": supervision})


def choose_images(
    rows: Iterable[Mapping[str, Any]], pictures: Mapping[str, Picture]
) -> tuple[tuple[MappedImage, ...], dict[str, int], str]:
    """Choose what to learn from.

    Args:
        rows: ``image_id`` and ``supervision`` of each label map.
        pictures: those that labels are granted to, by image id, in an order that does not change.

    Returns:
        the training images, each with a label map; how many others were left out, by reason; the maps' supervision.

    Raises:
        DataError: no image is left, or the maps of some have another supervision than those of others.
    """
    from pipelines.stages.train_segmenter.task import MappedImage

    found = {row["image_id"]: row["supervision"] for row in rows if row["image_id"] in pictures}
    left_out = counted({"without a label map": len(pictures) - len(found)})
    supervisions = sorted(set(found.values()))
    if len(supervisions) != 1:
        got = f"those of {' and of '.join(supervisions)}" if supervisions else f"none ({told(left_out) or 'no image'})"
        raise DataError(f"segmenter.learn_from: expected images with label maps of one supervision, got {got}")
    # In the order of the index: that of the rows follows the names of their files, which differ from run to run.
    images = tuple(MappedImage(image_id, *pictures[image_id]) for image_id in pictures if image_id in found)
    return images, left_out, supervisions[0]


STAGE = TrainSegmenterStage()
