"""Weights from a file, an address or a bucket: fetched once, verified every time.

Whatever is remote is streamed into a cache folder under a temporary name and appears there whole or not at all; of several
processes that want it at once, one fetches and the others wait. The SHA-256 of the file is compared on every use with what
the caller expects, or what is known of the published file. Where neither is, the server is asked whether the file at the
address is still the one in the cache, and the caller gets the checksum to print and to pin.
"""

from __future__ import annotations

import logging
import os
import posixpath
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from weaksam.errors import CheckpointError
from weaksam.io.builtin_weights import builtin
from weaksam.io.cache_folder import cached_path, file_name
from weaksam.io.downloads import ANSWER_S, Progress, cannot_keep, download, version_at
from weaksam.io.file_notes import Fetched, FileNote, file_sha256, hold_note
from weaksam.io.files import is_remote, join, open_fs

logger = logging.getLogger(__name__)

_NOTES = ".notes"  # folder of a cache folder
_SMALL = 16 * 2**20  # bytes; of a smaller file the SHA-256 is computed as fast as it is looked up
_HEX = frozenset("0123456789abcdef")
_DIGITS = 64  # of a SHA-256


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that somebody else publishes. ``sha256`` may be the first digits only, where no more is published."""

    uri: str
    size_bytes: int | None
    sha256: str
    note: str


# The digits in SAM's file names are the first of their MD5; SHA-256 and sizes are those that downstream projects check
# the files with (micro-sam among others). The eight digits of DeiT's and torchvision's are the SHA-256 prefixes by which
# torch.hub checks them, and mmsegmentation names its files by such, too. Backbones are called as ``MilConfig.backbone`` and
# ``SegmenterConfig.backbone`` call them.
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
    "vit_t": Published(
        uri="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
        size_bytes=40_728_226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        note="MobileSAM: for CPUs; not measured here",
    ),
    "clip_vit_b_16": Published(
        uri="https://huggingface.co/timm/vit_base_patch16_clip_224.openai/resolve/main/open_clip_model.safetensors",
        size_bytes=None,
        sha256="4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
        note="OpenAI's CLIP, ViT-B/16 with QuickGELU, as open_clip publishes it",
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
    "swin_tiny": Published(
        uri="https://download.pytorch.org/models/swin_t-704ceda3.pth",
        size_bytes=None,
        sha256="704ceda3",
        note="Swin-T on ImageNet-1k: start of segmenters (init)",
    ),
    "swin_large": Published(
        uri="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/"
        "swin_large_patch4_window12_384_22k_20220412-6580f57d.pth",
        size_bytes=None,
        sha256="6580f57d",
        note="Swin-L on ImageNet-22k, as mmsegmentation publishes it: start of FMA-WSSS's Mask2Former (init)",
    ),
}


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A weights file on this machine. ``known``: its checksum was expected and matches; else print and pin ``sha256``."""

    path: Path
    sha256: str
    known: bool


def fetch_weights(
    uri: str,
    *,
    sha256: str = "",
    seen: str = "",
    mirror: str = "",
    cache_dir: str | os.PathLike[str] = "",
    progress: Progress | None = None,
) -> WeightsFile:
    """Return the weights at ``uri`` as a verified local file, downloading them unless they are local or cached.

    Args:
        uri: a path, ``file://``, ``https://``, ``s3://`` or any other address that fsspec reads; or ``builtin:NAME``.
        sha256: expected checksum, 64 hex digits; empty = the published one where ``uri`` is one of ``PUBLISHED``.
        seen: checksum of the file that lay there when this work began; empty = whatever lies there is right, and a server
            is asked whether it differs from what is cached. If it cannot be asked, what is cached is used with a warning.
        mirror: folder or bucket in which published weights are looked for first, by their file names.
        cache_dir: where downloads are kept; empty = ``default_cache_dir()``.
        progress: called during a download.

    Raises:
        CheckpointError: nothing there, no access, or another checksum than expected or seen. A file with the wrong checksum is
            not kept in the cache; one that was damaged there is fetched anew.
    """
    wanted = _Wanted(uri, _expected_sha256(uri, sha256), seen.lower(), time.time())
    installed = builtin(uri)
    if installed or not is_remote(uri):
        file = installed.path if installed else Path(uri.removeprefix("file://")).expanduser()
        if not file.is_file():
            raise CheckpointError(f"{uri}: expected a weights file, found {'a folder' if file.is_dir() else 'nothing'}")
        return wanted.found(file, _local_sha256(file, cache_dir), "check the path")
    path = cached_path(uri, cache_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{path.parent}: no folder for fetched weights can be made here ({error.strerror}); set WEAKSAM_CACHE or "
            "weights.cache to one that can be written to"
        ) from error
    # The actors of a machine want the same gigabytes at the same moment: one fetches them.
    with hold_note(path, path.parent / _NOTES) as note:
        if path.is_file() and _is_good(digest := note.sha256(), note, wanted):
            return wanted.found(path, digest)
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        except OSError as error:
            raise cannot_keep(uri, path.parent, error) from error
        os.close(handle)
        temporary = Path(name)
        try:
            asked_at_s = time.time()
            found, version = _download_wanted(wanted, mirror, temporary, progress)
            note.keep_fetched(temporary, Fetched(sha256=found.sha256, version=version, asked_at_s=asked_at_s))
        finally:
            temporary.unlink(missing_ok=True)
    return WeightsFile(path=path, sha256=found.sha256, known=found.known)


def _local_sha256(file: Path, cache_dir: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file that is used where it lies; a large one is read by the first process that asks."""
    if file.stat().st_size < _SMALL:
        return file_sha256(file)
    with hold_note(file, cached_path(str(file), cache_dir).parent / _NOTES) as note:
        return note.sha256()


@dataclass(frozen=True)
class _Wanted:
    """Which weights are wanted of an address: a full SHA-256, the first digits of one, or "" = any."""

    uri: str
    expected: str  # by whoever asks, or as it is published
    seen: str  # when the work began
    since_s: float  # seconds since 1970: what is fetched later is as new as it can be

    @property
    def sha256(self) -> str:
        return self.seen or self.expected

    def found(self, path: Path, digest: str, remedy: str = "the download was not kept; try again") -> WeightsFile:
        """Return a file that turned up; raise CheckpointError for another one than is wanted."""
        if not digest.startswith(self.expected):
            raise CheckpointError(
                f"{self.uri}: expected SHA-256 {self.expected}, got {digest}: another or a damaged file; {remedy}, or give "
                "the checksum of the file that you mean"
            )
        if not digest.startswith(self.seen):
            raise CheckpointError(
                f"{self.uri}: expected SHA-256 {self.seen}, which this run began with, got {digest}: the weights were "
                "overwritten since; start the run again, and it takes the new ones under a new key"
            )
        return WeightsFile(path=path, sha256=digest, known=bool(self.sha256))


def _is_good(digest: str, note: FileNote, wanted: _Wanted) -> bool:
    """Whether the file in the cache is what is wanted; where that is no checksum, whether the server still has the same."""
    fetched = note.fetched
    if wanted.sha256:
        return digest.startswith(wanted.sha256)
    if fetched.sha256 and digest != fetched.sha256:
        return False  # damaged here
    if fetched.asked_at_s >= wanted.since_s:
        return True  # another process fetched it while this one waited
    try:
        version = version_at(wanted.uri, ANSWER_S)
    except Exception as error:  # every protocol has errors of its own
        reason = error.__cause__ or error
        logger.warning(
            f"{wanted.uri}: cannot ask whether these weights are still the same ({type(reason).__name__}: {reason}); "
            f"those in the cache are used: {note.path}, SHA-256 {digest}"
        )
        return True
    return bool(version) and version == fetched.version


def _download_wanted(wanted: _Wanted, mirror: str, target: Path, progress: Progress | None) -> tuple[WeightsFile, str]:
    """Fetch the file that is wanted, from a mirror if that has it; return it, and what its server calls its version."""
    if not mirror or not _is_published(wanted.uri):
        return _download_there(wanted, target, progress)
    copy = mirrored_uri(wanted.uri, mirror)
    try:
        download(copy, target, progress)
        return replace(wanted, uri=copy).found(target, file_sha256(target)), ""
    except CheckpointError as missed:
        logger.warning("%s; the weights are fetched from %s instead", missed, wanted.uri)
        try:
            return _download_there(wanted, target, progress)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; nor are they in the mirror: {missed}") from error


def _download_there(wanted: _Wanted, target: Path, progress: Progress | None) -> tuple[WeightsFile, str]:
    try:  # before the download: what is overwritten meanwhile is fetched again
        version = version_at(wanted.uri)
    except Exception:  # such as an address that only gives out the file; other errors meet the download, too
        version = ""
    download(wanted.uri, target, progress)
    return wanted.found(target, file_sha256(target)), version


def push_weights(file: Path, uri: str, mirror: str) -> str:
    """Copy published weights that were fetched into a mirror, over what lies there; return where.

    Args:
        file: the weights, verified.
        uri: where they are published.
        mirror: folder or bucket.

    Raises:
        CheckpointError: it cannot be written to.
    """
    copy = mirrored_uri(uri, mirror)
    try:
        fs, path = open_fs(copy)
        if is_remote(copy):  # where files appear whole
            fs.put_file(str(file), path)
        else:
            fs.makedirs(posixpath.dirname(path), exist_ok=True)
            fs.put_file(str(file), f"{path}.part")
            fs.mv(f"{path}.part", path)
    except Exception as error:  # every protocol has errors of its own
        raise CheckpointError(
            f"{copy}: cannot write the weights there ({type(error).__name__}: {error}); check the address and its permissions"
        ) from error
    return copy


def mirrored_uri(uri: str, mirror: str) -> str:
    """Return where a mirror has the weights that are published at ``uri``."""
    return join(mirror, file_name(uri))


def lacks(mirror: str, uri: str) -> str:
    """Return why a mirror does not have the weights published at ``uri``; "" if it has a file of the name, or need not.

    A question and no download: for a driver whose actors fetch them.
    """
    if not mirror or not _is_published(uri):
        return ""
    try:
        version_at(mirrored_uri(uri, mirror), ANSWER_S)
    except Exception as error:  # every protocol has errors of its own
        return f"{mirrored_uri(uri, mirror)}: {type(error).__name__}: {error}"
    return ""


def published_sha256(uri: str) -> str:
    """Return the full SHA-256 of the weights published at ``uri``; "" where there are none, or its first digits alone."""
    found = _expected_sha256(uri, "")
    return found if len(found) == _DIGITS else ""


def _is_published(uri: str) -> bool:
    return any(published.uri == uri for published in PUBLISHED.values())


def _expected_sha256(uri: str, sha256: str) -> str:
    if not sha256:
        installed = builtin(uri)
        return installed.sha256 if installed else next((p.sha256 for p in PUBLISHED.values() if p.uri == uri), "")
    lowered = sha256.strip().lower()
    if len(lowered) != _DIGITS or not _HEX.issuperset(lowered):
        raise CheckpointError(f"{uri}: expected a SHA-256 of 64 hex digits, got {sha256!r}")
    return lowered
