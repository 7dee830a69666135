"""Every section of a run's page: on an empty run, on one that has what it shows, and with names that are no names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from pipelines.analyse import QUESTIONS
from pipelines.page.render import render_section
from pipelines.page.section import Section, in_order
from pipelines.page.shown_run import ShownRun
from pipelines.recipe.model import load_recipe, standard_instances, verb_of
from pipelines.report import SECTIONS
from pipelines.report import stage as report
from tests.support.full_run import FULL_RUN, write_full_run
from tests.support.page import NASTY, Page, shown_run, text_of
from weaksam import registry
from weaksam.errors import ConfigError
from weaksam.registry import Registry

OF_RESULTS = set(SECTIONS) - {
    "gallery",
    "failures",
    "seeds",
    "stages",
    "dropped",
    "run",
}  # these show tables and manifests
RESULTS = [name for name in FULL_RUN if verb_of(name) in ("evaluate", "analyse")]

each = pytest.mark.parametrize("name", SECTIONS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ShownRun:
    return write_full_run(str(tmp_path_factory.mktemp("run")))


def view_of(section: Section[ShownRun], run: ShownRun) -> Mapping[str, Any]:
    view = section.view(run)
    assert view is not None
    return view


@each
def test_it_stands_under_its_id_with_a_title(name: str) -> None:
    section = SECTIONS[name]
    assert section.id == name
    assert section.title
    assert section in in_order(SECTIONS.values())


@each
def test_it_shows_nothing_of_an_empty_run(name: str, tmp_path: Path) -> None:
    assert SECTIONS[name].view(shown_run(str(tmp_path))) is None


@each
def test_it_is_well_formed_and_accessible(name: str, run: ShownRun) -> None:
    markup = render_section(SECTIONS[name], view_of(SECTIONS[name], run))
    page = Page(markup)
    assert page.text.strip()
    assert page.open == []
    assert not {"script", "link", "section", "h1", "h2"} & set(page.tags)  # the page has these
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.of("img"))
    assert all("scope" in header for header in page.of("th"))
    assert page.tags.count("caption") == page.tags.count("table")


@each
def test_every_string_that_it_shows_is_escaped(name: str, run: ShownRun) -> None:
    view = view_of(SECTIONS[name], run)
    used_to_look_up = keys_of(view)

    def nasty(value: Any) -> Any:
        if isinstance(value, str):
            return value if isinstance(value, Markup) or value in used_to_look_up else f"{value}{NASTY}"
        if isinstance(value, Mapping):
            return {key: nasty(inner) for key, inner in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(nasty, value))
        if isinstance(value, list | tuple):
            return type(value)(map(nasty, value))
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{field.name: nasty(getattr(value, field.name)) for field in fields(value)})
        return value

    markup = render_section(SECTIONS[name], nasty(view))
    assert NASTY not in markup
    assert "script" not in Page(markup).tags


def keys_of(value: Any) -> set[str]:
    """Every key of a mapping, however deep."""
    inner = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
    return set().union(value if isinstance(value, Mapping) else (), *map(keys_of, inner))


def test_every_kind_of_result_is_in_the_run_that_these_tests_show() -> None:
    assert {name for name in standard_instances() if verb_of(name) in ("evaluate", "analyse")} <= set(RESULTS)
    recipe, _ = load_recipe("shapes")
    asked = {recipe.of(name).analyse.question for name in RESULTS if verb_of(name) == "analyse"}
    assert asked == set(QUESTIONS)


@pytest.mark.parametrize("result", RESULTS)
def test_a_section_shows_every_evaluation_and_every_analysis(result: str, run: ShownRun) -> None:
    without = replace(run, products={name: of for name, of in run.products.items() if name != result})
    changed = {name for name in OF_RESULTS if shown(name, run) != shown(name, without)}
    assert len(changed) == 1, f"{result}: no section of the page shows it, or several do"


def shown(name: str, run: ShownRun) -> str:
    view = SECTIONS[name].view(run)
    return "" if view is None else text_of(render_section(SECTIONS[name], view))


def section(**of: Any) -> Section[Any]:
    return Section(**{"title": "T", "view": lambda _: None, "template": "", **of})


def test_sections_stand_as_listed_or_before_the_one_that_they_name() -> None:
    listed = [section(id="a"), section(id="b"), section(id="c"), section(id="d", before="b")]
    assert [one.id for one in in_order(listed)] == ["a", "d", "b", "c"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param({"id": "a"}, "'a': expected an id of its own", id="taken"),
        pytest.param({"id": "b", "before": "x"}, "'b': before: expected one of a, got 'x'", id="unknown"),
    ],
)
def test_sections_that_cannot_be_placed_are_refused(more: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        in_order([section(id="a"), section(**more)])


def test_markup_of_a_section_is_escaped_and_may_use_the_parts_of_pages() -> None:
    markup = """{% import "pipelines.page/templates/parts.html.j2" as parts %}
{% call parts.table(name) %}<tr><th scope="row">{{ name }}</th><td>{{ share|percent }}</td></tr>{% endcall %}"""
    shown = render_section(section(id="x", template=markup), {"name": NASTY, "share": 0.25})
    assert NASTY not in shown
    assert text_of(shown).strip() == f"{NASTY}25.0"


WEATHER = """
from pipelines.page.section import Section, Tile, beside
SECTION = Section(
    id="weather", title="Weather", before="gallery", view=lambda run: {"recipe": run.recipe.name + "<b>"},
    template=beside(__name__), tiles=lambda view: [Tile("sun", "7 h")],
)
"""


def test_a_section_of_another_package_stands_on_the_page(
    run: ShownRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "others").mkdir()
    for file, text in {"__init__.py": "", "weather.py": WEATHER, "weather.html.j2": "<p>of {{ recipe }}</p>"}.items():
        (tmp_path / "others" / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("weather", "others.weather:SECTION", SECTIONS.group)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == SECTIONS.group else [])
    monkeypatch.setattr(report, "SECTIONS", Registry(SECTIONS.group, SECTIONS._own))
    text = report.page_of(run)
    assert re.findall('<section id="(.*?)"', text)[:3] == ["detections", "weather", "gallery"]
    assert re.findall('<li><a href="#(.*?)">', text)[:3] == ["detections", "weather", "gallery"]
    assert "<p>of drawn&lt;b&gt;</p>" in text
    assert text.index("7 h") < text.index("<nav")
