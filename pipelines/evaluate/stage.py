"""The evaluate stage: proposals, detections or pseudo labels against the true boxes of the data set.

``evaluate.proposals`` measures what ``propose`` made, ``evaluate.mil`` what ``detect.mil`` found in it, ``evaluate.label`` the
pseudo ground truth made of that, ``evaluate.final`` what the retrained detector found, any other ``evaluate.NAME`` what was
imported as NAME. ``evaluate.agreement`` and ``evaluate.label-agreement`` need no true boxes. Every instance leaves a
``metrics.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.engine.stage import Job, Stage
from pipelines.evaluate import agreement as evaluate_agreement
from pipelines.evaluate import detections as evaluate_detections
from pipelines.evaluate import proposals as evaluate_proposals
from pipelines.evaluate import pseudo_labels as evaluate_pseudo_labels
from pipelines.evaluate.proposals import named_sources
from pipelines.recipe.model import Recipe
from pipelines.stages.detect import FINAL
from pipelines.stages.index import truth_options
from pipelines.stages.label import holds_pseudo_labels

DETECTED = ("mil", FINAL)  # labels of detect instances
AGREE = (evaluate_agreement.AGREEMENT, evaluate_agreement.LABEL_AGREEMENT)


def execute(job: Job) -> dict[str, Any]:
    """Measure what the instance reads."""
    if job.instance.name.partition(".")[2] in AGREE:
        return evaluate_agreement.execute(job)
    read = next(iter(job.upstream))
    if read.startswith("detect."):
        return evaluate_detections.execute(job, read)
    if holds_pseudo_labels(job.upstream[read]):
        return evaluate_pseudo_labels.execute(job, read)
    return evaluate_proposals.execute(job, read)


def _reads(recipe: Recipe, name: str) -> tuple[str, ...]:
    label = name.partition(".")[2]
    if label in AGREE:
        return evaluate_agreement.reads(name)
    if label in DETECTED:
        # A retrained detector is measured beside a random proposal only where proposals are made anyway.
        return (f"detect.{label}", "propose") if label != FINAL or "propose" in recipe.stages else (f"detect.{label}",)
    if label == "label":
        return ("label",)
    return ("propose",) if label in ("", "proposals") else (f"import.{label}",)


def _method(recipe: Recipe, name: str) -> Mapping[str, Any]:
    if name.partition(".")[2] in AGREE:
        return evaluate_agreement.method(recipe, name)
    if name.partition(".")[2] in DETECTED:
        options: Mapping[str, Any] = {"evaluate": recipe.evaluate, "proposal_sources": recipe.mil.proposal_sources}
    elif name.partition(".")[2] == "label":
        options = {}
    else:
        options = {"evaluate": recipe.evaluate, "sources": named_sources(recipe)}
    return {**options, **truth_options(recipe)}


STAGE = Stage(
    verb="evaluate",
    help="measure how many true objects the proposals cover, per source",
    reads=_reads,
    method=_method,
    execute=execute,
)
