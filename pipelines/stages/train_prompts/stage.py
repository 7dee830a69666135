"""The train-prompts stage: contexts of prompts learn for a frozen CLIP, on Ray Train (FMA method 2, 3).

Reads the images table, and a table of seeds where a class's map is to fill its seed. Leaves ``prompts.safetensors``, which
``seeds`` reads, and its checkpoints and scalars under ``checkpoints/``: of what learns alone, the contexts and blocks of CLIP's
image tower that are tuned. Images without a class teach nothing and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.index import Index
from pipelines.products.label_maps import SeedTable
from pipelines.recipe.config import ResourcesConfig, TrainPromptsConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.store.planned import CONTENT
from pipelines.store.tables import Rows
from pipelines.training.fit import fit
from pipelines.training.images import LabelledImage, counted, labelled_images, labels_column
from pipelines.training.trained import Trained, TrainingFacts
from weaksam.config import ClipConfig
from weaksam.config.weights import NotInKey
from weaksam.errors import DataError
from weaksam.networks.clip import with_weights_named
from weaksam.structures import IMAGE_LABELS


@dataclass(frozen=True, kw_only=True)
class TrainPromptsOptions:
    """Which prompts are taught to which CLIP, and how."""

    index: Input = INDEX
    learn_from: Input  # "" where image labels alone are learnt
    clip: ClipConfig
    train: TrainPromptsConfig
    include_difficult: bool  # labels count objects marked difficult
    data_uri: NotInKey[str]  # for messages
    resources: NotInKey[ResourcesConfig]


class TrainedPrompts(Trained):
    """The product of ``train-prompts``: contexts, how prompts are made of them, and tuned blocks of CLIP."""

    weights_file = "prompts.safetensors"


class TrainPromptsStage(Stage[TrainPromptsOptions]):
    """See the module."""

    verb = "train-prompts"
    help = (
        "Teach prompts to a frozen CLIP, on image-level labels.\n\n"
        "With `objective: contrastive` they learn to tell an image's classes from its others, with `bce` from the background; "
        "with `activation` or `pixel-cross-entropy` a class's map learns to fill its seed (`learn_from: seeds`)."
    )
    product = TrainedPrompts
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> TrainPromptsOptions:  # noqa: ARG002
        """Take the sections of CLIP and of its prompts."""
        return TrainPromptsOptions(
            learn_from=recipe.train_prompts.learn_from,
            clip=with_weights_named(recipe.clip),
            train=recipe.train_prompts,
            include_difficult=recipe.data.include_difficult,
            data_uri=recipe.data.uri,
            resources=recipe.resources,
        )

    def images(self, options: TrainPromptsOptions) -> ImagesRead:
        """Return those that labels are granted to."""
        return ImagesRead(columns=(CONTENT, labels_column(options.include_difficult)), granted=True)

    def trains_when_asked(self, options: TrainPromptsOptions) -> bool:
        """Whether the recipe says so."""
        return options.train.train_again == "asked"

    def check(self, options: TrainPromptsOptions) -> None:
        """Load CLIP and make prompts of the background's names: those of classes are not known yet; see ``Stage.check``."""
        from pipelines.stages.train_prompts.task import PromptTask

        any_name = options.clip.background[:1]
        PromptTask(clip=options.clip, config=options.train, class_names=any_name, images=()).build_model().texts()

    def describe(self, options: TrainPromptsOptions) -> str:
        """Return how long the training would be."""
        train = options.train
        tuned = f", {train.tuned_blocks} blocks of CLIP tuned" if train.tuned_blocks else ""
        return f"{train.steps:,} steps of {train.batch_size}, {train.objective}{tuned}"

    def run(self, job: Job[TrainPromptsOptions]) -> TrainingFacts:
        """Train, and write what has learnt."""
        from pipelines.stages.train_prompts.task import PromptTask
        from weaksam.segmentation.prompted import PromptedClip, prompts_to_bytes

        options, index = job.options, job.input(job.options.index, Index)
        seeds = job.input(options.learn_from, SeedTable).table if options.learn_from else None
        images, left_out, supervision = choose_images(job, index, seeds)
        if options.train.objective == "contrastive" and all(len(of.labels) == len(index.class_names) for of in images):
            raise DataError(
                f"{options.data_uri}: expected images that lack a class, so that there is something to tell apart, got "
                f"{len(images):,} that have all of {', '.join(index.class_names)}; set train_prompts.objective: bce"
            )
        task = PromptTask(
            clip=options.clip,
            config=options.train,
            class_names=index.class_names,
            images=images,
            seeds=seeds,
            cache_mib=options.resources.cache_mib,
        )
        prompted, _, facts = fit(job, task, left_out=left_out)
        assert isinstance(prompted, PromptedClip)
        weights = prompts_to_bytes(prompted, index.class_names, options.clip)
        TrainedPrompts(job.instance).write_weights(weights)
        text = f"{facts.text} · supervision: {supervision}"
        return TrainingFacts(**{**vars(facts), "text": text, "supervision": supervision})


def choose_images(
    job: Job[TrainPromptsOptions], index: Index, seeds: Rows | None
) -> tuple[tuple[LabelledImage, ...], dict[str, int], str]:
    """Return what is learnt from, each with a class or more; how many others are left out, by reason; the supervision.

    Raises:
        DataError: no image is left, or the seeds of some are owed to something else than those of others.
    """
    options = job.options
    rows, unknown = labelled_images(
        index.table.iter_rows(), index.granted_split, include_difficult=options.include_difficult
    )
    supervision = {row.image_id: IMAGE_LABELS for row in rows}
    if seeds is not None:
        supervision = {row["image_id"]: row["supervision"] for row in seeds.iter_rows(("image_id", "supervision"))}
    seeded = [row for row in rows if row.image_id in supervision]
    images = tuple(row for row in seeded if row.labels)
    left_out = counted(
        {
            "with unknown labels": unknown,
            "without a seed": len(rows) - len(seeded),
            "without a class": len(seeded) - len(images),
        }
    )
    supervisions = sorted({supervision[image.image_id] for image in images})
    if len(supervisions) != 1:
        raise DataError(
            f"{options.data_uri}: expected labelled images of split {index.granted_split!r}"
            f"{f' with seeds of {options.learn_from}' if options.learn_from else ''}, of one supervision, got {len(images)} of "
            f"{', '.join(supervisions) or 'none'}; label the images"
        )
    return images, left_out, supervisions[0]


STAGE = TrainPromptsStage()
