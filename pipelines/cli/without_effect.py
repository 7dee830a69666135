"""Values that people set and nothing reads: those of a stage that is not asked for, or of an instance of another name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

from pipelines.engine.voice import Tone, Toned, Voice
from pipelines.recipe.model import Recipe, load_recipe, shipped_on
from pipelines.registry import asked_of
from weaksam.errors import ConfigError

# Of some values ``a.b=c``: the recipes that they make, each with all instances that are asked for.
Asked = Callable[[Sequence[str]], Iterable[tuple[Recipe, Sequence[str]]]]

_OF_THE_WHOLE_RUN = ("resources.", "weights.", "name=", "description=")  # beginnings of values that no stage need read


def warn(voice: Voice, given: Iterable[str], values: Sequence[str], asked: Asked) -> None:
    """Say which of the values given by ``--set`` change nothing; see ``without_effect``."""
    unread = list(without_effect(given, values, asked))
    recipe = next(iter(asked(values)))[0].name if unread else ""
    for item in unread:
        other = _other_that_reads(item, recipe)
        hint = f"; recipe {other} has one that does" if other else ""
        voice.say(Toned(f"--set {item} changes nothing: no stage that is asked for reads it{hint}", Tone.WARNING))


def _other_that_reads(item: str, recipe: str) -> str:
    """Return the first of the shipped recipes laid over ``recipe`` that has a stage which reads ``a.b=c``; "" if none has."""

    def asked(values: Sequence[str]) -> Iterator[tuple[Recipe, Sequence[str]]]:
        loaded, _ = load_recipe(name, values)
        yield loaded, loaded.stages

    for name in shipped_on(recipe):
        with suppress(ConfigError):
            if not any(without_effect([item], [item], asked)):
                return name
    return ""


def without_effect(given: Iterable[str], values: Sequence[str], asked: Asked) -> Iterator[str]:
    """Yield the values that change a recipe, but nothing that an instance which is asked for depends on.

    Args:
        given: those that are looked at; all are among ``values``.
        values: all that are set.
        asked: what they ask for; told fewer of them, it returns the recipes in the same order, or raises ConfigError where
            some do not go without others.
    """
    looked_at = [item for item in given if not item.startswith(_OF_THE_WHOLE_RUN)]
    if not looked_at:
        return
    try:
        whole = [(recipe, _options(recipe, names)) for recipe, names in asked(values)]
    except ConfigError:  # some of it cannot be, which is said with its place when it is to be made
        return
    for item in looked_at:
        changes = False
        try:
            for (recipe, options), (without, names) in zip(whole, asked([v for v in values if v != item]), strict=True):
                changes = changes or without != recipe
                if list(options) != list(names) or options != _options(without, names):
                    break
            else:
                if changes:
                    yield item
        except ConfigError:  # the others go with it
            continue


def _options(recipe: Recipe, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the options of instances by name, but for the recipe itself, which pages only show."""
    asked = {name: asked_of(recipe, name)[1] for name in names}
    return {
        name: [value for f in fields(options) if not isinstance(value := getattr(options, f.name), Recipe)]
        for name, options in asked.items()
    }
