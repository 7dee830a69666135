from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.store import exclusive
from pipelines.store.exclusive import create_exclusively
from tests.support.full_disk import FullDisk
from tests.support.gcs_server import gcs_server
from tests.support.s3_server import s3_server
from weaksam.io.files import join, open_fs


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("store") as uri:
        yield uri


@pytest.fixture(scope="module")
def gcs_bucket() -> Iterator[str]:
    with gcs_server("store") as uri:
        yield uri


@pytest.fixture(params=["disk", "s3", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet, on disk and in a bucket."""
    buckets = {"s3": "bucket", "gs": "gcs_bucket"}
    root = str(tmp_path)
    if request.param in buckets:
        root = join(request.getfixturevalue(buckets[request.param]), tmp_path.name)
    return join(root, "table [1] #%")


def names_in(folder: str) -> list[str]:
    fs, root = open_fs(folder)
    fs.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in fs.ls(root, detail=False))


def test_a_file_is_created_exclusively_once(folder: str) -> None:
    uri = join(folder, "_lock")
    assert create_exclusively(uri, b"first")
    assert not create_exclusively(uri, b"second")
    fs, path = open_fs(uri)
    assert fs.cat_file(path) == b"first"
    fs.rm_file(path)
    assert create_exclusively(uri, b"third")


def test_a_lock_that_finds_no_room_is_not_left_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "_lock")
    with monkeypatch.context() as full:
        full.setattr(exclusive, "open", FullDisk, raising=False)
        with pytest.raises(OSError, match="No space left on device"):
            create_exclusively(uri, b"owner")
    assert names_in(str(tmp_path)) == []
    assert create_exclusively(uri, b"owner")
