"""Figures that were measured: of proposals, detections and pseudo labels, and the answers of analyses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.engine.product import Facts, Product
from pipelines.products.rows import RowFacts
from pipelines.store.files import read_object, write_json
from pipelines.store.schemas import PROPOSALS

_METRICS_FILE = "metrics.json"
_ANALYSIS_FILE = "analysis.json"


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts(Facts):
    """What ``evaluate`` says of its figures."""

    supervision: str | None = None  # of what was measured, where it is known


class Evaluation(Product[EvaluationFacts]):
    """The product of ``evaluate``."""

    facts_type = EvaluationFacts

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Keep the figures, plain JSON values."""
        write_json(self.instance.file(_METRICS_FILE), metrics)

    def read(self) -> dict[str, Any]:
        """Return the figures, as the module of ``evaluate`` that measured them documents; empty before there are any."""
        return read_object(self.instance.file(_METRICS_FILE), self.instance.mended_by) or {}


class Analysis(Product[RowFacts]):
    """The product of ``analyse``; its table holds the proposals of controls, where the question has any."""

    schema = PROPOSALS
    facts_type = RowFacts

    def write(self, analysis: Mapping[str, Any]) -> None:
        """Keep the answer, plain JSON values."""
        write_json(self.instance.file(_ANALYSIS_FILE), analysis)

    def read(self) -> dict[str, Any]:
        """Return the answer, as the module of ``analyse`` that gave it documents; empty before there is one."""
        return read_object(self.instance.file(_ANALYSIS_FILE), self.instance.mended_by) or {}
