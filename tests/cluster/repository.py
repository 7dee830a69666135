"""What a cluster is made from, as the checks read it: the files of this repository, or of a copy with something changed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # which is ten times as fast, where there is one
_READ = ("cluster", "requirements.lock", "pyproject.toml", "Makefile", ".dockerignore")


@dataclass(frozen=True)
class Document:
    """One document of a manifest."""

    file: str  # from the root
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.body.get("kind", "launcher"))

    @property
    def name(self) -> str:
        return str(self.body.get("metadata", {}).get("name", self.body.get("cluster_name", "")))

    def found(self, *keys: str) -> list[Any]:
        """Every value under one of some keys, at any depth."""
        return [value for path, value in walk(self.body) if path[-1] in keys]


@dataclass(frozen=True)
class Repository:
    """What the checks read."""

    root: Path = ROOT

    def copied(self, to: Path) -> Repository:
        for name in _READ:
            source = self.root / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, to / name)
        return Repository(to)

    def text(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    @cached_property
    def files(self) -> list[str]:
        """Those of ``cluster/``, from the root."""
        found = (path for path in (self.root / "cluster").rglob("*") if path.is_file())
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    @cached_property
    def documents(self) -> list[Document]:
        names = [name for name in self.files if name.endswith(".yaml")]
        return [Document(name, body) for name in names for body in yaml.load_all(self.text(name), LOADER) if body]

    def of_kind(self, *kinds: str) -> list[Document]:
        return [document for document in self.documents if document.kind in kinds]

    def locked(self, package: str) -> str:
        """The version that requirements.lock pins, "" of a package that it does not have."""
        found = re.search(rf"^{re.escape(package)}==([^\s;]+)", self.text("requirements.lock"), re.MULTILINE)
        return found[1] if found else ""

    @cached_property
    def tag(self) -> str:
        """Of the image: this package's version and Ray's."""
        version = re.search(r'^version = "(.+)"', self.text("pyproject.toml"), re.MULTILINE)
        return f"{version[1] if version else ''}-ray{self.locked('ray')}"


def walk(tree: Any, path: tuple[Any, ...] = ("",)) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every value in a document with the keys that lead to it."""
    yield path, tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from walk(value, (*path, key))
