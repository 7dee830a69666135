"""A head without CPUs and workers that come, stay away and fall out: real nodes of Ray here, whose sizes are numbers.

What each node computed is in files that its actors write (``tests.support.elastic_hook``). No image waits for a clock: where
two nodes are to work, the first is held until the second has begun.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from pipelines.store.instances import current_instance
from pipelines.store.schemas import PROPOSALS
from tests.support import elastic_hook
from tests.support.cluster import GPUS_ON_CPU, WORKER_HOOK, autoscaling, fixed_nodes
from tests.support.driver import Driver
from tests.support.patience import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.nodes]

IMAGES = 72
FEWER = 16
ON_CPU = "resources.device=cpu"
DEADLY = "train-00003"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The folder that workers note in what they compute."""
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def of_workers(log: Path, places: int = 1, **more: str) -> dict[str, str]:
    """The environment of a cluster whose workers note what they compute."""
    hook = str(Path(elastic_hook.__file__))
    return {WORKER_HOOK: hook, elastic_hook.LOG: str(log), elastic_hook.PLACES: str(places), **more}


def propose(run: Path, monkeypatch: pytest.MonkeyPatch, address: str, images: int, *settings: str) -> Driver:
    monkeypatch.setenv("RAY_ADDRESS", address)
    drawn = [f"data.shapes.train={images}", "data.shapes.val=0", "data.shapes.test=0", "data.shapes.size=64"]
    small = ["prompts.points_per_side=2", "resources.rows_per_task=1", "resources.threads_per_actor=1"]
    return Driver(run.parent / "driver.log", "propose", "grid", run, [*drawn, *small, *settings])


def computed(log: Path) -> dict[str, set[str]]:
    """The images that each place has computed, by node id and GPU."""
    return {path.name: set(path.read_text().split()) for path in log.iterdir()}


def nodes_of(log: Path) -> set[str]:
    return {place.split(" ")[0] for place in computed(log)}


def finish(driver: Driver, code: int = 0) -> str:
    """Wait until a driver has done its work, with an exit code; return what it printed."""
    driver.wait(PATIENCE_S)
    printed = driver.log.read_text()
    assert driver.returncode == code, printed
    return printed


def check_rows(run: Path, printed: str, images: int, dropped: Mapping[str, str] | None = None) -> None:
    """Every image has one row, except for those dropped, which have the reason that is expected."""
    dropped = dropped or {}
    done = images - len(dropped)
    assert re.search(rf"images {images} = done {done} \+ dropped {len(dropped)} · duplicates 0", printed), printed
    instance = current_instance(str(run), "propose")
    assert instance is not None
    ids = instance.table(PROPOSALS).ids()
    assert len(ids) == len(set(ids)) == done
    rows = instance.dropped.read().to_pylist()
    assert {row["image_id"]: row["reason"] for row in rows} == dropped


@pytest.mark.parametrize("gpus", [0, 1], ids=["CPU", "GPU"])
def test_from_zero_both_nodes_work_and_the_head_does_not(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    run = tmp_path / "run"
    settings = [] if gpus else [ON_CPU]
    environment = of_workers(log, places=2, **{GPUS_ON_CPU: "1"})
    with (
        autoscaling({"CPU": 1, "GPU": gpus}, most=2, environment=environment) as address,
        propose(run, monkeypatch, address, IMAGES, *settings) as driver,
    ):
        printed = finish(driver)
        assert len(nodes_of(log)) == 2
        assert all(place.startswith("ffff") for place in computed(log))  # nodes that the autoscaler started
    check_rows(run, printed, IMAGES)


def test_a_node_that_comes_late_joins_in(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, gates = tmp_path / "run", tmp_path / "gates"
    gates.mkdir()
    (gates / "1").touch()
    with (
        autoscaling({"CPU": 1}, most=2, gates=gates, environment=of_workers(log, places=2)) as address,
        propose(run, monkeypatch, address, IMAGES, ON_CPU) as driver,
    ):
        driver.wait_until(lambda: any(computed(log).values()))  # the first node is at work, alone
        assert len(nodes_of(log)) == 1
        (gates / "2").touch()
        printed = finish(driver)
        assert len(nodes_of(log)) == 2
    check_rows(run, printed, IMAGES)


def test_without_workers_it_waits_and_says_what_for(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, gates = tmp_path / "run", tmp_path / "gates"
    gates.mkdir()
    with (
        autoscaling({"CPU": 1}, most=2, gates=gates, environment=of_workers(log, places=2)) as address,
        propose(run, monkeypatch, address, IMAGES, ON_CPU) as driver,
    ):
        # Every 15 s: a minute.
        driver.wait_until(lambda: driver.log.read_text().count("waiting for") >= 4)
        assert computed(log) == {}
        assert "pending" in driver.log.read_text() or "starting" in driver.log.read_text()
        for gate in ("1", "2"):
            (gates / gate).touch()
        printed = finish(driver)
        assert len(nodes_of(log)) == 2
    check_rows(run, printed, IMAGES)


def test_a_run_whose_last_worker_is_lost_ends_after_the_time_it_may_wait(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with fixed_nodes(environment=of_workers(log, places=2)) as nodes:
        only = nodes.add(cpus=1)
        with propose(run, monkeypatch, nodes.address, FEWER, ON_CPU, "resources.wait_for_workers=5") as driver:
            driver.wait_until(lambda: any(computed(log).values()))  # and waits for a second node before it finishes all
            nodes.lose(only)
            printed = finish(driver, code=1)
        assert re.search(
            r"no room for an actor within 5 s \(resources\.wait_for_workers\): .* run the same command", printed
        )
        nodes.add(cpus=1)
        with propose(run, monkeypatch, nodes.address, FEWER, ON_CPU) as driver:
            printed = finish(driver)
    check_rows(run, printed, FEWER)


def test_every_gpu_has_a_sam(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, sizes = tmp_path / "run", (1, 2, 4)
    with fixed_nodes(environment=of_workers(log, places=sum(sizes), **{GPUS_ON_CPU: "1"})) as nodes:
        gpus_of = {nodes.add(cpus=1, gpus=gpus).node_id: gpus for gpus in sizes}
        with propose(run, monkeypatch, nodes.address, IMAGES) as driver:
            printed = finish(driver)
    assert set(computed(log)) == {f"{node_id} {gpu}" for node_id, gpus in gpus_of.items() for gpu in range(gpus)}
    check_rows(run, printed, IMAGES)


def test_an_image_that_kills_its_process_is_dropped_and_no_other(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with fixed_nodes(environment=of_workers(log, **{elastic_hook.DEADLY: DEADLY})) as nodes:
        for _ in range(2):
            nodes.add(cpus=1)
        with propose(run, monkeypatch, nodes.address, FEWER, ON_CPU) as driver:
            printed = finish(driver, code=3)
    check_rows(run, printed, FEWER, {DEADLY: "process died"})


def test_an_image_that_takes_all_memory_of_its_node_is_dropped_and_no_other(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    memory = psutil.virtual_memory()
    # Ray looks at the memory of the whole machine, of which other tests take some.
    limit = (memory.total - memory.available + 8 * 2**30) / memory.total
    if limit > 0.95:
        pytest.skip(f"needs 8 GiB of free memory and more, got {memory.available / 2**30:.1f} GiB")
    environment = of_workers(log, **{elastic_hook.GREEDY: DEADLY, "RAY_memory_monitor_refresh_ms": "0"})
    watched = {"RAY_memory_monitor_refresh_ms": "250", "RAY_memory_usage_threshold": f"{limit:.3f}"}
    with fixed_nodes(environment=environment) as nodes:
        nodes.add(cpus=2, environment=watched)
        with propose(run, monkeypatch, nodes.address, FEWER, ON_CPU) as driver:
            printed = finish(driver, code=3)
    check_rows(run, printed, FEWER, {DEADLY: "process died"})


def test_a_node_without_the_weights_is_named_and_avoided(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with fixed_nodes(environment=of_workers(log)) as nodes:
        sound = nodes.add(cpus=1)
        unfit = nodes.add(cpus=1, environment={elastic_hook.NO_WEIGHTS: "1"})
        with propose(run, monkeypatch, nodes.address, FEWER, ON_CPU) as driver:
            printed = finish(driver)
    assert nodes_of(log) == {sound.node_id}
    assert re.search(rf"node .*{unfit.node_id[:8]}.* cannot build an actor, and is avoided: .*sam.safetensors", printed)
    check_rows(run, printed, FEWER)
