"""Run folders: where each stage instance lives, what it was asked to do, and the proof that it is done.

    RUN/recipe.yaml   RUN/<instance>/current   RUN/<instance>/<KEY>/part-*.parquet  _dropped/  _plan.json  _manifest.json  _lock

The key is a short hash of everything that can change the result, so results of different settings never share a folder.
``_plan.json`` is written before the first row, ``_manifest.json`` after the proof; ``current`` names the key worked on last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.store import integrity
from pipelines.store.files import DamagedFileError, read_object, set_aside, write_bytes, write_json
from pipelines.store.schemas import DROPPED
from pipelines.store.tables import Table
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs

logger = logging.getLogger(__name__)


def instance_key(parts: Mapping[str, Any]) -> str:
    """Return the 12-hex-digit key of a stage instance from everything that can change its result."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Instance:
    """One stage instance: ``name`` is ``verb`` or ``verb.label``, ``folder`` is its own and nobody else's."""

    run_uri: str
    name: str
    key: str

    @property
    def folder(self) -> str:
        """Where its files are."""
        return join(self.run_uri, self.name, self.key)

    @property
    def mended_by(self) -> str:
        """The command that makes the instance, for messages."""
        verb, _, label = self.name.partition(".")
        if verb == "import":
            return f"`weaksam import {self.run_uri} FILE --name {label}`"
        if verb == "true-boxes":  # a recipe need not say what noise they were made with
            return f"`weaksam export {self.run_uri} --as pseudo-labels --name {label} [--noise SHARE --seed N]`"
        return f"`weaksam {verb} {self.run_uri}{f' --label {label}' if label else ''}`"

    @property
    def dropped(self) -> Table:
        """One row per image that could not be processed."""
        return Table(join(self.folder, "_dropped"), DROPPED, self.mended_by)

    def table(self, schema: pa.Schema) -> Table:
        """Return the instance's table."""
        return Table(self.folder, schema, self.mended_by)

    def file(self, *names: str) -> str:
        """Return the URI of a file of the instance."""
        return join(self.folder, *names)

    def plan(self) -> dict[str, Any] | None:
        """Return what the instance was asked to do, or None before it started; raise DamagedFileError if nobody can tell."""
        return self._read("_plan.json", {"parts": dict})

    def manifest(self) -> dict[str, Any] | None:
        """Return what the instance has proved to have done, or None while it is not finished; raises as ``plan``."""
        kinds = {"text": str, "images": dict, "reads": dict, "files": dict, "parts": int, "rows": dict}
        return self._read("_manifest.json", kinds)

    def state(self) -> dict[str, Any]:
        """Return which instance this is, and what those that read it find in it; raises as ``plan``.

        Who has read it has to read it again when this changes: rows that --retry-dropped brings back, or files that were
        damaged and came out otherwise when they were made again, leave the key as it is.
        """
        manifest = self.manifest() or {}
        return {"key": self.key, **{name: manifest[name] for name in ("rows", "files") if name in manifest}}

    def begin(self, parts: Mapping[str, Any], *, make_current: bool = True) -> None:
        """Record what is going to be done, before the first row, and make this the current instance of its name."""
        write_json(self.file("_plan.json"), {"instance": self.name, "key": self.key, "parts": parts})
        if make_current:
            self.make_current()

    def make_current(self) -> None:
        """Make this the instance of its name that is shown, and that cleaning keeps."""
        try:
            if current_instance(self.run_uri, self.name) == self:
                return
        except DamagedFileError as error:
            set_aside(join(self.run_uri, self.name), {"current": error.reason})
        write_bytes(join(self.run_uri, self.name, "current"), f"{self.key}\n".encode())

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Record that the work is done and proved, and what it left behind; return the manifest."""
        manifest = {"instance": self.name, "key": self.key, **summary, **integrity.record(self.folder)}
        write_json(self.file("_manifest.json"), manifest)
        return manifest

    def reopen(self) -> None:
        """Withdraw the manifest, if there is one, because rows are about to change."""
        fs, path = open_fs(self.file("_manifest.json"))
        if fs.exists(path):
            fs.rm_file(path)

    def finished(self, schema: pa.Schema | None) -> dict[str, Any] | None:
        """Return the manifest if the instance is finished and its files read as they were written; see ``damage``."""
        with suppress(DamagedFileError):
            manifest = self.manifest()
            return None if manifest is None or self.damage(schema) else manifest
        return None

    def damage(self, schema: pa.Schema | None) -> dict[str, str]:
        """Return what is wrong with the files of a finished instance, by name in its folder; its parts are read to their end.

        Args:
            schema: of its table; None where it has none.
        """
        found = {}
        for name, read in (("_plan.json", self.plan), ("_manifest.json", self.manifest)):
            try:
                read()
            except DamagedFileError as error:
                found[name] = error.reason
        manifest = {} if "_manifest.json" in found else self.manifest() or {}
        found |= integrity.damage(self.folder, manifest, None if schema is None else self.table(schema))
        return found | {f"_dropped/{name}": reason for name, reason in self.dropped.damaged().items()}

    def set_aside_damaged(self, schema: pa.Schema | None) -> None:
        """Move damaged files out of the way; see ``damage``. Only for the holder of the lock."""
        self.dropped.set_aside_damaged()
        fs, root = open_fs(self.folder)
        found = self.damage(schema)
        there = {name: reason for name, reason in found.items() if name and fs.exists(posixpath.join(root, name))}
        set_aside(self.folder, there)
        for name in found.keys() - there.keys():
            logger.warning("%s: %s; made again now", self.file(name) if name else self.folder, found[name])

    def previous(self) -> Instance | None:
        """Return the instance of the same name that was worked on last, if it is another one and known."""
        with suppress(DamagedFileError):
            current = current_instance(self.run_uri, self.name)
            return None if current is None or current.key == self.key else current
        return None

    def _read(self, name: str, kinds: Mapping[str, type]) -> dict[str, Any] | None:
        content = read_object(self.file(name), self.mended_by)
        for field, kind in kinds.items():
            if content is not None and field in content and not isinstance(content[field], kind):
                got = type(content[field]).__name__
                raise DamagedFileError(self.file(name), f"{field}: expected {kind.__name__}, got {got}", self.mended_by)
        return content


def current_instance(run_uri: str, name: str) -> Instance | None:
    """Return the instance of this name that was worked on last, or None; raise DamagedFileError if nobody can tell."""
    uri = join(run_uri, name, "current")
    fs, path = open_fs(uri)
    fs.invalidate_cache()
    try:
        data = fs.cat_file(path)
    except (FileNotFoundError, NotADirectoryError):  # no such instance; a file of the run folder, such as recipe.yaml
        return None
    except IsADirectoryError:
        data = b"(a folder)"
    key = data.decode(errors="replace").strip()
    if not key.isalnum():
        raise DamagedFileError(
            uri, f"expected the key of an instance, got {key[:40]!r}", Instance(run_uri, name, "").mended_by
        )
    return Instance(run_uri, name, key)


def finished_instance(run_uri: str, name: str) -> Instance:
    """Return the current instance of this name; raise RunError unless it is finished."""
    instance = current_instance(run_uri, name)
    if instance is None or instance.manifest() is None:
        state = "has not been run" if instance is None else "is not finished"
        raise RunError(f"{run_uri}: {name} {state}; run {Instance(run_uri, name, '').mended_by} first")
    return instance


def current_instances(run_uri: str) -> list[Instance]:
    """Return the current instance of every name in a run folder, in name order; empty when there is no such folder."""
    fs, root = open_fs(run_uri)
    fs.invalidate_cache()
    if not fs.exists(root):
        return []
    names = sorted(posixpath.basename(path.rstrip("/")) for path in fs.ls(root, detail=False))
    found = (current_instance(run_uri, name) for name in names if not name.startswith(("preview-", "_", ".")))
    return [instance for instance in found if instance is not None]


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the fields in which two plans differ, as ``a.b: old -> new`` lines in field order."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for name in [*old, *(n for n in new if n not in old)]:
            lines += differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        return lines
    return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What became of the planned images, counted from files."""

    images: int  # planned
    done: int
    dropped: int
    duplicates: int = 0

    def __str__(self) -> str:
        """The line that a stage ends with."""
        return (
            f"images {self.images:,} = done {self.done:,} + dropped {self.dropped:,} · duplicates {self.duplicates:,}"
        )


def prove(planned: list[str], table: Table, dropped: Table) -> Proof:
    """Compute from the files what became of the planned images; raise RunError unless each is done or dropped exactly once."""
    done = table.ids()
    lost = set(dropped.ids()) - set(done)
    duplicates = len(done) - len(set(done))
    missing = set(planned) - set(done) - lost
    surplus = (set(done) | lost) - set(planned)
    proof = Proof(images=len(planned), done=len(set(done)), dropped=len(lost), duplicates=duplicates)
    if missing or surplus or duplicates:
        some = ", ".join(sorted(missing | surplus)[:5])
        raise RunError(
            f"{table.folder}: the proof does not hold: {proof}, missing {len(missing):,}, not asked for {len(surplus):,} "
            f"({some}). Run the same command again; if it persists, delete {table.folder} and run it once more"
        )
    return proof
