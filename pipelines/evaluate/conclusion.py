"""How a measurement of splits ends: its figures are kept, shown split by split, and summed up in a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.engine.stage import Job
from pipelines.engine.voice import TextTable
from pipelines.products.measured import Evaluation, EvaluationFacts
from weaksam.structures import IMAGE_LABELS

Splits = Mapping[str, Mapping[str, Any]]  # what was measured of each


def conclude(
    job: Job[Any],
    kind: str,
    splits: Splits,
    *,
    class_names: Sequence[str],
    supervision: str,
    tables: Sequence[Callable[[str, Mapping[str, Any]], TextTable | None]],
    summary: Callable[[str, Mapping[str, Any]], str],
) -> EvaluationFacts:
    """Keep the figures under ``kind``, print the tables of each split, and return what the manifest says of them."""
    Evaluation(job.instance).write({"class_names": list(class_names), "supervision": supervision, kind: splits})
    for split, measured in splits.items():
        for table in tables:
            if (text_table := table(split, measured)) is not None:
                job.voice.table(text_table)
    text = " · ".join(summary(split, measured) for split, measured in splits.items()) or "no image to measure"
    marked = text if supervision == IMAGE_LABELS else f"{text} · supervision: {supervision}"
    return EvaluationFacts(text=marked, supervision=supervision)
