"""What evaluations have measured, by what they measured."""

from __future__ import annotations

from typing import Any

from pipelines.evaluate.proposals import METRICS_FILE
from pipelines.page.shown_run import ShownRun
from pipelines.store.tables import read_json


def evaluations(run: ShownRun, key: str) -> dict[str, dict[str, Any]]:
    """Return the ``metrics.json`` of the evaluations whose results stand under ``key``, by instance name."""
    found = {name: read_json(instance.file(METRICS_FILE)) for name, instance in run.of_verb("evaluate").items()}
    return {name: content for name, content in found.items() if content is not None and key in content}
