import pytest

from pipelines.engine import nodes as cluster
from pipelines.engine import ray_session
from pipelines.engine.nodes import Node
from pipelines.training import room
from pipelines.training.room import cpus_each, wait_for_room
from pipelines.training.task import TrainingResources, number_of_workers
from weaksam.errors import ConfigError, RunError


def nodes(*sizes):
    return [Node(node_id=f"{n:04}", address="10.0.0.1", cpus=cpus, gpus=gpus) for n, (cpus, gpus) in enumerate(sizes)]


@pytest.mark.parametrize(
    ("batch", "least", "most", "expected"),
    [
        pytest.param(8, 1, 8, 8, id="all"),
        pytest.param(8, 1, 7, 4, id="the next that divides the batch"),
        pytest.param(8, 4, 7, 4, id="the least"),
        pytest.param(8, 5, 7, 0, id="none divides it"),
        pytest.param(8, 3, 2, 0, id="no room for the least"),
        pytest.param(8, 1, 0, 0, id="no room"),
    ],
)
def test_the_number_of_workers_divides_the_batch(batch, least, most, expected):
    assert number_of_workers(batch, least, most) == expected


@pytest.mark.parametrize(
    ("sizes", "workers", "most", "use_gpu", "expected"),
    [
        pytest.param([(8, 0), (8, 0)], 2, 16, False, 8, id="a node each"),
        pytest.param([(8, 0), (4, 0)], 2, 16, False, 4, id="the larger node holds two"),
        pytest.param([(8, 0)], 3, 16, False, 2, id="three share eight"),
        pytest.param([(64, 0)], 1, 16, False, 16, id="no more than is asked for"),
        pytest.param([(2, 0)], 3, 16, False, 0, id="more workers than CPUs"),
        pytest.param([(8, 4), (32, 4), (64, 0)], 8, 16, True, 2, id="what the smallest node of GPUs has for each"),
        pytest.param([(3, 4)], 4, 16, True, 0, id="fewer CPUs than GPUs"),
        pytest.param([], 1, 16, True, 16, id="no node is known yet"),
    ],
)
def test_a_worker_asks_for_no_more_cpus_than_nodes_have(sizes, workers, most, use_gpu, expected):
    assert cpus_each(nodes(*sizes), workers, most, use_gpu=use_gpu) == expected


class Cluster:
    """Nodes as they are at each look, and what of them is free; time passes between two looks."""

    def __init__(self, monkeypatch, *looks, free=None, own=False):
        self.looks, self.free, self.now, self.asked, self.taken_back = list(looks), free, 0.0, [], 0
        monkeypatch.setattr(cluster, "nodes", self.seen)
        monkeypatch.setattr(room, "_free", lambda found: found if self.free is None else self.free)
        monkeypatch.setattr(room, "_ask", self.ask)
        monkeypatch.setattr(room, "stop_asking", self.stop_asking)
        monkeypatch.setattr(room, "words_of_ray", lambda: "Ray: pending 2 x {CPU: 2}")
        monkeypatch.setattr(ray_session, "is_own", lambda: own)
        monkeypatch.setattr(room.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(room.time, "sleep", self.sleep)

    def seen(self):
        return self.looks[0]

    def sleep(self, seconds):
        self.now += seconds
        if len(self.looks) > 1:
            self.looks.pop(0)

    def ask(self, wanted, _cpus, now_free):
        self.asked.append(wanted.workers - now_free)
        return [Pending()]

    def stop_asking(self, _group):
        self.taken_back += 1


class Pending:
    def wait(self, _seconds):
        return False


def wanted(workers=4, least=1, **options):
    return TrainingResources(workers=workers, least_workers=least, cpus=2, threads=2, **options)


def test_as_many_workers_as_find_room_begin_at_once(monkeypatch):
    seen = Cluster(monkeypatch, nodes((2, 0), (4, 0)))
    sized = wait_for_room(wanted(), 8, pytest.fail)
    assert (sized.workers, sized.cpus, sized.threads) == (2, 2, 2)  # three fit, two divide the batch
    assert (seen.now, seen.asked) == (0, [])


def test_what_the_nodes_have_is_waited_for_some_seconds_and_then_less_is_taken(monkeypatch):
    seen = Cluster(monkeypatch, nodes((8, 0)), free=nodes((2, 0)))
    assert wait_for_room(wanted(), 8, pytest.fail).workers == 1
    assert room._SETTLE_S < seen.now < 2 * room._SETTLE_S


def test_nodes_are_asked_for_and_waited_for_aloud(monkeypatch):
    seen, said = Cluster(monkeypatch, *[nodes((0, 0))] * 70, nodes((0, 0), (4, 0))), []
    assert wait_for_room(wanted(least=2), 8, said.append).workers == 2
    assert seen.asked == [4]
    assert seen.taken_back == 1
    assert [words.text for words in said] == [
        f"  waiting for room, {seconds} s: 2 training worker(s) need room for 1 CPU(s) each; 1 node(s) have it "
        f"for 0; Ray: pending 2 x {{CPU: 2}}"
        for seconds in (15, 30)
    ]


def test_an_interrupt_ends_the_wait_and_takes_back_what_was_asked_for(monkeypatch):
    seen = Cluster(monkeypatch, nodes((0, 0)))

    def interrupted(_line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for_room(wanted(), 8, interrupted)
    assert seen.taken_back == 1


def test_a_wait_has_an_end_if_one_is_named(monkeypatch):
    Cluster(monkeypatch, nodes((1, 0)))
    with pytest.raises(RunError, match=r"3 training worker\(s\) need room.*for 20 s \(resources.wait_for_workers\)"):
        wait_for_room(wanted(least=3, workers=3, wait_s=19.9), 9, lambda _line: None)


def test_a_machine_that_cannot_hold_the_workers_is_not_waited_for(monkeypatch):
    Cluster(monkeypatch, nodes((2, 1)), own=True)
    with pytest.raises(ConfigError, match=r"expected at most 1, one for each GPU .*got 2; .*resources\.device=cpu"):
        wait_for_room(wanted(workers=2, least=2, use_gpu=True), 8, pytest.fail)


@pytest.mark.parametrize(
    ("most", "options"),
    [(2, "resources.train_workers or resources.least_train_workers"), (4, "resources.least_train_workers")],
)
def test_the_option_that_asks_for_too_many_workers_is_named(monkeypatch, most, options):
    Cluster(monkeypatch, nodes((1, 0)), own=True)
    with pytest.raises(ConfigError, match=f"^{options}: expected at most 1, one for each CPU .* got 2"):
        wait_for_room(wanted(workers=most, least=2), 8, pytest.fail)


def test_workers_that_have_room_but_do_not_divide_the_batch_are_told_so(monkeypatch):
    Cluster(monkeypatch, nodes((3, 0)), own=True)
    told = "at most 3, one for each CPU of this machine, and a number that divides the batch of 4, got 3; name fewer"
    with pytest.raises(ConfigError, match=f"^resources.least_train_workers: expected {told}$"):
        wait_for_room(wanted(workers=4, least=3), 4, pytest.fail)


def test_workers_on_gpus_without_cpus_reserve_none(monkeypatch):
    Cluster(monkeypatch, nodes((1, 2)))
    sized = wait_for_room(wanted(workers=2, use_gpu=True), 8, pytest.fail)
    assert (sized.workers, sized.cpus, sized.threads, sized.loaders) == (2, 0, 1, 0)
    assert room.bundle(sized) == {"CPU": 0, "GPU": 1}
