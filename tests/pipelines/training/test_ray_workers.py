from dataclasses import replace

import pytest

from pipelines.engine import nodes as cluster
from pipelines.engine.nodes import Node
from pipelines.training import ray_workers
from pipelines.training.ray_workers import _Deaths, _with_whole_shares
from pipelines.training.room import may_carry
from pipelines.training.task import TrainingResources
from tests.support.toy_training import ToyTask
from weaksam.errors import RunError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray's own, when ray.train is imported

HEAD, SPOT = (Node(node_id=name * 8, address=f"10.0.0.{n}", cpus=2, gpus=0) for n, name in enumerate("ab"))


class Written:
    """Checkpoints of which nothing is looked at but how far they are."""

    folder = "/runs/one"
    steps = 0

    def steps_done(self):
        return self.steps


@pytest.fixture
def lost(monkeypatch):
    names = set()
    monkeypatch.setattr(cluster, "lives", lambda node_id: node_id not in names)
    return names


def of_worker(text="it broke"):
    from ray.train import WorkerGroupError

    return WorkerGroupError("long story", {0: RuntimeError(text)})


@pytest.mark.parametrize(
    ("statistics", "images_per_pass", "workers", "least"),
    [
        pytest.param(("detector.name",), 4, 4, 2, id="8 images in passes of 4 need 2 workers"),
        pytest.param(("detector.name",), 3, 4, 3, id="3, of which 4 divide the batch"),
        pytest.param(("detector.name",), 3, 3, 1, id="3 cannot share 8: refused by the workers"),
        pytest.param(("detector.name",), 0, 4, 1, id="a pass is a share"),
        pytest.param((), 4, 4, 1, id="a share may be cut up"),
    ],
)
def test_workers_are_waited_for_where_a_share_must_not_be_cut_up(statistics, images_per_pass, workers, least):
    task = ToyTask(batch_size=8, statistics=statistics)
    asked = TrainingResources(workers=workers, least_workers=1, images_per_pass=images_per_pass)
    assert _with_whole_shares(asked, task) == replace(asked, least_workers=least)


def test_workers_that_die_after_the_last_step_are_not_waited_for_again(monkeypatch):
    written, task = Written(), ToyTask()
    waits = []

    class Trainer:
        def fit(self):
            written.steps += task.plan.steps // 2
            raise of_worker()

    def wait_for_room(resources, batch_size, say):
        waits.append(batch_size)
        return resources

    monkeypatch.setattr(ray_workers, "wait_for_room", wait_for_room)
    monkeypatch.setattr(ray_workers, "_trainer", lambda *_: Trainer())
    monkeypatch.setattr(cluster, "nodes", list)
    said = []
    ray_workers.run_on_ray(
        lambda: None, task, TrainingResources(workers=1), written,
        storage_uri="/runs", run_name="one", progress=None, say=said.append,
    )  # fmt: skip
    assert waits == [5, 5]
    assert said == ["  a worker died (it broke); the training goes on after step 3, 1 of 3 times"]


def test_deaths_count_until_a_checkpoint_is_written(lost):
    written = Written()
    deaths = _Deaths(written, 2)
    assert deaths.judged(of_worker(), [HEAD]) == "a worker died (it broke); the training begins again, 1 of 2 times"
    assert deaths.judged(of_worker(), [HEAD]).endswith("begins again, 2 of 2 times")
    written.steps = 7
    assert deaths.judged(of_worker(), [HEAD]).endswith("goes on after step 7, 1 of 2 times")
    assert deaths.judged(of_worker(), [HEAD]).endswith("goes on after step 7, 2 of 2 times")
    with pytest.raises(RunError, match="/runs/one: training failed 3 times without getting beyond step 7: it broke"):
        deaths.judged(of_worker(), [HEAD])


def test_a_lost_node_counts_for_nothing_however_often(lost):
    written = Written()
    deaths = _Deaths(written, 1)
    lost.add(SPOT.node_id)
    for _ in range(5):
        said = deaths.judged(of_worker("connection closed by peer"), [HEAD, SPOT])
        assert said == (
            "lost node 10.0.0.1 (bbbbbbbb); the training begins again, no checkpoint was written since the last death"
        )
    with_count = _Deaths(written, 1)
    with_count.judged(of_worker(), [HEAD])
    written.steps = 3
    assert with_count.judged(of_worker(), [SPOT]).endswith("goes on after step 3")
    assert (
        deaths.judged(of_worker(), [HEAD, SPOT]) == "lost node 10.0.0.1 (bbbbbbbb); the training goes on after step 3"
    )
    lost.clear()
    for either in (deaths, with_count):  # a death before the checkpoint counts no more
        assert either.judged(of_worker(), [HEAD, SPOT]).endswith("1 of 1 times")


@pytest.mark.parametrize(
    ("node", "use_gpu", "carries"),
    [((2, 0), False, True), ((1, 0), False, False), ((2, 0), True, False), ((2, 1), True, True)],
)
def test_a_node_that_is_too_small_for_a_worker_excuses_none(node, use_gpu, carries):
    there = Node(node_id="c" * 8, address="10.0.0.2", cpus=node[0], gpus=node[1])
    assert may_carry(there, TrainingResources(workers=1, cpus=2, use_gpu=use_gpu)) == carries


def test_a_node_that_is_being_taken_away_counts_for_nothing(lost):
    from ray.train.v2.api.exceptions import PreemptionError
    from ray.train.v2.api.preemption import PreemptionInfo

    deaths = _Deaths(Written(), 0)
    going = PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={SPOT.node_id: [0]}))
    assert deaths.judged(going, [HEAD, SPOT]).startswith("a node is taken away; ")


def test_workers_that_never_start_end_a_training(lost):
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError

    deaths = _Deaths(Written(), 1)
    no_room = ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))
    said = "the workers did not start in the room that was free for them"
    assert deaths.judged(no_room, [HEAD, SPOT]) == f"{said}; the training begins again, 1 of 1 times"
    with pytest.raises(RunError, match=f"failed 2 times: {said}; .*RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"):
        deaths.judged(no_room, [HEAD, SPOT])


def test_a_worker_that_cannot_start_counts(lost):
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
    from ray.train.v2.api.exceptions import ControllerError

    with pytest.raises(RunError, match=r"training failed 1 times: .*no torch here"):
        _Deaths(Written(), 0).judged(ControllerError(WorkerGroupStartupFailedError("no torch here")), [HEAD])
