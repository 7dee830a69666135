"""What analyses have found, by their question."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pipelines.analyse.prompts import ANALYSIS_FILE
from pipelines.analyse.stage import question_of
from pipelines.page.shown_run import ShownRun
from pipelines.store.tables import read_json


def analyses(run: ShownRun, question: ModuleType) -> dict[str, dict[str, Any]]:
    """Return the ``analysis.json`` of the analyses that answer a question, by instance name."""
    asked = {n: i for n, i in run.of_verb("analyse").items() if question_of(run.recipe.of(n)) is question}
    found = {name: read_json(instance.file(ANALYSIS_FILE)) for name, instance in asked.items()}
    return {name: content for name, content in found.items() if content is not None}
