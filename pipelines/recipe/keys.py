"""What of a stage's options enters an instance's key: decided by the type and the mark of each field, in one place.

An option that can change a result by itself enters with its value. What is read (``Input``) enters by the key of the instance
that is read, weights (``Weights``) by what they hold and not by where they lie, and what is marked ``NotInKey`` never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, NewType, TypeVar, get_type_hints

from pydantic import BaseModel, BeforeValidator

from weaksam.config.weights import NOT_IN_KEY, Weights

T = TypeVar("T")
# The name of an instance that is read: ``verb`` or ``verb.label``; "" = none.
Input = NewType("Input", str)
INDEX = Input("index")  # that of the run's data set, which nearly every stage reads
NOTHING = Input("")


def _one_or_several(given: Any) -> Any:
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


# Several instances that are read; a recipe may say one alone.
Inputs = Annotated[tuple[Input, ...], BeforeValidator(_one_or_several)]


def reads(default: str, *verbs: str) -> Any:
    """Declare an option of the type ``Input``, and the verbs that it may be of; "" may be none."""
    return field(default=Input(default), metadata={"verbs": verbs})


def reads_several(*verbs: str, default: tuple[str, ...] = ()) -> Any:
    """Declare an option of the type ``Inputs``, and the verbs that they may be of."""
    return field(default=tuple(Input(name) for name in default), metadata={"verbs": verbs})


def method_of(options: Any) -> dict[str, Any]:
    """Return as plain values the options, a dataclass, that can change a result by themselves."""
    kind: type = type(options)
    return {name: _plain_method(getattr(options, name)) for name in _method_fields(kind)}


def inputs_of(options: Any) -> tuple[str, ...]:
    """Return the names of the instances that options, a dataclass, read: its fields of type ``Input`` or ``Inputs``."""
    named: list[str] = []
    kind: type = type(options)
    for name, hint in _hints(kind).items():
        value = getattr(options, name)
        if hint is Input:
            named.append(value)
        elif hint == Inputs:
            named += value
    return tuple(dict.fromkeys(name for name in named if name))


def weights_of(options: Any, path: str = "") -> Iterator[tuple[str, Weights]]:
    """Yield every option of type ``Weights`` that is given and may enter a key, with its path ``a.b``."""
    kind: type = type(options)
    for name, hint in _hints(kind).items():
        value = getattr(options, name)
        if isinstance(value, Weights):
            if value:
                yield f"{path}{name}", value
        elif not _is_marked(hint) and is_dataclass(value):
            yield from weights_of(value, f"{path}{name}.")


def with_weights(options: T, change: Callable[[Weights], Weights]) -> T:
    """Return the same options, a dataclass, with every ``Weights`` in them changed, be they in the key or not."""
    if not is_dataclass(options) or isinstance(options, type):
        return options
    changed = {}
    for option in fields(options):
        value = getattr(options, option.name)
        new = change(value) if isinstance(value, Weights) else with_weights(value, change)
        if new is not value:
            changed[option.name] = new
    return replace(options, **changed) if changed else options


def to_plain(value: Any) -> Any:
    """Return a config as plain JSON values, as they enter keys, manifests and ``recipe.yaml``."""
    if isinstance(value, BaseModel):
        return {name: to_plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {name: to_plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return value


def _plain_method(value: Any) -> Any:
    return method_of(value) if is_dataclass(value) else to_plain(value)


@cache
def _method_fields(kind: type) -> tuple[str, ...]:
    left_out = (Input, Inputs, Weights)
    return tuple(name for name, hint in _hints(kind).items() if hint not in left_out and not _is_marked(hint))


def _is_marked(hint: Any) -> bool:
    return NOT_IN_KEY in getattr(hint, "__metadata__", ())


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in fields(kind)}
