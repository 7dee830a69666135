"""Paths ``a.b`` to values of a recipe."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.recipe.model import Recipe
from pipelines.recipe.yaml_text import parse
from weaksam.errors import ConfigError


def value_at(recipe: Recipe, path: str, where: str) -> Any:
    """Return the value at a path; raise ConfigError, beginning with ``where``, if a recipe has no such field.

    A path may begin with an instance, ``retrain.masks.lr``, as an override may.
    """
    value, parts = recipe.place_of(path)
    for part in parts:
        fields = getattr(value, "__dict__", {})
        if part not in fields:
            close = difflib.get_close_matches(part, fields, n=1)
            raise ConfigError(
                f"{where}: {path}: no such field of a recipe{f'; did you mean {close[0]}?' if close else ''}"
            )
        value = fields[part]
    return value


def leaves(path: str, value: Any) -> Iterator[str]:
    """Yield the paths of the single values that a value consists of; those of a mapping are its values'."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from leaves(f"{path}.{name}", part)
    else:
        yield path


def leaves_of_override(item: str) -> list[str]:
    """Return the paths of the single values that an override ``a.b=c`` gives; raise ConfigError if it is not valid YAML."""
    path, _, text = item.partition("=")
    return list(leaves(path.strip(), parse(text, f"--set {item}: the value is not valid YAML")))


def covering(path: str, others: Iterable[str]) -> str | None:
    """Return which other path is of the same value, or of one that holds it: what is given there hides it."""
    return next((other for other in others if f"{path}.".startswith(f"{other}.")), None)
