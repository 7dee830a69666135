"""The PNGs of a table of label maps, which the processes of a node look up in one file."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.products.label_maps import EncodedMaps
from pipelines.store.schemas import LABEL_MAPS, label_map_to_row
from pipelines.store.tables import Table
from weaksam.label_maps import decode_label_map


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "label-maps"


def table_of(folder: Path, **parts: str) -> Table:
    """A table whose parts have images of one letter; each map is that letter's number."""
    table = Table(str(folder), LABEL_MAPS)
    for part, letters in parts.items():
        rows = [
            label_map_to_row(letter, "", np.full((2, 3), ord(letter), np.uint8), supervision="masks")
            for letter in letters
        ]
        table.write_rows(rows, part)
    return table


def test_maps_are_looked_up_by_image_whatever_the_part(tmp_path: Path, cache: Path) -> None:
    maps = EncodedMaps(table_of(tmp_path / "table", one="db", two="a"))
    assert (len(maps), set(maps)) == (3, {"a", "b", "d"})
    assert {letter: decode_label_map(maps[letter], "").tolist() for letter in "abd"} == {
        letter: [[ord(letter)] * 3] * 2 for letter in "abd"
    }
    with pytest.raises(KeyError):
        maps["c"]
    assert len(list(cache.iterdir())) == 1


def test_processes_share_a_file_until_the_table_changes(tmp_path: Path, cache: Path) -> None:
    table = table_of(tmp_path / "table", one="a")
    EncodedMaps(table)
    (file,) = cache.iterdir()
    made = file.stat().st_ino
    assert set(EncodedMaps(table)) == {"a"}
    assert file.stat().st_ino == made
    assert set(EncodedMaps(table_of(tmp_path / "table", two="b"))) == {"a", "b"}
    assert [other.name == file.name for other in cache.iterdir()] == [False]


def test_an_empty_table_has_none(tmp_path: Path) -> None:
    assert len(EncodedMaps(table_of(tmp_path / "table"))) == 0


def test_without_room_on_the_disk_a_process_holds_them_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with caplog.at_level(logging.WARNING):
        maps = EncodedMaps(table_of(tmp_path / "table", one="ab"))
    assert "cannot keep the label maps of" in caplog.text
    assert decode_label_map(maps["b"], "").tolist() == [[ord("b")] * 3] * 2
