"""Weights from a file, an address or a bucket: fetched once, verified every time.

Whatever is remote is streamed into a cache folder under a temporary name and appears there whole or not at all; of several
processes that want it at once, one fetches and the others wait. The SHA-256 of the file is computed on every use and
compared with what the caller expects or what is known of the published file; where neither is, the caller gets it to print
and to pin.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from weaksam.errors import CheckpointError
from weaksam.io.files import is_remote, open_fs

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: the server does not say)

_SILENCE_S = 60.0  # give a download up when nothing arrives for this long
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # never of the other end of a download
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that somebody else publishes. ``sha256`` may be the first digits only, where no more is published."""

    uri: str
    size_bytes: int | None
    sha256: str
    note: str


# The digits in SAM's file names are the first of their MD5; SHA-256 and sizes are those that downstream projects check
# the files with (micro-sam among others). The eight digits of DeiT's and torchvision's are the SHA-256 prefixes by which
# torch.hub checks them; torchvision's are called as ``MilConfig.backbone`` calls them.
PUBLISHED: dict[str, Published] = {
    "vit_h": Published(
        uri="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
        size_bytes=2_564_550_879,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        note="Segment Anything, ViT-H: the paper's",
    ),
    "vit_l": Published(
        uri="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
        size_bytes=1_249_524_607,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        note="Segment Anything, ViT-L",
    ),
    "vit_b": Published(
        uri="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        size_bytes=375_042_383,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        note="Segment Anything, ViT-B",
    ),
    "deit_small": Published(
        uri="https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
        size_bytes=None,
        sha256="cd65a155",
        note="DeiT-S/16 on ImageNet: start of WeakTr's training (init)",
    ),
    "vgg16.torchvision": Published(
        uri="https://download.pytorch.org/models/vgg16-397923af.pth",
        size_bytes=553_433_881,
        sha256="397923af",
        note="VGG-16 on ImageNet: start of the weakly-supervised detectors (init)",
    ),
    "resnet50.torchvision": Published(
        uri="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        size_bytes=102_530_333,
        sha256="0676ba61",
        note="ResNet-50 on ImageNet: start of the weakly-supervised detectors (init)",
    ),
}


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A weights file on this machine. ``known``: its checksum was expected and matches; else print and pin ``sha256``."""

    path: Path
    sha256: str
    known: bool


def fetch_weights(
    uri: str, *, sha256: str = "", cache_dir: str | os.PathLike[str] = "", progress: Progress | None = None
) -> WeightsFile:
    """Return the weights at ``uri`` as a verified local file, downloading them unless they are local or cached.

    Args:
        uri: a path, ``file://``, ``https://``, ``s3://`` or any other address that fsspec reads.
        sha256: expected checksum, 64 hex digits; empty = the published one where ``uri`` is one of ``PUBLISHED``.
        cache_dir: where downloads are kept; empty = ``default_cache_dir()``.
        progress: called during a download.

    Raises:
        CheckpointError: nothing there, no access, or another checksum than expected. A file with the wrong checksum is not
            kept in the cache; one that was damaged there is fetched anew.
    """
    expected = _expected_sha256(uri, sha256)
    if not is_remote(uri):
        path = Path(uri.removeprefix("file://")).expanduser()
        if not path.is_file():
            raise CheckpointError(f"{uri}: expected a weights file, found {'a folder' if path.is_dir() else 'nothing'}")
        digest = file_sha256(path)
        _require_match(uri, digest, expected, kept=True)
        return WeightsFile(path=path, sha256=digest, known=bool(expected))

    path = cached_path(uri, cache_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{path.parent}: no folder for fetched weights can be made here ({error.strerror}); set WEAKSAM_CACHE to one that "
            "can be written to"
        ) from error
    with _one_at_a_time(path.parent):  # the actors of a machine want the same gigabytes at the same moment
        if path.is_file():
            digest = file_sha256(path)
            if digest.startswith(expected):
                return WeightsFile(path=path, sha256=digest, known=bool(expected))
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            _download(uri, temporary, progress)
            digest = file_sha256(temporary)
            _require_match(uri, digest, expected, kept=False)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return WeightsFile(path=path, sha256=digest, known=bool(expected))


def default_cache_dir() -> Path:
    """Return where downloads are kept: ``$WEAKSAM_CACHE``, else ``~/.cache/weaksam``, in both cases under ``weights/``."""
    return Path(os.environ.get("WEAKSAM_CACHE") or "~/.cache/weaksam").expanduser() / "weights"


def cached_path(uri: str, cache_dir: str | os.PathLike[str] = "") -> Path:
    """Return where the download of ``uri`` is kept, whether it is there or not: the same file name at two addresses differs."""
    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    name = posixpath.basename(urlsplit(uri).path) or "weights"
    return folder / f"{hashlib.sha256(uri.encode()).hexdigest()[:8]}-{name}"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _expected_sha256(uri: str, sha256: str) -> str:
    if not sha256:
        return next((p.sha256 for p in PUBLISHED.values() if p.uri == uri), "")
    lowered = sha256.strip().lower()
    if len(lowered) != 64 or not _HEX.issuperset(lowered):
        raise CheckpointError(f"{uri}: expected a SHA-256 of 64 hex digits, got {sha256!r}")
    return lowered


def _require_match(uri: str, digest: str, expected: str, *, kept: bool) -> None:
    if not digest.startswith(expected):
        remedy = "check the path" if kept else "the download was not kept; try again"
        raise CheckpointError(
            f"{uri}: expected SHA-256 {expected}, got {digest}: another or a damaged file; {remedy}, or give the checksum "
            f"of the file that you mean"
        )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process of this machine at a time into the body; the lock goes with the process that holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open_for_download(uri: str) -> tuple[AbstractFileSystem, str]:
    if not uri.startswith(("http://", "https://")):
        return open_fs(uri)
    import aiohttp
    import fsspec

    # aiohttp's own limit is five minutes for the whole file, and it ignores proxies unless told otherwise.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
    return fsspec.filesystem("https", client_kwargs={"timeout": timeout, "trust_env": True}), uri


def _download(uri: str, target: Path, progress: Progress | None) -> None:
    from fsspec.callbacks import Callback

    class Report(Callback):  # type: ignore[misc]
        def call(self, *_: Any, **__: Any) -> None:
            if progress is not None:
                progress(self.value, self.size)

    try:
        fs, path = _open_for_download(uri)
        fs.get_file(path, str(target), callback=Report())
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THIS_DISK:
            raise CheckpointError(
                f"{target.parent}: cannot keep {uri} here ({error.strerror}); free some space, or set WEAKSAM_CACHE to a "
                "folder on another disk"
            ) from error
        # Every protocol has errors of its own (aiohttp, botocore, OSError, ValueError for an unknown one): all mean this.
        raise CheckpointError(f"{uri}: cannot fetch the weights ({type(error).__name__}: {error})") from error
