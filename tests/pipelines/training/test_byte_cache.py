"""Encoded images on the node's disk: shared, bounded, never stale and never damaged."""

import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from pipelines.training import byte_cache
from pipelines.training.byte_cache import ByteCache
from weaksam.errors import ImageError

MIB = 2**20


class Stored(NamedTuple):
    uri: str
    content: str = "1"


class Bucket(dict[str, bytes]):
    """Objects by address, and which of them were read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def read(self, uri: str) -> bytes:
        self.reads.append(uri)
        if uri not in self:
            raise ImageError("missing", uri)
        return self[uri]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket()
    monkeypatch.setattr(byte_cache, "read_bytes", bucket.read)
    return bucket


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of the cache, on a disk with room."""
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(byte_cache.shutil, "disk_usage", lambda _: SimpleNamespace(total=10**12, free=10**12))
    return tmp_path / "cache" / "images"


def fill(bucket: Bucket, *names: str, size: int = 100) -> list[Stored]:
    bucket.update({f"s3://b/{name}": name.encode().ljust(size, b".") for name in names})
    return [Stored(f"s3://b/{name}") for name in names]


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def age(folder: Path, hours: float) -> None:
    """Let files be used as long ago as yesterday's training."""
    for path in kept(folder):
        then = time.time() - 3_600 * hours
        os.utime(path, (then, then))


def test_an_image_is_fetched_once_by_all_loaders_and_trainings_of_a_node(bucket: Bucket) -> None:
    (a,) = fill(bucket, "a")
    assert [ByteCache(1).read(a) for _ in range(3)] == [bucket[a.uri]] * 3
    assert bucket.reads == [a.uri]


def test_a_picture_that_was_replaced_is_fetched_anew(bucket: Bucket) -> None:
    (a,) = fill(bucket, "a")
    cache = ByteCache(1)
    cache.read(a)
    bucket[a.uri] = b"another picture"
    assert cache.read(Stored(a.uri, content="2")) == b"another picture"
    assert cache.read(Stored(a.uri, content="2")) == b"another picture"
    assert len(bucket.reads) == 2


@pytest.mark.parametrize(
    ("uri", "content", "limit_mib"),
    [
        pytest.param("/data/a.jpg", "1", 1, id="on a disk already"),
        pytest.param("file:///data/a.jpg", "1", 1, id="so is this"),
        pytest.param("s3://b/a", "", 1, id="of unknown content"),
        pytest.param("s3://b/a", "1", 0, id="switched off"),
    ],
)
def test_some_images_are_not_kept(bucket: Bucket, folder: Path, uri: str, content: str, limit_mib: int) -> None:
    bucket[uri] = b"picture"
    cache = ByteCache(limit_mib)
    assert [cache.read(Stored(uri, content)) for _ in range(2)] == [b"picture"] * 2
    assert bucket.reads == [uri] * 2
    assert kept(folder) == []


def test_drawn_images_are_drawn_once(bucket: Bucket) -> None:
    drawn = Stored("shapes:train/0?size=64&seed=0")
    bucket[drawn.uri] = b"drawing"
    assert [ByteCache(1).read(drawn) for _ in range(2)] == [b"drawing"] * 2
    assert len(bucket.reads) == 1


def test_a_failure_is_not_remembered(bucket: Bucket) -> None:
    cache = ByteCache(1)
    with pytest.raises(ImageError, match="missing"):
        cache.read(Stored("s3://b/late"))
    (late,) = fill(bucket, "late")
    assert cache.read(late) == bucket[late.uri]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="cut off"),
        pytest.param(lambda data: data[:-1] + b"!", id="changed"),
        pytest.param(lambda data: data[:7], id="shorter than a digest"),
        pytest.param(lambda data: data[:0], id="empty"),
    ],
)
def test_a_damaged_file_is_not_trusted(bucket: Bucket, folder: Path, damage) -> None:
    (a,) = fill(bucket, "a")
    ByteCache(1).read(a)
    (file,) = kept(folder)
    file.write_bytes(damage(file.read_bytes()))
    assert [ByteCache(1).read(a) for _ in range(2)] == [bucket[a.uri]] * 2
    assert len(bucket.reads) == 2


def test_what_earlier_trainings_left_makes_room_the_oldest_first(bucket: Bucket, folder: Path) -> None:
    old = fill(bucket, "old-1", "old-2", size=400_000)
    earlier = ByteCache(1)
    for image in old:
        earlier.read(image)
        age(folder, hours=1)
    age(folder, hours=24)
    earlier.read(old[0])  # used again
    (new,) = fill(bucket, "new", size=400_000)
    ByteCache(1).read(new)
    assert sum(path.stat().st_size for path in kept(folder)) < MIB
    bucket.reads.clear()
    for image in (new, old[0], old[1]):
        earlier.read(image)
    assert bucket.reads == [old[1].uri]


def test_a_full_cache_keeps_what_this_training_uses(
    bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = fill(bucket, "a", "b", "c", size=400_000)
    cache = ByteCache(1)
    for _ in range(3):  # epochs
        for image in images:
            cache.read(image)
    assert bucket.reads == [image.uri for image in (*images, images[2], images[2])]
    for path in kept(folder):
        path.unlink()  # such as by hand
    monkeypatch.setattr(byte_cache, "_FULL_S", 0.0)
    cache = ByteCache(1)
    bucket.reads.clear()
    for _ in range(2):
        cache.read(images[2])
    assert bucket.reads == [images[2].uri]


def test_a_tenth_of_the_disk_stays_free(bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_cache.shutil, "disk_usage", lambda _: SimpleNamespace(total=1_000_000, free=100_100))
    small, large = *fill(bucket, "small", size=50), *fill(bucket, "large", size=1_000)
    cache = ByteCache(1)
    for image in (small, large):
        assert cache.read(image) == bucket[image.uri]
    assert [path.stat().st_size for path in kept(folder)] == [32 + 50]


def test_a_disk_that_takes_nothing_is_told_once(
    bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, *pieces: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(byte_cache, "write_whole", full)
    images = fill(bucket, "a", "b")
    cache = ByteCache(1)
    with caplog.at_level(logging.WARNING):
        assert [cache.read(image) for image in images] == [bucket[image.uri] for image in images]
    (record,) = caplog.records
    assert f"{folder}: cannot keep images here (No space left on device)" in record.getMessage()
    assert "WEAKSAM_CACHE" in record.getMessage()


def test_a_machine_without_any_folder_keeps_nothing_and_says_so(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nowhere(kind: str) -> Path:
        raise PermissionError(errno.EACCES, "it cannot be written to", f"/home/me/{kind}")

    monkeypatch.setattr(byte_cache, "cache_folder", nowhere)
    (a,) = fill(bucket, "a")
    with caplog.at_level(logging.WARNING):
        assert ByteCache(1).read(a) == bucket[a.uri]
    assert "/home/me/images: cannot keep images here (it cannot be written to)" in caplog.text


READER = """
import random, sys
from collections import namedtuple
from pipelines.training import byte_cache

byte_cache.read_bytes = lambda uri: uri.encode() * 1000
Stored = namedtuple("Stored", "uri content")
cache = byte_cache.ByteCache(1)  # a third of the images fits
random.seed(int(sys.argv[1]))
for n in random.choices(range(300), k=1500):
    uri = f"s3://b/{n:04}"
    assert cache.read(Stored(uri, "1")) == uri.encode() * 1000
"""


def test_processes_that_read_at_once_get_whole_images_and_leave_no_rubbish(folder: Path) -> None:
    readers = [subprocess.Popen([sys.executable, "-c", READER, str(seed)]) for seed in range(3)]
    assert [reader.wait() for reader in readers] == [0, 0, 0]
    files = kept(folder)
    assert 0 < sum(path.stat().st_size for path in files) <= MIB * (1 + 3 / 64)
    assert [path for path in files if path.name.startswith(".")] == []
