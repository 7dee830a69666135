"""A page of sections as HTML, complete in itself: no scripts, no files beside it, no requests.

Templates are Jinja's. Every string that is not markup already is escaped, in our templates and in those of other packages.
A template may import ``pipelines.page/templates/parts.html.j2``: tables, figures and pictures as they look on every page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from pipelines.page.section import S, Section, TemplateFile, View
from pipelines.store.numbers import percent

if TYPE_CHECKING:
    import jinja2

_PAGE = "pipelines.page/templates/page.html.j2"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a page says around its sections."""

    title: str  # of the browser's window
    heading: str
    description: str = ""
    footer: str


def render_page(frame: Frame, sections: Iterable[Section[S]], subject: S) -> str:
    """Lay out what the sections show of ``subject``; those that show nothing of it are left out."""
    views = [(section, section.view(subject)) for section in sections]
    shown = [(section, view) for section, view in views if view is not None]
    page: str = (
        _templates()
        .get_template(_PAGE)
        .render(
            frame=frame,
            sections=[(section, render_section(section, view)) for section, view in shown],
            pictures=next((pictures for section, view in shown if (pictures := section.pictures(view))), ()),
            tiles=[tile for section, view in shown for tile in section.tiles(view)],
            alerts=[(section.id, alerts) for section, view in shown if (alerts := section.alerts(view))],
        )
    )
    return page


def render_section(section: Section[Any], view: View) -> Any:
    """Fill a section's template; return markup."""
    from markupsafe import Markup

    template = section.template
    if isinstance(template, TemplateFile):
        filled = _templates().get_template(f"{template.package}/{template.file}").render(view)
    else:
        filled = _templates().from_string(template).render(view)
    return Markup(filled)


@cache
def _templates() -> jinja2.Environment:
    """Return the templates of all packages, each by ``package/file``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "grouped": "{:,}".format}
    return environment


def _source(name: str) -> str | None:
    package, _, path = name.partition("/")
    file = resources.files(package).joinpath(path)
    return file.read_text(encoding="utf-8") if file.is_file() else None
