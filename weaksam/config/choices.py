"""Options that choose among the members of a family, ours or another package's (``weaksam.registry``).

``Choice`` is of an option that holds the options of one member, ``detector: {name: dino, queries: 300}``; ``Name`` is of one
that holds a member's name alone. Both are marks of a type, and look into the registry when a recipe is read.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from weaksam.errors import OptionError
from weaksam.registry import Registry, load


@dataclass(frozen=True, kw_only=True)
class Member:
    """The options of a member of a family; free of torch, so that a recipe can be read without it."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    implementation: ClassVar[str]  # "module:Class" that these options are of; imported when one is built

    name: str = ""  # of the member in its family's registry


ReadOptions = Callable[[type[Member], Any], Member]  # of plain values; what is wrong with these is the reader's to say


@dataclass(frozen=True)
class Choice:
    """Marks the type of an option that holds the options of one member of a family.

    ``detector: dino`` is short for ``detector: {name: dino}``; without a name the options are those of ``default``.
    """

    registry: str  # "module:REGISTRY" of name -> options, a ``Member``
    default: str

    def long_form(self, given: Any) -> Any:
        """Return the options of a member for its name; anything else as it is."""
        return {"name": given} if isinstance(given, str) else given

    def name_in(self, given: Any) -> Any:
        """Return which member is meant by options in their long form, or by none."""
        return given.get("name", self.default) if isinstance(given, dict) else self.default

    def member_in(self, given: Any) -> type[Member] | None:
        """Return the options of the member that ``given`` means; None if there is no such member."""
        family: Registry[type[Member]] = load(self.registry)
        name = self.name_in(self.long_form(given))
        return family[name] if isinstance(name, str) and name in family else None

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> Any:
        """Let pydantic, which reads recipes, check the options of the member that is named.

        Who has it read anything passes as its context how options are read, a ``ReadOptions``.
        """
        from pydantic_core import core_schema

        def check(given: Any, info: Any) -> Member:
            read: ReadOptions = info.context
            options = self.long_form(given)
            member = self.member_in(options)
            if member is None:
                raise OptionError("name", _expected(load(self.registry), self.name_in(options)))
            return read(member, options)

        return core_schema.with_info_plain_validator_function(check)


@dataclass(frozen=True)
class Name:
    """Marks the type of an option that holds the name of one member of a family."""

    registry: str  # "module:REGISTRY"
    besides: tuple[str, ...] = ()  # what it may say in the place of a member

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let pydantic, which reads recipes, check that there is such a member."""
        from pydantic_core import core_schema

        def check(given: str) -> str:
            names = (*self.besides, *load(self.registry))
            if given not in names:
                raise ValueError(_expected(names, given))
            return given

        return core_schema.no_info_after_validator_function(check, handler(source))


def _expected(names: Collection[str], got: Any) -> str:
    close = difflib.get_close_matches(str(got), names, n=1)
    return f"expected one of {', '.join(names)}, got {got!r:.200}{f'; did you mean {close[0]}?' if close else ''}"
