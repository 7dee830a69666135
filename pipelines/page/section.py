"""A section of a page: what it shows, the template that lays it out, and what of it stands at the top of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from pipelines.page.pictures import Picture
from weaksam.errors import ConfigError

S = TypeVar("S")
View = Mapping[str, Any]  # what a template shows, by the names that it uses


class TemplateFile(NamedTuple):
    """A template in a package."""

    package: str
    file: str  # path within the package


class Tile(NamedTuple):
    """A key figure at the top of a page."""

    name: str
    figure: str
    remark: str = ""


def beside(module: str) -> TemplateFile:
    """Return the template beside a module: the file of the module's name that ends in ``.html.j2``."""
    package, _, name = module.rpartition(".")
    return TemplateFile(package, f"{name}.html.j2")


def nothing(_view: View) -> Sequence[Any]:
    """Give nothing to the top of the page."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Section(Generic[S]):
    """A part of a page, with a heading of its own. ``S`` is what the page shows: a run, a sweep."""

    id: str  # the name of its anchor
    title: str  # its heading
    link: str = ""  # its name in the navigation; "" = the title
    view: Callable[[S], View | None]  # what the template shows; None where the section has nothing to show
    template: TemplateFile | str  # a file, or the Jinja markup itself; strings of the view are escaped in both
    before: str = ""  # the id of the section that it stands before; "" = where it is listed
    # What of the view stands at the top of the page. The first section with pictures gives the row of pictures.
    pictures: Callable[[View], Sequence[Picture]] = nothing
    tiles: Callable[[View], Sequence[Tile]] = nothing
    alerts: Callable[[View], Sequence[str]] = nothing  # what readers must know before they read any figure


def in_order(sections: Iterable[Section[S]]) -> list[Section[S]]:
    """Return sections as they stand on the page: as listed, and those that name another before it.

    Raises:
        ConfigError: two have the same id, or one names a section that is not listed before it.
    """
    placed: list[Section[S]] = []
    for section in sections:
        ids = [other.id for other in placed]
        if section.id in ids:
            raise ConfigError(f"report section {section.id!r}: expected an id of its own, got that of another section")
        if section.before and section.before not in ids:
            raise ConfigError(
                f"report section {section.id!r}: before: expected one of {', '.join(ids)}, got {section.before!r}"
            )
        placed.insert(ids.index(section.before) if section.before else len(ids), section)
    return placed
