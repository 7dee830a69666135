"""The analyse stage: questions about the method that the evaluation does not answer, one per label.

``analyse.similarity`` asks how alike the proposals of an image are (Fig. 6); every other label asks whether the clues say
*where* (Table 4). Every instance leaves an ``analysis.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines import analyse_prompts, analyse_similarity
from pipelines.recipe import Recipe
from pipelines.stage import Job, Stage


def execute(job: Job) -> dict[str, Any]:
    """Analyse what the instance's label says."""
    return analyse_similarity.execute(job) if is_similarity(job.instance.name) else analyse_prompts.execute(job)


def is_similarity(name: str) -> bool:
    """Whether the instance of this name asks how alike proposals are, and not about prompts."""
    return name.partition(".")[2] == analyse_similarity.LABEL


def _reads(recipe: Recipe, name: str) -> tuple[str, ...]:
    return analyse_similarity.reads(recipe) if is_similarity(name) else ("index", "propose")


def _method(recipe: Recipe, name: str) -> Mapping[str, Any]:
    return analyse_similarity.method(recipe) if is_similarity(name) else analyse_prompts.method(recipe)


STAGE = Stage(
    verb="analyse",
    help="compare the clues with as many random points and with a denser grid (Table 4), or proposals with each other (Fig. 6)",
    reads=_reads,
    method=_method,
    execute=execute,
)
