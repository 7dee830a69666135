"""The dashboard asks for what the stages tell, by its name, and leaves none of it out."""

from __future__ import annotations

import re

import pytest

from pipelines.engine.metrics import PREFIX, Metric
from tests.support.dashboard import Query, dashboard, parse, queries

TAGS = {f"{PREFIX}{metric.value}": set(metric.tags) for metric in Metric}


def mistakes(query: Query) -> list[str]:
    """What a query asks for that no stage tells."""
    found = [f"no metric {name}" for name in query.metrics.keys() - TAGS.keys()]
    known = set.intersection(*(TAGS[name] for name in query.metrics.keys() & TAGS.keys())) if not found else set[str]()
    asked = set[str]().union(*query.metrics.values(), query.grouped_by)
    found += [f"no label {name}" for name in sorted(asked - known)]
    return found + [f"{name} in the legend, which is not grouped by" for name in sorted(query.shown - query.grouped_by)]


def test_every_query_names_what_there_is() -> None:
    assert {query.text: mistakes(query) for query in queries() if mistakes(query)} == {}


def test_every_metric_is_shown() -> None:
    assert set[str]().union(*(query.metrics for query in queries())) == TAGS.keys()


def test_variables_are_those_that_are_used_and_ask_for_what_there_is() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", str(dashboard()["panels"]))) == variables.keys() == {"prometheus", "run"}
    ((metric, label),) = re.findall(r"^label_values\((\w+), (\w+)\)$", variables["run"]["query"]["query"])
    assert label in TAGS[metric]


def test_panels_have_a_place_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24  # columns of Grafana


WRONG = {
    'ray_weaksam_images_don{run="a"}': ["no metric ray_weaksam_images_don", "no label run"],
    'weaksam_images_done{run="a"}': ["no metric weaksam_images_done", "no label run"],
    'max by (stage) (ray_weaksam_images_done{runs=~"$run"})': ["no label runs"],
    "max by (reason) (ray_weaksam_images_done{})": ["no label reason"],
    'max by (reason) (ray_weaksam_images_dropped{run=~"$run"})': [],
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_in_a_query_is_found(text: str) -> None:
    assert mistakes(parse(text)) == WRONG[text]


def test_a_legend_shows_what_is_grouped_by() -> None:
    text = 'max by (stage) (ray_weaksam_images_done{run=~"$run"})'
    assert mistakes(parse(text, "{{stage}}")) == []
    assert mistakes(parse(text, "{{stage}} {{label}}")) == ["label in the legend, which is not grouped by"]


def test_a_query_that_is_not_understood_is_none() -> None:
    with pytest.raises(AssertionError, match="quantile is not understood"):
        parse('quantile (ray_weaksam_images_done{run="a"})')
