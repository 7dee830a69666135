"""What evaluations have measured, by what they measured, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipelines.page.charts import bar
from pipelines.page.shown_run import ShownRun
from pipelines.products.measured import Evaluation
from pipelines.store.numbers import percent


def evaluations(run: ShownRun, key: str) -> dict[str, dict[str, Any]]:
    """Return the figures of the evaluations whose results stand under ``key``, by instance name."""
    found = {name: evaluation.read() for name, evaluation in run.of_kind(Evaluation).items()}
    return {name: figures for name, figures in found.items() if key in figures}


def shares_bar(shares: Mapping[str, float | None]) -> Markup:
    """Return a bar of shares by name; nothing where they are not known."""
    known = {name: share for name, share in shares.items() if share is not None}
    tooltip = ", ".join(f"{name} {percent(share)} %" for name, share in known.items())
    return bar(known, tooltip=tooltip) if known else Markup("")
