"""What analyses have found, by their question."""

from __future__ import annotations

from typing import Any

from pipelines.page.shown_run import ShownRun
from pipelines.products.measured import Analysis


def analyses(run: ShownRun, question: str) -> dict[str, dict[str, Any]]:
    """Return the answers of the analyses that ask a question of ``QUESTIONS``, by instance name."""
    asked = {n: a for n, a in run.of_kind(Analysis).items() if run.recipe.of(n).analyse.question == question}
    found = {name: analysis.read() for name, analysis in asked.items()}
    return {name: answer for name, answer in found.items() if answer}
