"""Three commands started at once on one run folder in a bucket: one owner at a time, nothing lost, nothing done twice."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipelines.store.instances import current_instance
from pipelines.store.schemas import PROPOSALS
from tests.support.driver import Driver
from tests.support.patience import PATIENCE_S
from tests.support.s3_proxy import Trick, answers_409, fails_and_breaks_off, ignores_conditions, s3_proxy
from tests.support.s3_server import s3_server

pytestmark = pytest.mark.long

IMAGES = 12
SETTINGS = [
    f"data.shapes.train={IMAGES}", "data.shapes.val=0", "data.shapes.test=0", "data.shapes.size=64",
    "prompts.points_per_side=2", "resources.here=true", "resources.rows_per_task=1",
]  # fmt: skip
QUICK = "from pipelines.store import lock; lock.HEARTBEAT_S = 1.0\n"
STORES: dict[str, Trick] = {
    "AWS's answers": lambda _: None,
    "409": answers_409,
    "one that ignores conditions, allowed": ignores_conditions,
    "failures": fails_and_breaks_off,
}


@pytest.mark.parametrize("trick", STORES.values(), ids=STORES.keys())
def test_three_at_once_do_the_work_once(tmp_path: Path, trick: Trick, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server("runs") as bucket, s3_proxy(os.environ["AWS_ENDPOINT_URL"], trick), ExitStack() as running:
        monkeypatch.setenv("WEAKSAM_ALLOW_UNSAFE_STORE", str(int(trick is ignores_conditions)))
        out = f"{bucket}/run"
        drivers = [
            running.enter_context(Driver(tmp_path / name, "propose", "grid", out, SETTINGS, QUICK)) for name in "abc"
        ]
        ended = {driver.log.name: driver.wait(PATIENCE_S) for driver in drivers}
        said = {driver.log.name: driver.log.read_text() for driver in drivers}
        if trick is ignores_conditions:  # where a driver that was slow to create the lock can only stop the owner
            ended = {name: code for name, code in ended.items() if "this process stops writing" not in said[name]}
        assert set(ended.values()) == {0}, "\n".join(said[name] for name, code in ended.items() if code)
        owners = [name for name, text in said.items() if f"{IMAGES} of {IMAGES} images to do" in text]
        assert len(owners) == 1 or len(ended) < len(drivers), said
        assert f"images {IMAGES} = done {IMAGES} " in "".join(said.values())
        propose = current_instance(out, "propose")
        assert propose is not None
        ids = propose.table(PROPOSALS).ids()
        assert len(ids) == len(set(ids)) == IMAGES
