"""Families of interchangeable members, each imported when it is asked for: ours, and those that other packages register.

A registry is literal, ``{"mist": "weaksam.config.mil:MistConfig"}``, so that naming the members imports none of them. A
package adds its own under an entry point of the family's group::

    [project.entry-points."weaksam.mil_detectors"]
    mine = "my_package.detector.options:MyOptions"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, Generic, TypeVar

from weaksam.errors import ConfigError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """The members of a family by name: ours in the order that is written, then other packages' by name.

    Args:
        group: of entry points, under which other packages register theirs.
        members: our own: name to "module:attribute".
    """

    def __init__(self, group: str, members: Mapping[str, str]) -> None:
        self.group = group
        self._own = dict(members)

    def __getitem__(self, name: str) -> T:
        """Import a member. Raises ``KeyError`` for an unknown name, ``ConfigError`` for one that cannot be imported."""
        target = self._targets[name]
        try:
            member: T = load(target)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.group}: {name!r} cannot be imported from {target} ({error}); install what it needs, or mend the entry "
                "point of its package"
            ) from error
        return member

    def __contains__(self, name: object) -> bool:
        """Whether there is a member of that name; imports nothing."""
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        """Yield the names; imports nothing."""
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    @cached_property
    def _targets(self) -> dict[str, str]:
        targets = dict(self._own)
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            if targets.setdefault(point.name, point.value) != point.value:
                raise ConfigError(
                    f"{self.group}: {point.name!r} is registered twice, as {targets[point.name]} and as {point.value}; rename "
                    "or uninstall one"
                )
        return targets


def load(target: str) -> Any:
    """Import "module:attribute" and return the attribute, which may have dots."""
    module, _, name = target.partition(":")
    return attrgetter(name)(import_module(module))
