"""Where exports write: nothing that lies there is replaced in silence, and no file of an earlier export stays behind.

A file that is named is refused if it is there, or replaced with ``overwrite``. In a folder, which several exports may share,
each export leaves a record, ``weaksam-export-FORMAT-SPLIT.json``, of the files that it wrote. The next export of the same
format and split is refused, or with ``overwrite`` removes exactly those files before it writes its own. Files that no record
names are somebody else's (true annotations, say), and those that were changed since are somebody's work (boxes that were
corrected by hand): they are never replaced.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipelines.store.explain import naming
from pipelines.store.files import read_json, write_json
from weaksam.errors import DataError
from weaksam.io.contents import contents_of
from weaksam.io.files import absolute, is_remote, join, list_files, open_fs

RECORD = "weaksam-export-"  # begins the name of a record
_LINK = "link"  # in a record: to a picture, whatever that holds


def require_new_file(uri: str, *, overwrite: bool) -> bool:
    """Return whether a file stands at ``uri``, which then will be replaced.

    Raises:
        DataError: one does and ``overwrite`` is not set, or a folder, a device or a pipe does.
    """
    fs, path = open_fs(uri)
    if fs.isdir(path):
        raise DataError(f"--out {uri}: expected a file to write, got a folder; name a file in it")
    exists = bool(fs.exists(path))
    if exists and not is_remote(uri) and not os.path.isfile(path):
        raise DataError(f"--out {uri}: expected a file to write, got a device or a pipe; name a file")
    if exists and not overwrite:
        raise DataError(f"--out {uri}: there is a file already; --overwrite replaces it, or name another")
    return exists


@contextmanager
def open_whole(uri: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears when the block ends well; after an error there is none, or the old one."""
    fs, path = open_fs(uri)
    folder = Path(tempfile.gettempdir() if is_remote(uri) else posixpath.dirname(path))
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{posixpath.basename(path)}.{uuid.uuid4().hex[:8]}"
    try:
        with naming(path), temporary.open("wb") as file:
            yield file
        if is_remote(uri):
            fs.put_file(str(temporary), path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def recorded_export(folder: str, files: Iterable[str], *, to: str, split: str, overwrite: bool) -> Iterator[int]:
    """Make a folder ready for the files of one export, which the body writes, and record them.

    Args:
        folder: path or address; it need not exist.
        files: what will be written, as paths under it.
        to: the format.
        split: whose images, as it may stand in a file's name.
        overwrite: remove what an earlier export of this format and split wrote.

    Yields:
        how many files of an earlier export were removed.

    Raises:
        DataError: an earlier export is there and ``overwrite`` is not set, or files are that no such export wrote, or that
            were changed since it wrote them.
    """
    record = f"{RECORD}{to}-{split}.json"
    held = {name for name, _ in list_files(folder)}
    recorded = _recorded(join(folder, record)) if record in held else {}
    earlier = sorted(held & recorded.keys())
    wanted = sorted(set(files))
    foreign = sorted((held & set(wanted)).difference(earlier))
    if foreign:
        raise DataError(
            f"--out {folder}: {len(foreign):,} of the files to write are there and not of an earlier export of split {split} "
            f"as {to}, or of one that kept no record (such as {foreign[0]}); choose another folder, or move them away"
        )
    now = _contents(folder, [name for name in earlier if recorded[name] is not None])
    changed = [name for name, content in now.items() if content != recorded[name]]
    if changed:
        raise DataError(
            f"--out {folder}: {len(changed):,} of the files of an earlier export of split {split} as {to} were changed since "
            f"(such as {changed[0]}); move them away to keep them, or choose another folder"
        )
    if record in held and not overwrite:
        raise DataError(
            f"--out {folder}: holds an earlier export of split {split} as {to} of {len(earlier):,} files ({record}); "
            "--overwrite replaces them, or choose another folder"
        )
    fs, root = open_fs(folder)
    for name in earlier:
        fs.rm_file(join(root, name))
    unknown = dict.fromkeys(wanted)
    write_json(join(folder, record), {"format": to, "split": split, "files": unknown})
    try:
        yield len(earlier)
    finally:  # of an export that was stopped, too, what it had written
        written = _contents(folder, {name for name, _ in list_files(folder)} & unknown.keys())
        write_json(join(folder, record), {"format": to, "split": split, "files": unknown | written})


def _recorded(uri: str) -> dict[str, str | None]:
    """Return the files of a record with what each held, ``_LINK`` or a digest; None where nobody wrote that down."""
    record = read_json(uri)
    files = record.get("files") if isinstance(record, dict) else None
    if isinstance(files, list) and all(isinstance(name, str) for name in files):  # as earlier versions wrote it
        files = dict.fromkeys(files)
    if not isinstance(files, dict) or not all(isinstance(content, str | None) for content in files.values()):
        raise DataError(
            f"{uri}: expected the record of an earlier export, its files with their digests; choose another folder"
        )
    return files


def _contents(folder: str, names: Iterable[str]) -> dict[str, str]:
    """Return what files of a folder hold, as records have it."""
    uris = {join(folder, name): name for name in names}
    links = [uri for uri in uris if not is_remote(uri) and os.path.islink(absolute(uri))]
    digests = {uri: content.digest for uri, content in contents_of(sorted(uris.keys() - set(links)))}
    return {uris[uri]: content for uri, content in sorted({**digests, **dict.fromkeys(links, _LINK)}.items())}
