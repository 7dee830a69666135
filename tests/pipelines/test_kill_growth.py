"""SIGKILL in a first night, in a later one and in `weaksam clean`, on a disk and in a bucket: each row once, the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.products.proposals import ProposalTable
from pipelines.store.identities import identities
from pipelines.store.instances import current_instance
from pipelines.store.schemas import PROPOSALS
from tests.support.dying import weaksam
from tests.support.s3_server import s3_server
from weaksam.io.files import join

pytestmark = pytest.mark.long

SETTINGS = (
    "propose.method=selective-search",
    "selective_search.resize_width=0",
    "data.shapes.val=0",
    "data.shapes.test=0",
    "data.shapes.size=48",
    "resources.here=true",
    "resources.rows_per_task=1",
)
AFTER_TWO_ROWS = {"module": "pipelines.dataflow.passes", "name": "_write", "calls": 2, "after": True}
IN_CLEAN = {
    "before the new file": {"module": "pipelines.store.compaction", "name": "_write", "calls": 1, "after": False},
    "after the new file": {"module": "pipelines.store.compaction", "name": "_write", "calls": 1, "after": True},
    "after the old ones are retired": {
        "module": "pipelines.store.compaction",
        "name": "_retire",
        "calls": 1,
        "after": True,
    },
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("nights") as uri:
        yield uri


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where run folders are put."""
    return str(tmp_path) if request.param == "disk" else join(request.getfixturevalue("bucket"), tmp_path.name)


def night(run: str, images: int, dying: dict[str, object] | None = None) -> str:
    settings = [word for setting in (*SETTINGS, f"data.shapes.train={images}") for word in ("--set", setting)]
    return weaksam("propose", "grid", "--data", "shapes:", "--out", run, *settings, dying=dying)


def rows(run: str) -> list[str]:
    """Every row that the run shows as text, by id, after a look that none is there twice."""
    instance = current_instance(run, "propose")
    assert instance is not None
    found = identities(instance.table(PROPOSALS))
    assert found.group_by(["image_id", "input"]).aggregate([]).num_rows == found.num_rows
    shown = sorted(ProposalTable(instance).table.iter_rows(), key=lambda row: row["image_id"])
    return [repr(row) for row in shown]


def test_a_night_that_is_killed_is_finished_by_the_next(place: str) -> None:
    run = join(place, "run")
    night(run, 4, AFTER_TWO_ROWS)
    assert "images 4 = done 4 (2 from before) + dropped 0 · duplicates 0" in night(run, 4)
    night(run, 8, AFTER_TWO_ROWS)
    assert "images 8 = done 8 (6 from before) + dropped 0 · duplicates 0" in night(run, 8)
    undisturbed = join(place, "undisturbed")
    night(undisturbed, 8)
    assert rows(run) == rows(undisturbed)


@pytest.mark.parametrize("moment", IN_CLEAN)
def test_a_cleaning_that_is_killed_loses_and_doubles_nothing(place: str, moment: str) -> None:
    run = join(place, "run")
    for images in (3, 5):
        night(run, images)
    night(run, 4)  # the row of the fifth is superseded
    before = rows(run)
    weaksam("clean", run, "--yes", dying=IN_CLEAN[moment])
    assert "is finished" in night(run, 4)
    weaksam("clean", run, "--yes")
    assert rows(run) == before
    assert "nothing to remove" in weaksam("clean", run, "--yes")
    assert "images 6 = done 6 (4 from before) + dropped 0 · duplicates 0" in night(run, 6)
    assert rows(run)[:4] == before
