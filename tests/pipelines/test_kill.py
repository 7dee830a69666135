"""Processes killed without a warning, at moments that hurt, and what the next run makes of what they left.

Each driver here is a process of its own with a Ray of its own. The result is compared with the stage's own operators called
one after another in this process, without Ray: to the bit, because for each image, whatever its neighbours, that is the
same computation by the same libraries on the same CPU with as many threads.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.dataflow.rows import fetch, planned_images
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.stages.propose.actors import ActorSpec, Prompting, SegmentActor
from pipelines.stages.propose.stage import STAGE
from pipelines.store.instances import Instance, current_instance
from pipelines.store.planned import identify
from pipelines.store.schemas import IMAGES, PROPOSALS
from tests.support.driver import Driver
from tests.support.patience import PATIENCE_S
from weaksam.config.weights import NO_WEIGHTS

pytestmark = [pytest.mark.ray, pytest.mark.long]  # four drivers, one after another

IMAGES_IN_ALL = 40
SETTINGS = [
    f"data.shapes.train={IMAGES_IN_ALL}",
    "data.shapes.val=0",
    "data.shapes.test=0",
    "data.shapes.size=96",
    "prompts.points_per_side=8",
    "resources.cpus=1",  # where Ray Data stalls unless Ray is told of two
    "resources.segment_actors=1",
    "resources.threads_per_actor=1",
    "resources.rows_per_task=1",  # many files: many moments to be killed at
]
OTHER_THRESHOLD = "proposals.grid_nms_iou=0.9"


def propose(run: Path, *settings: str) -> Driver:
    return Driver(run.parent / "driver.log", "propose", "grid", run, [*SETTINGS, *settings])


def instance(run: Path, *settings: str) -> Instance:
    return Run(recipe(*settings), str(run)).instance("propose")


def recipe(*settings: str) -> Recipe:
    return load_recipe("grid", [*SETTINGS, *settings], "shapes:")[0]


def files_of(of: Instance) -> set[str]:
    """Whatever stands in the folder under a part's name, finished or not."""
    return {path.name for path in Path(of.folder).glob("part-*.parquet")}


def rows_in(of: Instance) -> int:
    """Rows in finished files."""
    return of.table(PROPOSALS).count()


def to_the_bit(table: pa.Table) -> dict[str, str]:
    """Rows as texts by image id, each id once; texts hold every digit and compare NaN as equal to NaN."""
    rows = table.to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows), "an id stands there twice"
    return {row["image_id"]: repr(row) for row in rows}


def by_hand(recipe: Recipe, run: Path) -> pa.Table:
    """The rows that the stage's operators make of the index when they are called one after another."""
    index = current_instance(str(run), "index")
    assert index is not None
    options = STAGE.options(recipe, "propose")
    assert isinstance(options.method, Prompting)
    spec = ActorSpec(
        instance=Instance(str(run), "nowhere", "000"),
        how=options.method,
        clue_weights=NO_WEIGHTS,
        class_names=(),
        threads=1,
        device="cpu",
    )
    listed = index.table(IMAGES).read()
    images = planned_images(identify(listed, ("content",)), listed)
    return SegmentActor(spec)(fetch(images, longest_side=options.longest_side))


def test_no_kill_loses_doubles_or_changes_a_row(tmp_path: Path) -> None:
    run = tmp_path / "run"
    mine, other = instance(run), instance(run, OTHER_THRESHOLD)

    # The driver, the moment a file appears: while another is being written, if luck wills.
    with propose(run) as driver:
        driver.wait_until(lambda: len(files_of(mine)) >= 4, every_s=0.0)
        driver.kill()
    assert Path(mine.file("_lock")).exists()
    assert mine.manifest() is None
    survived = files_of(mine)
    assert 0 < rows_in(mine) < IMAGES_IN_ALL

    # Another threshold now: a folder of its own, and the interrupted one stays as it is.
    with propose(run, OTHER_THRESHOLD) as driver:
        driver.wait_until(lambda: rows_in(other) >= 1)
        driver.kill()
    printed = driver.log.read_text()
    assert f"not the {mine.key} of before, which stays; what differs:" in printed
    assert "method.proposals.grid_nms_iou: 0.3 -> 0.9" in printed
    assert f"{IMAGES_IN_ALL} of {IMAGES_IN_ALL} images to do" in printed
    assert files_of(mine) >= survived

    # An actor, which the run must bear; then the raylet, which it cannot.
    with propose(run) as driver:
        start = rows_in(mine)
        driver.wait_until(lambda: rows_in(mine) >= start + 3)
        actor = driver.process("ray::MapWorker")
        assert actor is not None
        actor.kill()
        driver.wait_until(lambda: not actor.is_running() and driver.process("ray::MapWorker"))
        start = rows_in(mine)
        driver.wait_until(lambda: rows_in(mine) >= start + 6)
        raylet = driver.process("raylet")
        assert raylet is not None
        raylet.kill()
        driver.wait(PATIENCE_S)
    assert driver.returncode != 0
    assert mine.manifest() is None
    assert rows_in(mine) < IMAGES_IN_ALL

    with propose(run) as driver:
        driver.wait(PATIENCE_S)
        printed = driver.log.read_text()
    assert driver.returncode == 0, printed
    done = rf"images {IMAGES_IN_ALL} = done {IMAGES_IN_ALL} \(\d+ from before\) \+ dropped 0 · duplicates 0"
    assert re.search(done, printed)
    assert current_instance(str(run), "propose") == mine
    rows = to_the_bit(mine.table(PROPOSALS).read())
    assert rows == to_the_bit(by_hand(recipe(), run))
    assert all(rows[image_id] != row for image_id, row in to_the_bit(other.table(PROPOSALS).read()).items())
