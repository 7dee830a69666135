"""The dashboard of a cluster, as a test reads it: its queries, and what they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weaksam

FILE = Path(weaksam.__file__).parents[1] / "cluster" / "grafana" / "weaksam.json"


@dataclass(frozen=True)
class Query:
    """What a query of Prometheus names: metrics with the labels that select among their series, and those it groups by."""

    text: str
    metrics: dict[str, set[str]]
    grouped_by: set[str]
    shown: set[str]  # labels in the legend


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(FILE.read_text())
    return board


def queries() -> Iterator[Query]:
    """Yield the queries of all panels."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield parse(target["expr"], target["legendFormat"])


def parse(text: str, legend: str = "") -> Query:
    """Read a query; one with anything else in it than maxima, sums and ratios of selected series fails."""
    series, grouping = r"\b([a-z_]\w*)\s*\{([^}]*)\}", r"\bby\s*\(([^)]*)\)"
    rest = re.sub(rf"{series}|{grouping}|\b(?:max|sum)\b|[\s()/*+-]", "", text)
    assert not rest, f"{text}: {rest} is not understood"
    return Query(
        text,
        {name: set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) for name, inside in re.findall(series, text)},
        {label.strip() for labels in re.findall(grouping, text) for label in labels.split(",")},
        set(re.findall(r"\{\{(\w+)\}\}", legend)),
    )
