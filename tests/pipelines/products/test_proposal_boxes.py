"""Boxes of a proposals table that the processes of a node look up in one file."""

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.products.proposal_boxes import ProposalBoxes, boxes_by_image
from pipelines.store.schemas import PROPOSALS, proposals_to_row
from pipelines.store.tables import Table
from weaksam.errors import RunError
from weaksam.structures import Proposals

# Two parts that are not in the order of the ids; one image without a box.
PARTS = {
    "part-0": {"b": [(1, "grid"), (2, "fine"), (3, "grid")], "é": [(4, "fine")]},
    "part-1": {"a": [(5, "grid")], "none": []},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "proposals"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table(str(tmp_path / "table"), PROPOSALS)
    for name, images in PARTS.items():
        write(table, name, images)
    return table


def write(table: Table, name: str, images: dict[str, Sequence[tuple[int, str]]]) -> None:
    rows = []
    for image_id, boxes in images.items():
        proposals = Proposals(
            size_hw=(9, 9),
            boxes_xyxy=np.array([[n, n, n + 1, n + 2] for n, _ in boxes], np.float32).reshape(-1, 4),
            source=[source for _, source in boxes],
            prompt_index=np.zeros(len(boxes), np.int32),
            mask_index=np.zeros(len(boxes), np.int8),
            predicted_iou=np.ones(len(boxes), np.float32),
            discarded={},
            prompts=[],
        )
        rows.append(proposals_to_row(image_id, "train", proposals))
    table.write_rows(rows, name)


def plain(boxes: ProposalBoxes) -> dict[str, Any]:
    """Image id -> the left side of each box."""
    return {image_id: boxes[image_id][:, 0].tolist() for image_id in boxes}


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        pytest.param((), {"a": [5], "b": [1, 2, 3], "none": [], "é": [4]}, id="all"),
        pytest.param(("grid",), {"a": [5], "b": [1, 3], "none": [], "é": []}, id="some of an image's"),
        pytest.param(("fine", "unheard of"), {"a": [], "b": [2], "none": [], "é": [4]}, id="one that nobody has"),
    ],
)
def test_boxes_come_by_image_and_source(table: Table, sources: tuple[str, ...], expected: dict[str, list[int]]) -> None:
    boxes = ProposalBoxes(table, sources)
    assert plain(boxes) == expected
    assert list(boxes) == sorted(expected)
    assert len(boxes) == 4
    assert boxes["b"].dtype == np.float32
    assert boxes["none"].shape == (0, 4)
    for missing in ("", "aa", "zz", "ü"):
        assert missing not in boxes
        with pytest.raises(KeyError):
            boxes[missing]


def test_a_source_that_the_table_lacks_is_an_error_that_names_those_it_has(table: Table) -> None:
    with pytest.raises(RunError, match=r"no box of coarse; mil\.proposal_sources must name some of fine, grid"):
        boxes_by_image([table], ("coarse",))


def test_an_empty_table_has_no_images(tmp_path: Path) -> None:
    nothing = Table(str(tmp_path / "nothing"), PROPOSALS)
    assert plain(ProposalBoxes(nothing)) == {}
    with pytest.raises(RunError, match="the table is empty"):
        boxes_by_image([nothing], ("grid",))


def test_boxes_of_several_tables_stand_one_after_the_other(table: Table, tmp_path: Path) -> None:
    other = Table(str(tmp_path / "other"), PROPOSALS)
    write(other, "part-0", {"b": [(8, "selective-search")], "only here": [(9, "selective-search")]})
    boxes = boxes_by_image([table, other])
    assert {name: boxes[name][:, 0].tolist() for name in boxes} == {
        "a": [5], "b": [1, 2, 3, 8], "none": [], "é": [4], "only here": [9]
    }  # fmt: skip
    assert (len(boxes), "zz" in boxes) == (5, False)
    chosen = boxes_by_image([table, other], ("selective-search",))  # of which the first table has none
    assert chosen["b"][:, 0].tolist() == [8]
    assert chosen["a"].shape == (0, 4)
    with pytest.raises(RunError, match=r"must name some of fine, grid, selective-search$"):
        boxes_by_image([table, other], ("coarse",))


def test_boxes_are_shared_and_can_not_be_written_to(table: Table) -> None:
    with pytest.raises(ValueError, match="read-only"):
        ProposalBoxes(table)["b"][0] = 0


READER = """
import json, sys
from pipelines.products.proposal_boxes import ProposalBoxes, boxes_by_image
from pipelines.store import tables
from pipelines.store.schemas import PROPOSALS

read = tables.Table.iter_parts
def told(table, columns=None):
    print("read", flush=True)
    return read(table, columns)
tables.Table.iter_parts = told

boxes = ProposalBoxes(tables.Table(sys.argv[1], PROPOSALS))
print(json.dumps({i: boxes[i][:, 0].tolist() for i in boxes}))
"""


def test_of_several_processes_one_reads_the_table_and_all_map_one_file(table: Table, cache: Path) -> None:
    command = [sys.executable, "-c", READER, table.folder]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].split("\n") for process in processes]
    assert [lines[0] for lines in said].count("read") == 1
    expected = {"a": [5], "b": [1, 2, 3], "none": [], "é": [4]}
    assert [json.loads(lines[-2]) for lines in said] == [expected] * 3
    (file,) = cache.iterdir()
    assert file.suffix == ".arrow"


def test_the_file_follows_the_table_and_the_former_one_goes(table: Table, cache: Path) -> None:
    former = ProposalBoxes(table)
    of_grid = ProposalBoxes(table, ("grid",))
    assert len(list(cache.iterdir())) == 2
    write(table, "part-2", {"new": [(6, "grid")]})
    write(table, "part-1", {"a": [(7, "grid"), (8, "grid")], "none": []})  # under the name of another
    assert plain(ProposalBoxes(table)) == {"a": [7, 8], "b": [1, 2, 3], "new": [6], "none": [], "é": [4]}
    assert len(list(cache.iterdir())) == 2
    assert (former["a"][:, 0].tolist(), of_grid["a"][:, 0].tolist()) == ([5], [5])  # still mapped where it was in use


@pytest.mark.parametrize("damage", [lambda data: data[:0], lambda data: data[:-20], lambda data: bytes(len(data))])
def test_a_damaged_file_is_made_again(table: Table, cache: Path, caplog: pytest.LogCaptureFixture, damage: Any) -> None:
    expected = plain(ProposalBoxes(table))
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert plain(ProposalBoxes(table)) == expected
    assert f"{file}: damaged" in caplog.text


@pytest.mark.parametrize("sources", [(), ("grid",)])
def test_on_a_full_disk_each_process_holds_the_boxes_and_says_so(
    table: Table,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sources: tuple[str, ...],
) -> None:
    expected = plain(ProposalBoxes(table, sources))
    for file in cache.iterdir():
        file.unlink()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with caplog.at_level(logging.WARNING):
        assert plain(ProposalBoxes(table, sources)) == expected
    assert f"{cache}: cannot keep the boxes of {table.folder} here (No space left on device)" in caplog.text
    assert "WEAKSAM_CACHE" in caplog.text
    assert list(cache.iterdir()) == []


def test_a_cache_that_can_not_be_made_is_as_good_as_none(table: Table, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert plain(ProposalBoxes(table))["b"] == [1, 2, 3]


def test_a_table_that_can_not_be_read_is_no_trouble_of_the_disk(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(self: Table, columns: Sequence[str] | None = None) -> Any:
        raise OSError(errno.ETIMEDOUT, "the bucket does not answer")

    monkeypatch.setattr(Table, "iter_parts", cut_off)
    with pytest.raises(OSError, match="does not answer"):
        ProposalBoxes(table)
