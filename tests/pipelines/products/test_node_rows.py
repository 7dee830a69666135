"""Columns of a table's rows, looked up by image in one file of the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.products.node_rows import NodeRows
from pipelines.store.schemas import SUPERPIXELS, automatic_masks_to_row, with_class_names
from pipelines.store.tables import Table
from tests.support.automatic_masks import automatic_masks

COLUMNS = ("level", "mask_rle")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "some-kind"


def table_of(folder: Path, **parts: str) -> Table:
    """A table whose parts have images of one letter, each with as many masks as the letter's place in the alphabet."""
    table = Table(str(folder), with_class_names(SUPERPIXELS, ("cat",)))
    for part, letters in parts.items():
        rows = []
        for letter in letters:
            masks = automatic_masks([[[True, False]]] * (ord(letter) - ord("a")), size_hw=(1, 2))
            rows.append(automatic_masks_to_row(letter, "i", masks))
        table.write_rows(rows, part)
    return table


def test_rows_are_looked_up_by_image_whatever_the_part(tmp_path: Path, cache: Path) -> None:
    table = table_of(tmp_path / "table", one="ca", two="bd")
    rows = NodeRows(table, COLUMNS, kind="some-kind", what="masks")
    assert (len(rows), set(rows)) == (4, set("abcd"))
    written = {row["image_id"]: {name: row[name] for name in COLUMNS} for row in table.iter_rows()}
    assert dict(rows) == written
    assert [len(rows[letter]["mask_rle"]) for letter in "abcd"] == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        rows["e"]
    assert len(list(cache.iterdir())) == 1


def test_processes_share_a_file_until_the_table_changes(tmp_path: Path, cache: Path) -> None:
    table = table_of(tmp_path / "table", one="a")
    NodeRows(table, COLUMNS, kind="some-kind", what="masks")
    (file,) = cache.iterdir()
    made = file.stat().st_ino
    assert set(NodeRows(table, COLUMNS, kind="some-kind", what="masks")) == {"a"}
    assert file.stat().st_ino == made
    more = NodeRows(table_of(tmp_path / "table", two="b"), COLUMNS, kind="some-kind", what="masks")
    assert set(more) == {"a", "b"}
    assert [other.name == file.name for other in cache.iterdir()] == [False]


def test_an_empty_table_has_none(tmp_path: Path) -> None:
    assert len(NodeRows(table_of(tmp_path / "table"), COLUMNS, kind="some-kind", what="masks")) == 0
