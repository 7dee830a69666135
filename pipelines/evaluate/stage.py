"""The evaluate stage: proposals, detections or pseudo labels against the true boxes of the data set.

What is measured is what the table of the instance ``of`` holds. With ``views`` no true box is read: how far detections agree
is measured. Every instance leaves a ``metrics.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.engine.stage import Job, Stage
from pipelines.evaluate import agreement, detections, proposals, pseudo_labels
from pipelines.evaluate.proposals import named_sources
from pipelines.recipe.config import method_of
from pipelines.recipe.model import Recipe, verb_of
from pipelines.stages.index import truth_options
from pipelines.stages.label import holds_pseudo_labels


def execute(job: Job) -> dict[str, Any]:
    """Measure what the instance reads."""
    options = job.recipe.evaluate
    if options.views:
        return agreement.execute(job)
    if verb_of(options.of) == "detect":
        return detections.execute(job)
    if holds_pseudo_labels(job.upstream[options.of]):
        return pseudo_labels.execute(job)
    return proposals.execute(job)


def _reads(recipe: Recipe, _name: str) -> tuple[str, ...]:
    options = recipe.evaluate
    if options.views:
        return agreement.reads(recipe)
    if verb_of(options.of) != "detect":
        return (options.of,)
    beside = detections.proposals_beside(recipe)
    return (options.of, *([beside] if beside else []))


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    options = recipe.evaluate
    if options.views:
        return agreement.method(recipe)
    how: Mapping[str, Any] = {}
    if verb_of(options.of) == "detect":
        how = {"evaluate": method_of(options), "proposal_sources": detections.proposal_sources(recipe)}
    elif verb_of(options.of) != "label":
        how = {"evaluate": method_of(options), "sources": named_sources(recipe.of(options.of))}
    return {**how, **truth_options(recipe)}


STAGE = Stage(
    verb="evaluate",
    help="Measure proposals, detections or pseudo ground truth against the true boxes.\n\n"
    "`--label proposals`: source by source. `--label mil` or `final`: detections. `--label label`: pseudo ground truth. "
    "`--label agreement`: how far the detections in other views agree, without true boxes.",
    reads=_reads,
    method=_method,
    execute=execute,
)
