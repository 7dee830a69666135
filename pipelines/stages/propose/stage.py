"""The propose stage: images in, object proposals out, on Ray Data.

    index ─► fetch and validate (CPU tasks) ─► PromptActor pool ─► SegmentActor pool ─► Parquet

What is planned, resumed and retried is ``passes``' business; this file says what happens to one image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.dataflow.passes import work_off
from pipelines.dataflow.pools import Pools
from pipelines.dataflow.rows import fetch, planned_images
from pipelines.engine.product import Product
from pipelines.engine.stage import Content, ImagesRead, Job, Stage, sha256_of
from pipelines.products.index import Index
from pipelines.products.proposals import ProposalTable
from pipelines.products.rows import RowFacts
from pipelines.recipe.config import ResourcesConfig
from pipelines.recipe.keys import INDEX, NOTHING, Input, weights_of
from pipelines.recipe.model import Recipe
from pipelines.stages.propose.actors import ActorSpec, PromptActor, Prompting, ProposeActor, SearchActor, SegmentActor
from pipelines.stages.train_classifier.trained import TrainedClassifier
from pipelines.store.instances import current_instance
from pipelines.store.planned import CONTENT, LABELS, LABELS_DIFFICULT
from pipelines.store.schemas import PROPOSALS, with_class_names
from weaksam.config import CluesConfig, SamConfig, SelectiveSearchConfig
from weaksam.config.weights import NO_WEIGHTS, NotInKey, Weights
from weaksam.errors import RunError
from weaksam.sam import SAMS, named_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProposeOptions:
    """Which images get proposals, and how they are made."""

    index: Input = INDEX
    classifier: Input  # whose maps are the clues; "" where no classifier of this run makes them
    splits: NotInKey[tuple[str, ...]]  # empty = every indexed split
    method: Prompting | SelectiveSearchConfig
    longest_side: int  # pixels, to which images are scaled: one too thin for it is dropped; 0 = not scaled
    resources: NotInKey[ResourcesConfig]


class ProposeStage(Stage[ProposeOptions]):
    """See the module."""

    verb = "propose"
    help = "Prompt SAM with grids and clues, and write object proposals."
    product = ProposalTable
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> ProposeOptions:  # noqa: ARG002
        """Take of the recipe what the chosen method needs."""
        clues = recipe.clues.once_trained if recipe.uses_clues else None
        classical = recipe.propose.method == "selective-search"
        return ProposeOptions(
            classifier=recipe.propose.classifier if needs_training(clues) else NOTHING,
            splits=recipe.propose.splits,
            method=recipe.selective_search
            if classical
            else Prompting(
                clues=clues, prompts=recipe.prompts, sam=_with_named(recipe.sam), proposals=recipe.proposals
            ),
            longest_side=recipe.selective_search.resize_width if classical else SAMS[recipe.sam.name].input_side,
            resources=recipe.resources,
        )

    def contents(self, options: ProposeOptions) -> Mapping[str, Content]:
        """Return SAM's weights, the clue source's, which may be a run's, and all others."""
        if isinstance(options.method, SelectiveSearchConfig):
            return {}
        contents = {"sam": Content(options.method.sam.weights, sha256_of)}
        if options.method.clues is not None:
            source = weights_of(options.method.clues.source, "clues.source.")
            contents |= {name: Content(weights, sha256_of) for name, weights in source}
            if options.method.clues.weights:
                contents["clues"] = Content(options.method.clues.weights, _clues_sha256)
        return contents

    def images(self, options: ProposeOptions) -> ImagesRead:
        """Return those of the chosen splits; their labels have a say where clues are gated by them."""
        return ImagesRead(columns=(CONTENT, *gating_labels(options)), splits=options.splits)

    def makes_rows(self, options: ProposeOptions) -> bool:  # noqa: ARG002
        """True: no image depends on another."""
        return True

    def knows_classes(self, options: ProposeOptions) -> bool:
        """Whether prompts are of classes."""
        return uses_clues(options)

    def run(self, job: Job[ProposeOptions]) -> RowFacts:
        """Propose for every indexed image of the chosen splits."""
        options, index = job.options, job.input(job.options.index, Index)
        images = planned_images(job.instance.planned_rows(), index.read(), *gating_labels(options))
        _say_missed(job)
        clue_weights = clue_weights_of(options, job.inputs)
        class_names = index.class_names or class_names_of(options, clue_weights) if uses_clues(options) else ()
        schema = with_class_names(PROPOSALS, class_names)

        # Classical search knows no GPU.
        classical = isinstance(options.method, SelectiveSearchConfig)
        resources = replace(options.resources, device="cpu") if classical else options.resources

        def operators(dataset: Any, pools: Pools) -> Any:
            dataset = pools.tasks(dataset, fetch, longest_side=options.longest_side)
            if isinstance(options.method, SelectiveSearchConfig):
                search = {"instance": job.instance, "config": options.method, "schema": schema}
                return pools.actors(
                    dataset, SearchActor, pools.sizes.segment_actors, **search, threads=pools.sizes.threads
                )
            spec = ActorSpec(
                instance=job.instance,
                how=options.method,
                clue_weights=clue_weights,
                class_names=class_names,
                threads=pools.sizes.threads,
                device=pools.sizes.device,
            )
            if options.method.clues is not None and not pools.sizes.prompt_actors:
                return pools.actors(dataset, ProposeActor, pools.sizes.segment_actors, spec=spec, schema=schema)
            if options.method.clues is not None:
                dataset = pools.actors(dataset, PromptActor, pools.sizes.prompt_actors, spec=spec)
            return pools.actors(dataset, SegmentActor, pools.sizes.segment_actors, spec=spec, schema=schema)

        return work_off(job, images, schema, resources, operators, with_clues=uses_clues(options))


def needs_training(clues: CluesConfig | None) -> bool:
    """Whether clues are those of a classifier that this run trains."""
    return clues is not None and clues.source.trained and not clues.weights


def uses_clues(options: ProposeOptions) -> bool:
    """Whether a clue source says where SAM is prompted."""
    return isinstance(options.method, Prompting) and options.method.clues is not None


def gating_labels(options: ProposeOptions) -> tuple[str, ...]:
    """Return the column of the index whose labels gate the clues; none where there are no clues, or predictions gate them."""
    how = options.method
    if isinstance(how, SelectiveSearchConfig) or how.clues is None or how.clues.gating == "predicted":
        return ()
    return (LABELS_DIFFICULT if how.clues.cam.include_difficult else LABELS,)


def _with_named(sam: SamConfig) -> SamConfig:
    """Return the same SAM with the weights that its name may say."""
    return replace(sam, weights=named_weights(sam))


def _say_missed(job: Job[ProposeOptions]) -> None:
    """Warn where a mirror lacks the SAM that actors will fetch: what they say themselves is in the logs of their nodes."""
    how = job.options.method
    if isinstance(how, Prompting) and (missed := how.sam.weights.missed_in_mirror()):
        logger.warning("%s", missed)


def clue_weights_of(options: ProposeOptions, inputs: Mapping[str, Product[Any]]) -> Weights:
    """Return the clue source's weights: of this run's training, or those that the recipe names; none without any.

    Args:
        options: of the instance.
        inputs: products by instance name, among them the classifier that the instance reads, if it reads one.

    Raises:
        RunError: it is not finished.
    """
    how = options.method
    if isinstance(how, SelectiveSearchConfig) or how.clues is None:
        return NO_WEIGHTS
    given = how.clues.weights
    if not needs_training(how.clues):
        return replace(given, uri=resolve_weights(given.uri)) if given else NO_WEIGHTS
    classifier = inputs.get(options.classifier)
    if not isinstance(classifier, TrainedClassifier):
        raise RunError(f"{options.classifier} is not finished; bring it up to date first")
    return replace(given, uri=classifier.weights_uri).as_seen()


def class_names_of(options: ProposeOptions, clue_weights: Weights) -> tuple[str, ...]:
    """Return the classes of the clue network, for data that has none of its own."""
    how = options.method
    if isinstance(how, SelectiveSearchConfig) or how.clues is None or not how.clues.source.trained:
        return ()
    from weaksam.clues.loading import load_classifier

    return load_classifier(clue_weights.fetch().path).class_names


def resolve_weights(uri: str) -> str:
    """Return the weights file that ``clues.weights`` means: a file as it is, of a run folder the classifier trained there."""
    trained = current_instance(uri, "train-classifier")
    return uri if trained is None else TrainedClassifier(trained).weights_uri


def _clues_sha256(weights: Weights) -> str:
    return sha256_of(replace(weights, uri=resolve_weights(weights.uri)))


STAGE = ProposeStage()
