"""What exports call a picture, and how they put it where the format's readers look for it.

A picture's name is its path, with ``/``, under the folder that holds its split's pictures:

    VOC       the image's id and the file's suffix
    COCO      the path under the data set without a leading ``images/`` or ``SPLIT/`` that all share: ``file_name``, as a rule
    folders   the image's id, which is the path
    drawings  the image's id and ``.png``

Pictures are not copied unless asked for: a link each, in a folder of its own, is enough for a trainer. (One link to a whole
folder is not: ultralytics resolves it, and then looks for labels beside the original.) One that its EXIF orientation turns is
written anew, upright, because boxes and masks are of the upright picture and not all readers turn it.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import NamedTuple

from pipelines.products.index import Index
from pipelines.stages.index import indexed_data
from pipelines.store.files import write_bytes
from pipelines.store.instances import Instance
from pipelines.store.schemas import IMAGES
from weaksam.errors import DataError, ImageError, StorageError
from weaksam.io.files import absolute, is_drawn, is_remote, join, read_bytes
from weaksam.io.images import is_turned, upright_file

_WORKERS = 16
_NO_LINKS = (
    errno.EPERM,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
)  # of cards and sticks, whose file systems know none


class PictureMode(StrEnum):
    """How pictures come into an export's folder."""

    LINK = "link"
    COPY = "copy"
    NONE = "none"


class Pictures(NamedTuple):
    """The pictures of a split."""

    root: str  # the folder that holds them; empty for drawings
    names: Mapping[str, str]  # by image id: the path under ``root``
    uris: Mapping[str, str]  # by image id


class Placement(NamedTuple):
    """Which pictures get which place in an export's folder."""

    uris: Sequence[str]
    places: Sequence[str]  # paths under the folder; pictures that lie there already are left out
    is_copy: bool
    absent: bool  # nothing is written: the pictures stay elsewhere
    text: str  # for people: what becomes of the pictures


def pictures_of(index: Instance, split: str) -> Pictures:
    """Return name and address of every picture of a split in a finished ``index``."""
    kind = Index(index).facts.kind
    rows = index.table(IMAGES).iter_rows(("image_id", "uri", "split"))
    uris = {row["image_id"]: row["uri"] for row in rows if row["split"] == split}
    if kind == "shapes":
        return Pictures("", {image_id: f"{image_id}.png" for image_id in uris}, uris)
    paths = {image_id: uri if is_remote(uri) else posixpath.normpath(absolute(uri)) for image_id, uri in uris.items()}
    common = _common_folder(paths.values())
    root = _coco_root(index, common, paths.values(), split) if kind == "coco" else _root_of_ids(paths, common)
    return Pictures(root, {image_id: path.removeprefix(f"{root}/") for image_id, path in paths.items()}, uris)


def plan_pictures(uris: Sequence[str], places: Sequence[str], folder: str, mode: PictureMode) -> Placement:
    """Say what is to be written so that each picture lies at its place under ``folder``."""
    can_link = not is_remote(folder) and all(_is_file(uri) for uri in uris)
    if mode == PictureMode.NONE or (mode == PictureMode.LINK and not can_link):
        why = (
            ": no links lead from or to what is drawn, remote or missing; ask for copies (--pictures copy; predict --copy)"
            if mode == PictureMode.LINK
            else ""
        )
        return Placement([], [], is_copy=False, absent=True, text=f"pictures not written{why}")
    apart = [
        n for n, (uri, place) in enumerate(zip(uris, places, strict=True)) if not _lies_at(uri, join(folder, place))
    ]
    done = f"{'copied' if mode == PictureMode.COPY else 'linked'} {len(apart):,}"
    there = f", in place already {len(uris) - len(apart):,}" if len(apart) < len(uris) else ""
    return Placement(
        [uris[n] for n in apart],
        [places[n] for n in apart],
        is_copy=mode == PictureMode.COPY,
        absent=False,
        text=f"pictures {done}{there}",
    )


def place_pictures(placement: Placement, folder: str) -> None:
    """Link or copy pictures under ``folder``. Raises DataError if one that is to be copied cannot be read."""
    targets = [join(folder, place) for place in placement.places]
    with ThreadPoolExecutor(_WORKERS) as threads:
        list(threads.map(_copy if placement.is_copy else _link, placement.uris, targets))


def _copy(uri: str, target: str) -> None:
    try:
        data = read_bytes(uri)
    except ImageError as error:
        raise DataError(f"cannot copy a picture: {error}; mend it, or take it out") from error
    write_bytes(target, upright_file(data) or data)


def _link(uri: str, target: str) -> None:
    if is_turned(absolute(uri)):
        _copy(uri, target)
        return
    os.makedirs(posixpath.dirname(absolute(target)), exist_ok=True)
    try:
        os.symlink(absolute(uri), absolute(target))
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise StorageError(
            f"{target}: no link can be made there; ask for copies (--pictures copy; predict --copy)"
        ) from error


def _lies_at(uri: str, target: str) -> bool:
    """Whether a local picture itself, not an export's link to it, is at its target."""
    if is_remote(target) or not _is_file(uri) or os.path.islink(absolute(target)):
        return False
    return os.path.exists(absolute(target)) and os.path.samefile(absolute(uri), absolute(target))


def _is_file(uri: str) -> bool:
    return not is_remote(uri) and not is_drawn(uri) and os.path.isfile(absolute(uri))


def _common_folder(paths: Iterable[str]) -> str:
    shared: list[str] | None = None
    for path in paths:
        folders = path.split("/")[:-1]
        if shared is None:
            shared = folders
        while folders[: len(shared)] != shared:
            shared = shared[:-1]
    return "/".join(shared or [])


def _root_of_ids(paths: Mapping[str, str], common: str) -> str:
    """Return the folder under which every path is the image's id, with or without a suffix; else the common folder."""
    roots = set()
    for image_id, path in paths.items():
        stem = path if path.endswith(f"/{image_id}") else posixpath.splitext(path)[0]
        roots.add(stem.removesuffix(f"/{image_id}") if stem.endswith(f"/{image_id}") else common)
    return roots.pop() if len(roots) == 1 else common


def _coco_root(index: Instance, common: str, paths: Iterable[str], split: str) -> str:
    """Return the data set's folder, or the pictures' common one outside it, with the usual folders below it."""
    uri = indexed_data(index).uri
    data = uri.rstrip("/") if is_remote(uri) else posixpath.normpath(absolute(uri))
    root = data if uri and f"{common}/".startswith(f"{data}/") else common
    names = [path.removeprefix(f"{root}/") for path in paths]
    usual = {"images", split}
    while names:
        first = {name.partition("/")[0] if "/" in name else "" for name in names}
        if len(first) > 1 or not first <= usual:
            break
        (folder,) = first
        usual.discard(folder)
        root = f"{root}/{folder}"
        names = [name.removeprefix(f"{folder}/") for name in names]
    return root
