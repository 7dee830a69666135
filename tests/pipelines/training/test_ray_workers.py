from dataclasses import replace

import pytest

from pipelines.engine import nodes as cluster
from pipelines.engine import ray_session
from pipelines.engine.nodes import Node
from pipelines.engine.notes import Note, Notes
from pipelines.training import ray_workers
from pipelines.training.ray_workers import _Deaths, _with_whole_shares
from pipelines.training.task import TrainingResources
from tests.support.toy_training import ToyTask
from weaksam.errors import RunError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray's own, when ray.train is imported

HEAD, SPOT, OTHER = (Node(node_id=name * 8, address=f"10.0.0.{n}", cpus=2, gpus=0) for n, name in enumerate("abc"))
ON_HEAD, ON_SPOT = ({node.node_id: str(node)} for node in (HEAD, SPOT))


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


class Attempts:
    """Attempts of ``run_on_ray`` without Ray, each of which dies after so many steps more, its workers on certain nodes."""

    def __init__(self, monkeypatch, written, *steps, on=()):
        self.written, self.left, self.on, self.waits, self.removed = written, list(steps), on, 0, 0
        monkeypatch.setattr(ray_workers, "wait_for_room", self.wait_for_room)
        monkeypatch.setattr(ray_workers, "_trainer", lambda *_: self)
        monkeypatch.setattr(Notes, "read", lambda _, kind: [Note(kind=kind, node_id=node.node_id) for node in self.on])
        monkeypatch.setattr(Notes, "remove", lambda _: self.remove())
        monkeypatch.setattr(cluster, "nodes", lambda: [HEAD, SPOT])

    def wait_for_room(self, resources, _batch_size, _say):
        self.waits += 1
        return resources

    def fit(self):
        self.written.steps += self.left.pop(0)
        raise of_worker()

    def remove(self):
        self.removed += 1

    def run(self, task, say, **resources):
        ray_workers.run_on_ray(
            lambda: None, task, TrainingResources(workers=1, **resources), self.written,
            storage_uri="/runs", run_name="one", progress=None, say=say,
        )  # fmt: skip


def test_workers_that_die_after_the_last_step_are_not_waited_for_again(monkeypatch, lost):
    attempts, said = Attempts(monkeypatch, Written(), 3, 3), []
    attempts.run(ToyTask(), said.append)
    assert (attempts.waits, attempts.removed) == (2, 2)
    assert said == ["  a worker died (it broke); the training goes on after step 3, 1 of 3 times"]


def test_only_the_loss_of_a_node_that_carried_a_worker_excuses_a_death(monkeypatch, lost):
    lost.add(SPOT.node_id)  # which had nothing to do with it
    attempts, said = Attempts(monkeypatch, Written(), 0, 0, on=[HEAD]), []
    with pytest.raises(RunError, match="training failed 2 times: it broke"):
        attempts.run(ToyTask(), said.append, max_failures=1)
    assert said == ["  a worker died (it broke); the training begins again, 1 of 1 times"]
    assert attempts.removed == 2
    lost.add(OTHER.node_id)  # joined after the workers were asked for
    attempts, said = Attempts(monkeypatch, Written(), 0, 6, on=[HEAD, SPOT, OTHER]), []
    attempts.run(ToyTask(), said.append, max_failures=0)
    assert said == [
        "  lost node 10.0.0.1 (bbbbbbbb), node cccccccc; the training begins again, no checkpoint was written since the "
        "last death"
    ]


def test_deaths_count_until_a_checkpoint_is_written(lost):
    written = Written()
    deaths = _Deaths(written, 2)
    assert deaths.judged(of_worker(), ON_HEAD) == "a worker died (it broke); the training begins again, 1 of 2 times"
    assert deaths.judged(of_worker(), ON_HEAD).endswith("begins again, 2 of 2 times")
    written.steps = 7
    assert deaths.judged(of_worker(), ON_HEAD).endswith("goes on after step 7, 1 of 2 times")
    assert deaths.judged(of_worker(), ON_HEAD).endswith("goes on after step 7, 2 of 2 times")
    with pytest.raises(RunError, match="/runs/one: training failed 3 times without getting beyond step 7: it broke"):
        deaths.judged(of_worker(), ON_HEAD)


def test_a_lost_node_counts_for_nothing_however_often(lost):
    written = Written()
    deaths = _Deaths(written, 1)
    lost.add(SPOT.node_id)
    for _ in range(5):
        said = deaths.judged(of_worker("connection closed by peer"), {**ON_HEAD, **ON_SPOT})
        assert said == (
            "lost node 10.0.0.1 (bbbbbbbb); the training begins again, no checkpoint was written since the last death"
        )
    with_count = _Deaths(written, 1)
    with_count.judged(of_worker(), ON_HEAD)
    written.steps = 3
    assert with_count.judged(of_worker(), ON_SPOT).endswith("goes on after step 3")
    assert (
        deaths.judged(of_worker(), {**ON_HEAD, **ON_SPOT})
        == "lost node 10.0.0.1 (bbbbbbbb); the training goes on after step 3"
    )
    lost.clear()
    for either in (deaths, with_count):  # a death before the checkpoint counts no more
        assert either.judged(of_worker(), {**ON_HEAD, **ON_SPOT}).endswith("1 of 1 times")


def test_a_node_that_is_being_taken_away_counts_for_nothing(lost):
    from ray.train.v2.api.exceptions import PreemptionError
    from ray.train.v2.api.preemption import PreemptionInfo

    deaths = _Deaths(Written(), 0)
    going = PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={SPOT.node_id: [0]}))
    assert deaths.judged(going, {**ON_HEAD, **ON_SPOT}).startswith("a node is taken away; ")


def test_workers_that_never_start_end_a_training(lost):
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError

    deaths = _Deaths(Written(), 1)
    no_room = ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))
    said = "the workers did not start in the room that was free for them"
    assert deaths.judged(no_room, {**ON_HEAD, **ON_SPOT}) == f"{said}; the training begins again, 1 of 1 times"
    with pytest.raises(RunError, match=f"failed 2 times: {said}; .*RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"):
        deaths.judged(no_room, {**ON_HEAD, **ON_SPOT})


def test_a_worker_that_cannot_start_counts(lost):
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
    from ray.train.v2.api.exceptions import ControllerError

    with pytest.raises(RunError, match=r"training failed 1 times: .*no torch here"):
        _Deaths(Written(), 0).judged(ControllerError(WorkerGroupStartupFailedError("no torch here")), ON_HEAD)


@pytest.mark.ray
@pytest.mark.parametrize("own", [True, False])
def test_no_dashboard_is_waited_for_where_there_is_none(monkeypatch, ray_cluster, own):
    monkeypatch.setattr(ray_session, "is_own", lambda: own)
    made = ray_workers._trainer_type()(lambda: None)._create_default_callbacks()
    names = [type(callback).__name__ for callback in made]
    assert "BackendSetupCallback" in names
    assert ("PlacementGroupCleanerCallback" in names) is not own
