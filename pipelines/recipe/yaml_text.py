"""YAML that people write and read: strict where it is read, with the origin of each value where it is shown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pipelines.recipe.keys import to_plain
from weaksam.errors import ConfigError

_MOST_VALUES = 100_000  # of a file, as often as aliases repeat them: a few lines can say more than a memory holds


class StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a name given twice in one mapping, reads 6e-4 as a number and leaves dates as they are."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, each of whose names is given once."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="expected a name before the colon", problem_mark=key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class _LineDumper(yaml.SafeDumper):
    """Safe YAML with every value on one line, so that a remark can follow it."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\n" in data else None)


_LineDumper.add_representer(str, _LineDumper.represent_str)


def read_mapping(path: Path, of: str) -> dict[str, Any]:
    """Return what a YAML file maps; raise ConfigError if it is not valid, or no mapping of ``of``."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    return mapping_in(text, str(path), of)


def parse(text: str, trouble: str) -> Any:
    """Return what YAML says; raise ConfigError, beginning with ``trouble``, if it says nothing that JSON could."""
    try:
        return deepcopy(_parsed(text))
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # The others are what its constructors make of values that do not fit their tags, and of nesting without end.
        raise ConfigError(f"{trouble}: {error}") from error


@lru_cache(maxsize=1024)  # a sweep reads the same few files and values thousands of times
def _parsed(text: str) -> Any:
    value = yaml.load(text, Loader=StrictLoader)
    if (count := _count(value, {})) > _MOST_VALUES:
        raise ValueError(f"it says {count:,} values, aliases counted as what they repeat; at most {_MOST_VALUES:,} fit")
    json.dumps(value, default=str)  # a value may contain itself
    return value


def _count(value: Any, known: dict[int, int]) -> int:
    """Return how many values a value holds, each as often as aliases repeat it; ``known`` are those counted before."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # within itself
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


def mapping_in(text: str, where: str, of: str) -> dict[str, Any]:
    """Return the mapping of ``of`` that YAML says; raise ConfigError, naming ``where`` it stands, if it says none."""
    content = parse(text, f"{where}: not valid YAML")
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a mapping of {of}, got {type(content).__name__}")
    return content


def render(recipe: Any, origins: Mapping[str, str] | None = None) -> str:
    """Return the whole recipe as YAML, each value that some file set followed by that file's name."""
    text: str = yaml.dump(
        to_plain(recipe),
        Dumper=_LineDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=math.inf,
    )
    if not origins:
        return text
    lines, path = [], list[str]()
    for line in text.splitlines():
        name, colon, _rest = line.strip().partition(":")
        if colon and not line.strip().startswith("- "):
            path = [*path[: (len(line) - len(line.lstrip())) // 2], name]
            origin = origins.get(".".join(path))
            lines.append(f"{line}  # {origin}" if origin else line)
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"
