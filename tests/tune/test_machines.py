"""How many CPUs trials get, and which sweeps no machine will ever hold."""

import math

import pytest

from pipelines.engine import nodes as cluster
from tune.machines import Machine, connected_machines, cpus_of_each, may_grow
from tune.sweep import TrialResources
from weaksam.errors import ConfigError


def machines(*sizes):
    return [Machine(cpus=cpus, gpus=gpus) for cpus, gpus in sizes]


@pytest.mark.parametrize(
    ("machine", "resources", "each"),
    [
        ((5, 0), {}, 5),
        ((5, 0), {"concurrency": 2}, 2),
        ((5, 0), {"concurrency": 2, "cpus": 1}, 1),
        ((5, 0), {"concurrency": 6}, 1),  # at most six: five at a time
        ((5, 0), {"concurrency": 3, "cpus": 2}, 2),
        ((5, 0), {"concurrency": 0}, 1),
        ((5, 0), {"concurrency": 0, "cpus": 4}, 4),
        # The CPUs of a GPU are shared by those that share it.
        ((8, 1), {"concurrency": 0, "gpus": 0.5}, 4),
        ((8, 1), {"concurrency": 0, "gpus": 0.33}, 2),
        ((8, 1), {"concurrency": 0, "gpus": 0.25}, 2),
        ((8, 2), {"concurrency": 0, "gpus": 1}, 4),
        ((8, 2), {"concurrency": 3, "gpus": 0.25}, 2),
        ((8, 1), {"concurrency": 5, "gpus": 0.5}, 4),  # there is room for two
        ((8, 4), {"concurrency": 2, "gpus": 2}, 4),
    ],
)
def test_trials_share_a_machine(machine, resources, each):
    assert cpus_of_each(TrialResources(**resources), machines(machine), "s") == each


@pytest.mark.parametrize(
    ("resources", "each"),
    [
        ({}, 64),
        ({"concurrency": 3}, 21),
        ({"concurrency": 10}, 8),  # 8 trials on the large machine, one on each of the others
        ({"concurrency": 11}, 7),  # 9 and twice one
        ({"concurrency": 0}, 1),
    ],
)
def test_trials_share_the_machines_of_a_cluster_as_evenly_as_they_can(resources, each):
    assert cpus_of_each(TrialResources(**resources), machines((8, 0), (64, 0), (8, 0)), "s") == each


def test_machines_without_the_gpu_do_not_count():
    resources = TrialResources(concurrency=0, gpus=0.5)
    assert cpus_of_each(resources, machines((64, 0), (6, 1), (0, 0)), "s") == 3
    # A machine where GPUs are to be counted yet.
    assert cpus_of_each(TrialResources(concurrency=2, gpus=0.5), machines((6, math.inf)), "s") == 3


@pytest.mark.parametrize(
    ("resources", "there", "message"),
    [
        ({"cpus": 6}, [(5, 0)], r"s: resources: expected trials that fit into 5 CPU\(s\), got 6 CPU\(s\) each"),
        ({"cpus": 6}, [(5, 0), (5, 0)], r"fit into 5 CPU\(s\) \+ 5 CPU\(s\), got 6"),
        ({"gpus": 0.5}, [(5, 0)], r"got 1 CPU\(s\) and 0.5 GPU\(s\) each; resources.gpus: 0 trains on the CPU"),
        ({"cpus": 4, "gpus": 1}, [(2, 1), (8, 0)], r"fit into 2 CPU\(s\) and 1 GPU\(s\) \+ 8 CPU\(s\), got"),
        ({"concurrency": 2, "gpus": 2}, [(8, 3)], r"got 2 at a time with 1 CPU\(s\) and 2 GPU\(s\) each"),
        ({}, [(0, 0)], r"fit into 0 CPU\(s\), got 1 CPU"),
        ({}, [], "fit into no machine"),
    ],
)
def test_what_no_machine_holds_is_refused_where_none_may_come(resources, there, message):
    resources = TrialResources(**resources)
    with pytest.raises(ConfigError, match=message):
        cpus_of_each(resources, machines(*there), "s")
    cpus_of_each(resources, machines(*there), "s", grows=True)


def test_nothing_is_known_of_machines_that_may_come():
    assert cpus_of_each(TrialResources(concurrency=3), [], "s", grows=True) == 1
    assert cpus_of_each(TrialResources(cpus=6, gpus=0.5), machines((0, 0)), "s", grows=True) == 6


def test_what_machines_hold_that_are_there_is_shared_on_a_cluster_that_grows_too():
    assert cpus_of_each(TrialResources(concurrency=2), machines((0, 0), (8, 1)), "s", grows=True) == 4


def test_a_cluster_grows_if_something_starts_nodes_or_none_is_there_yet(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        cluster, "nodes", lambda: [cluster.Node(node_id="n", address="n", cpus=c, gpus=g) for c, g in sizes]
    )
    monkeypatch.setattr(cluster, "autoscaler", lambda: None)
    sizes[:] = [(0, 0)]  # a head that computes nothing
    assert connected_machines() == []
    assert may_grow([])
    sizes[:] = [(0, 0), (4, 1)]
    assert connected_machines() == machines((4, 1))
    assert not may_grow(connected_machines())
    monkeypatch.setattr(cluster, "autoscaler", lambda: cluster.Autoscaler(starting=(), failed=(), waiting=()))
    assert may_grow(connected_machines())
