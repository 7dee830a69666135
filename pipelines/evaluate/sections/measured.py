"""What evaluations have measured, by what they measured."""

from __future__ import annotations

from typing import Any

from pipelines.page.shown_run import ShownRun
from pipelines.products.measured import Evaluation


def evaluations(run: ShownRun, key: str) -> dict[str, dict[str, Any]]:
    """Return the figures of the evaluations whose results stand under ``key``, by instance name."""
    found = {name: evaluation.read() for name, evaluation in run.of_kind(Evaluation).items()}
    return {name: figures for name, figures in found.items() if key in figures}
