"""The evaluate stage: proposals or detections against the true boxes of the data set.

``evaluate.proposals`` measures what ``propose`` made, ``evaluate.mil`` what ``detect.mil`` found in it, any other
``evaluate.NAME`` the proposals imported as NAME. Every instance leaves a ``metrics.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines import evaluate_detections, evaluate_proposals
from pipelines.evaluate_proposals import named_sources
from pipelines.recipe import Recipe
from pipelines.stage import Job, Stage

DETECTED = ("mil",)  # labels of detect instances


def execute(job: Job) -> dict[str, Any]:
    """Measure what the instance reads."""
    read = next(iter(job.upstream))
    if read.startswith("detect."):
        return evaluate_detections.execute(job, read)
    return evaluate_proposals.execute(job, read)


def _reads(_recipe: Recipe, name: str) -> tuple[str, ...]:
    """``evaluate.proposals`` measures what ``propose`` made, ``evaluate.mil`` what ``detect.mil`` found in it.

    Any other ``evaluate.NAME`` measures the proposals imported as NAME.
    """
    label = name.partition(".")[2]
    if label in DETECTED:
        return (f"detect.{label}", "propose")
    return ("propose",) if label in ("", "proposals") else (f"import.{label}",)


def _method(recipe: Recipe, name: str) -> Mapping[str, Any]:
    if name.partition(".")[2] in DETECTED:
        return {"evaluate": recipe.evaluate, "proposal_sources": recipe.mil.proposal_sources}
    return {"evaluate": recipe.evaluate, "sources": named_sources(recipe)}


STAGE = Stage(
    verb="evaluate",
    help="measure how many true objects the proposals cover, per source",
    reads=_reads,
    method=_method,
    execute=execute,
)
