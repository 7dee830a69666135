"""Run folders: where each stage instance lives, what it was asked to do, and the proof that it is done.

    RUN/recipe.yaml   RUN/<instance>/current → KEY SET
    RUN/<instance>/<KEY>/part-*.parquet  _dropped/  _sets/<SET>.plan.json  _sets/<SET>.manifest.json  _lock

The key is a short hash of everything that can change the result, so results of different settings never share a folder. Rows of
images do, whatever set of images they were asked for with: plans and manifests are of one set, named by its digest. A plan is
written before the first row, a manifest after the proof; ``current`` names the key and the set worked on last.

``RUN/preview-N`` is a run folder of its own, whose instances lie in RUN and share its rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from pipelines.store import identities, integrity
from pipelines.store.current import CurrentRows
from pipelines.store.files import DamagedFileError, read_object, set_aside, write_bytes, write_json
from pipelines.store.planned import PLANNED_ROWS, Planned, also_in, digest_of, index_folder, planned_rows
from pipelines.store.schemas import DROPPED, IMAGE_ID, IMAGES, INPUT
from pipelines.store.tables import Rows, Table
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs

logger = logging.getLogger(__name__)

PREVIEW = "preview-"  # how the folders of previews in a run folder begin
SETS = "_sets"  # folder of an instance, of plans and manifests
_WHOLE = "whole"  # set of an instance that is asked for no images: there is one alone


def instance_key(parts: Mapping[str, Any]) -> str:
    """Return the 12-hex-digit key of a stage instance from everything that can change its result."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def rows_uri(run_uri: str) -> str:
    """Return the folder in which the instances of a run lie: its own, or of a preview that which it is a preview of."""
    folder, name = posixpath.split(run_uri.rstrip("/"))
    return folder if name.startswith(PREVIEW) else run_uri


@dataclass(frozen=True)
class Instance:
    """One stage instance: ``name`` is ``verb`` or ``verb.label``, ``folder`` is shared by all sets of images."""

    run_uri: str
    name: str
    key: str
    # The set of images that it is asked for; None: it goes over none, or all that it has.
    planned: Planned | None = None

    @property
    def folder(self) -> str:
        """Where its files are."""
        return join(rows_uri(self.run_uri), self.name, self.key)

    @property
    def set(self) -> str:
        """What its plan and manifest are called by."""
        return _WHOLE if self.planned is None else self.planned.digest

    @property
    def mended_by(self) -> str:
        """The command that makes the instance, for messages."""
        verb, _, label = self.name.partition(".")
        if verb in ("import", "import-masks"):
            return f"`weaksam {verb} {self.run_uri} FILE --name {label}`"
        if verb == "true-boxes":  # a recipe need not say what noise they were made with
            return f"`weaksam export {self.run_uri} --as pseudo-labels --name {label} [--noise SHARE --seed N]`"
        return f"`weaksam {verb} {self.run_uri}{f' --label {label}' if label else ''}`"

    @property
    def dropped(self) -> Table:
        """One row per image that could not be processed."""
        return Table(join(self.folder, "_dropped"), DROPPED, self.mended_by)

    def table(self, schema: pa.Schema) -> Table:
        """Return the instance's table, with the rows of all sets."""
        return Table(self.folder, schema, self.mended_by)

    def planned_rows(self) -> pa.Table:
        """Return which rows it is asked for, ``PLANNED_ROWS`` by image id."""
        assert self.planned is not None, f"{self.name} goes over no images"
        return planned_rows(index_folder(rows_uri(self.run_uri), self.planned.index), self.planned)

    def current(self, table: Table) -> Rows:
        """Return of a table, the instance's or that of ``dropped``, what it is asked for; all where no set is known."""
        return table if self.planned is None else CurrentRows(table, self.planned_rows())

    def file(self, *names: str) -> str:
        """Return the URI of a file of the instance."""
        return join(self.folder, *names)

    @property
    def plan_uri(self) -> str:
        """Where its plan is."""
        return self.file(SETS, f"{self.set}.plan.json")

    @property
    def manifest_uri(self) -> str:
        """Where its manifest is."""
        return self.file(SETS, f"{self.set}.manifest.json")

    def plan(self) -> dict[str, Any] | None:
        """Return what the instance was asked to do, or None before it started; raise DamagedFileError if nobody can tell."""
        return self._read(self.plan_uri, {"parts": dict, "planned": dict})

    def manifest(self) -> dict[str, Any] | None:
        """Return what the instance has proved to have done, or None while it is not finished; raises as ``plan``."""
        return self._read(self.manifest_uri, {"text": str, "images": dict, "reads": dict, "files": dict, "rows": dict})

    def state(self) -> dict[str, Any]:
        """Return which instance this is, and what those that read it find in it; raises as ``plan``.

        Who has read it has to read it again when this changes: rows that --retry-dropped brings back, or files that were
        damaged and came out otherwise when they were made again, leave the key as it is.
        """
        manifest = self.manifest()
        if manifest is None:  # it is finished for another set, of which this one is a part
            return {"key": self.key, "rows": self._rows()}
        return {"key": self.key, **{name: manifest[name] for name in ("rows", "files") if name in manifest}}

    def learnt_from(self) -> Planned | None:
        """Return the set that a finished training learnt from: its own, or the one of before that is used as it is."""
        told = (self.manifest() or {}).get("trained_on")
        if told is None:
            return self.planned
        try:
            return TypeAdapter(Planned).validate_python(told["set"])
        except (LookupError, TypeError, ValidationError) as error:
            raise DamagedFileError(self.manifest_uri, "trained_on: expected a set of images", self.mended_by) from error

    def stand_for(self, before: Instance) -> dict[str, Any]:
        """Let the finished training of another set, in the same folder, be used as it is for this one; return the manifest.

        The manifest says of how many of the images of now it has learnt. Only for the holder of the lock.
        """
        learnt = replace(before, planned=before.learnt_from())
        now = self.planned_rows()
        known = also_in(now, learnt.planned_rows()).num_rows
        told = learnt.manifest() or {}
        text = (
            f"{told.get('text', '')} · trained on {known:,} of {now.num_rows:,} images; --train-again learns from all"
        )
        self.begin((learnt.plan() or {}).get("parts", {}))
        of = {"images": known, "of": now.num_rows, "set": asdict(learnt.planned) if learnt.planned else {}}
        return self.finish({**told, "text": text, "trained_on": of})

    def begin(self, parts: Mapping[str, Any], *, make_current: bool = True) -> None:
        """Record what is going to be done, before the first row, and make this the current instance of its name."""
        planned = {} if self.planned is None else {"planned": asdict(self.planned)}
        write_json(
            self.file(SETS, f"{self.set}.plan.json"),
            {"instance": self.name, "key": self.key, **planned, "parts": parts},
        )
        if make_current:
            self.make_current()

    def make_current(self) -> None:
        """Make this the instance of its name that is shown, and that cleaning keeps."""
        try:
            if current_instance(self.run_uri, self.name) == self:
                return
        except DamagedFileError as error:
            if error.path.endswith("current"):
                set_aside(join(self.run_uri, self.name), {"current": error.reason})
        write_bytes(join(self.run_uri, self.name, "current"), f"{self.key} {self.set}\n".encode())

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Record that the work is done and proved, and what it left behind; return the manifest."""
        if self._has_rows():
            identities.keep(self._identified())
            if self.dropped.parts():
                identities.keep(self.dropped)
        rows = self._rows()
        manifest = {
            "instance": self.name,
            "key": self.key,
            **summary,
            **({"rows": rows} if rows else {}),
            **integrity.record(self.folder),
        }
        write_json(self.manifest_uri, manifest)
        return manifest

    def reopen(self) -> None:
        """Withdraw the manifest, if there is one, because rows are about to change."""
        fs, path = open_fs(self.manifest_uri)
        if fs.exists(path):
            fs.rm_file(path)

    def finished(self, schema: pa.Schema | None) -> dict[str, Any] | None:
        """Return the manifest if the instance is finished and its files read as they were written; see ``damage``."""
        with suppress(DamagedFileError):
            manifest = self.manifest()
            return None if manifest is None or self.damage(schema) else manifest
        return None

    def damage(self, schema: pa.Schema | None) -> dict[str, str]:
        """Return what is wrong with the files of a finished instance, by name in its folder.

        Parts that have changed since their rows were listed are read to their end. Rows are not counted where the index that
        lists them is not written yet, as when a dry run asks for the same images by another one.

        Args:
            schema: of its table; None where it has none.
        """
        found: dict[str, str] = {}
        for read in (self.plan, self.manifest):
            try:
                read()
            except DamagedFileError as error:
                found[f"{SETS}/{posixpath.basename(error.path)}"] = error.reason
        for table, folder in ((None if schema is None else self.table(schema), ""), (self.dropped, "_dropped/")):
            if table is not None:
                damaged = table.damaged(identities.believed(table) if INPUT.name in table.schema.names else ())
                found |= {f"{folder}{name}": reason for name, reason in damaged.items()}
        manifest = {} if found else self.manifest() or {}
        found |= integrity.damage(self.folder, manifest)
        counted = "rows" in manifest and not self._is_unlisted()
        if not found and counted and (rows := self._rows()) != manifest["rows"]:
            found[""] = f"expected {manifest['rows'].get('count', 0):,} rows, got {rows.get('count', 0):,}, or others"
        return found

    def set_aside_damaged(self, schema: pa.Schema | None) -> None:
        """Move damaged files out of the way; see ``damage``. Only for the holder of the lock."""
        found = self.damage(schema)
        fs, root = open_fs(self.folder)
        there = {name: reason for name, reason in found.items() if name and fs.exists(posixpath.join(root, name))}
        by_folder: dict[str, dict[str, str]] = {}
        for name, reason in there.items():
            folder, file = posixpath.split(name)
            by_folder.setdefault(folder, {})[file] = reason
        for folder, damaged in by_folder.items():
            set_aside(join(self.folder, folder) if folder else self.folder, damaged)
        for name in found.keys() - there.keys():
            logger.warning("%s: %s; made again now", self.file(name) if name else self.folder, found[name])

    def _identified(self) -> Table:
        return self.table(pa.schema([IMAGE_ID, INPUT]))

    def _has_rows(self) -> bool:
        """Whether its table has rows of images that share its folder with those of other sets."""
        return self.planned is not None and bool(self._identified().parts())

    def _is_unlisted(self) -> bool:
        """Whether the index by which it is asked for rows is not written yet."""
        if self.planned is None:
            return False
        return not Table(index_folder(rows_uri(self.run_uri), self.planned.index), IMAGES).parts()

    def _rows(self) -> dict[str, Any]:
        """Return how many rows there are of its set, and a digest of which; empty without a table, or where nobody knows."""
        if self.planned is None:
            return integrity.rows(self.folder)
        if self._is_unlisted() or not self._has_rows():
            return {}
        found = CurrentRows(self._identified(), self.planned_rows()).identities.select(PLANNED_ROWS.names)
        return {"count": found.num_rows, "digest": digest_of(found.sort_by("image_id"))}

    def previous(self) -> Instance | None:
        """Return the instance of the same name that was worked on last, if it is another one and known."""
        with suppress(DamagedFileError):
            current = current_instance(self.run_uri, self.name)
            return None if current is None or current.key == self.key else current
        return None

    def _read(self, uri: str, kinds: Mapping[str, type]) -> dict[str, Any] | None:
        content = read_object(uri, self.mended_by)
        for field, kind in kinds.items():
            if content is not None and field in content and not isinstance(content[field], kind):
                got = type(content[field]).__name__
                raise DamagedFileError(uri, f"{field}: expected {kind.__name__}, got {got}", self.mended_by)
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
    words = data.decode(errors="replace").split()
    made_by = Instance(run_uri, name, "").mended_by
    if len(words) == 1 and words[0].isalnum():
        raise RunError(
            f"{run_uri}: an earlier version of weaksam made this run, whose rows do not say what they were computed from; "
            "give another --out, or delete the folder"
        )
    if len(words) != 2 or not all(word.isalnum() for word in words):
        raise DamagedFileError(uri, f"expected the key and the set of an instance, got {data[:40]!r}", made_by)
    instance = Instance(run_uri, name, words[0])
    if words[1] == _WHOLE:
        return instance
    plan_uri = instance.file(SETS, f"{words[1]}.plan.json")
    plan = read_object(plan_uri, made_by)
    if plan is None:
        raise DamagedFileError(uri, f"expected an instance that was begun, got {data[:40]!r}", made_by)
    try:
        planned = TypeAdapter(Planned).validate_python(plan["planned"])
    except (KeyError, ValidationError) as error:
        raise DamagedFileError(plan_uri, "it does not say which images are meant", made_by) from error
    return replace(instance, planned=planned)


def finished_instance(run_uri: str, name: str) -> Instance:
    """Return the current instance of this name; raise RunError unless it is finished, or where there is no run at all."""
    instance = current_instance(run_uri, name)
    if instance is None and not current_instances(run_uri):
        raise no_run_at(run_uri)
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
    found = (current_instance(run_uri, name) for name in names if not name.startswith((PREVIEW, "_", ".")))
    return [instance for instance in found if instance is not None]


def no_run_at(run_uri: str) -> RunError:
    """Return what is wrong with a run folder that holds no instance."""
    previews = ", ".join(join(run_uri, name) for name in previews_of(run_uri))
    hint = f"; the previews in it are runs of their own: {previews}" if previews else ""
    return RunError(f"{run_uri}: expected a run folder, as --out names it, found no stage of a run in it{hint}")


def previews_of(run_uri: str) -> list[str]:
    """Return the names of the previews in a run folder."""
    fs, root = open_fs(run_uri)
    if not fs.isdir(root):
        return []
    names = (posixpath.basename(path.rstrip("/")) for path in fs.ls(root, detail=False))
    return sorted(name for name in names if name.startswith(PREVIEW))


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the fields in which two plans differ, as ``a.b: old -> new`` lines in field order."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for name in [*old, *(n for n in new if n not in old)]:
            lines += differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        return lines
    return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]
