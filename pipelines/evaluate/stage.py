"""The evaluate stage: proposals, detections, pseudo labels, masks, label maps against true ones, the classifier by labels.

What is measured is what the instance ``of`` left behind. With ``views`` no true box is read: how far detections agree is
measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipelines import registry
from pipelines.engine.product import Product
from pipelines.engine.stage import Job, Stage, WhenStopped
from pipelines.evaluate import agreement, classifier, detections, label_maps, proposals, pseudo_labels, pseudo_masks
from pipelines.evaluate.options import (
    AgreementOptions,
    ClassifierOptions,
    EvaluateOptions,
    LabelMapOptions,
    PseudoMaskOptions,
)
from pipelines.products.detections import DetectionTable
from pipelines.products.label_maps import LabelMapTable
from pipelines.products.measured import Evaluation, EvaluationFacts
from pipelines.products.proposals import ProposalTable
from pipelines.products.pseudo_labels import PseudoLabelTable, PseudoMaskTable
from pipelines.recipe.keys import INDEX, NOTHING
from pipelines.recipe.model import Recipe, verb_of
from pipelines.stages.train_classifier.trained import TrainedClassifier
from weaksam.config import require

# By what the instance that is measured left behind.
MEASURES: Mapping[type[Product[Any]], Callable[[Job[EvaluateOptions]], EvaluationFacts]] = {
    ProposalTable: proposals.run,
    DetectionTable: detections.run,
    PseudoLabelTable: pseudo_labels.run,
}

AnyOptions = EvaluateOptions | AgreementOptions | ClassifierOptions | PseudoMaskOptions | LabelMapOptions


class EvaluateStage(Stage[AnyOptions]):
    """See the module."""

    verb = "evaluate"
    help = (
        "Measure proposals, detections, pseudo ground truth or label maps against the true ones.\n\n"
        "`--label proposals`: source by source. `--label mil` or `final`: detections. `--label label`: pseudo ground truth. "
        "`--label segment`: its masks. `--label seeds` or `maps`: label maps, by mean IoU. "
        "`--label agreement`: how far the detections in other views agree, without true boxes. `--label classifier`: the "
        "classifier, by image labels."
    )
    product = Evaluation
    revision = 4
    when_stopped = WhenStopped.MEASURE

    def options(self, recipe: Recipe, name: str) -> AnyOptions:  # noqa: ARG002
        """Look up how what is measured was made."""
        how = recipe.evaluate
        if how.views:
            return agreement.options(recipe)
        if _leaves(recipe, TrainedClassifier):
            return classifier.options(recipe)
        if _leaves(recipe, PseudoMaskTable):
            return pseudo_masks.options(recipe)
        if _leaves(recipe, LabelMapTable):
            return label_maps.options(recipe)
        of_detections = _leaves(recipe, DetectionTable)
        return EvaluateOptions(
            of=how.of,
            beside=detections.proposals_beside(recipe) if of_detections else (),
            how=None if _leaves(recipe, PseudoLabelTable) else how,
            named_sources=proposals.named_sources(recipe.of(how.of)) if _are_proposed(recipe) else (),
            proposal_sources=detections.proposal_sources(recipe) if of_detections else (),
            masks=_have_masks(recipe),
            index=INDEX if of_detections and _have_masks(recipe) else NOTHING,
            stated_size=recipe.data.stated_size,
            data=recipe.data,
        )

    def is_idle(self, recipe: Recipe, name: str) -> bool:  # noqa: ARG002
        """Whether what makes that which it measures has nothing to do: a classifier that no recipe trains."""
        of = recipe.evaluate.of
        return not recipe.evaluate.views and registry.stage_of(of).is_idle(recipe.of(of), of)

    def measures_by_true_boxes(self, recipe: Recipe) -> bool:
        """Whether it does not compare views, and what it measures is no label map."""
        return not recipe.evaluate.views and not _leaves(recipe, LabelMapTable)

    def measures_by_true_masks(self, recipe: Recipe) -> bool:
        """Whether what it measures has masks."""
        return self.measures_by_true_boxes(recipe) and (_leaves(recipe, PseudoMaskTable) or _have_masks(recipe))

    def measures_by_true_label_maps(self, recipe: Recipe) -> bool:
        """Whether what it measures is label maps."""
        return not recipe.evaluate.views and _leaves(recipe, LabelMapTable)

    def run(self, job: Job[AnyOptions]) -> EvaluationFacts:
        """Measure what the instance reads."""
        options = job.options
        if isinstance(options, AgreementOptions):
            return agreement.run(job.with_options(options))
        if isinstance(options, ClassifierOptions):
            return classifier.run(job.with_options(options))
        if isinstance(options, PseudoMaskOptions):
            return pseudo_masks.run(job.with_options(options))
        if isinstance(options, LabelMapOptions):
            return label_maps.run(job.with_options(options))
        kind = type(job.inputs[options.of])
        known = " or ".join(measured.__name__ for measured in MEASURES)
        require(kind in MEASURES, "evaluate.of", f"what left a {known}", f"{options.of}, which left a {kind.__name__}")
        return MEASURES[kind](job.with_options(options))


def _leaves(recipe: Recipe, product: type[Product[Any]]) -> bool:
    """Return whether what an instance measures is such a product, whichever stage makes it; ``recipe`` is what it sees."""
    return issubclass(registry.stage_of(recipe.evaluate.of).product, product)


def _have_masks(recipe: Recipe) -> bool:
    """Return whether the detections or proposals that an instance measures have masks; ``recipe`` is what it sees."""
    if _leaves(recipe, DetectionTable):
        return detections.have_masks(recipe)
    return _are_proposed(recipe) and proposals.have_masks(recipe)


def _are_proposed(recipe: Recipe) -> bool:
    """Return whether a recipe says how the proposals that an instance measures were made, as it does not of imported ones."""
    return verb_of(recipe.evaluate.of) == "propose"


STAGE = EvaluateStage()
