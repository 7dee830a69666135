from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.store import exclusive
from pipelines.store.exclusive import create_exclusively
from tests.support.full_disk import FullDisk
from weaksam.io.files import join, open_fs


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
