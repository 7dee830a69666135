"""Which deaths of a trial's process count against the trial."""

from tune.deaths import PATIENCE_S, Deaths, Verdict

ALIVE = {"a", "b"}
A_LOST = {"b"}


def test_a_death_on_a_node_that_is_lost_never_counts_however_often():
    deaths, now = Deaths(), 1000.0
    alive = set()
    for count in range(20):
        node = f"node {count}"
        alive.add(node)
        deaths.died("trial", node, now)
        assert deaths.judge(alive, now) == []  # not known yet
        now += 15
        alive.remove(node)
        assert deaths.judge(alive, now) == [("trial", Verdict.LOST_NODE, 0)]
        assert deaths.judge(alive, now) == []


def test_a_death_counts_once_its_node_has_lived_on_for_long_enough():
    deaths, now = Deaths(), 1000.0
    deaths.died("trial", "b", now)
    deaths.died("other", "b", now)
    now += PATIENCE_S - 1
    assert deaths.judge(A_LOST, now) == []  # another node
    now += 1
    assert deaths.judge(A_LOST, now) == [("trial", Verdict.OWN, 1), ("other", Verdict.OWN, 1)]
    deaths.died("trial", "a", now)
    deaths.died("trial", "b", now)
    assert deaths.judge(A_LOST, now) == [("trial", Verdict.LOST_NODE, 1)]
    now += PATIENCE_S
    assert deaths.judge(A_LOST, now) == [("trial", Verdict.OWN, 2)]


def test_a_process_that_died_before_it_said_where_was_on_a_node_lost_about_then():
    deaths, now = Deaths(), 1000.0
    deaths.died("early", "", now)
    assert deaths.judge(ALIVE, now) == []
    now += PATIENCE_S - 1
    assert deaths.judge(A_LOST, now) == [("early", Verdict.LOST_NODE, 0)]
    now += PATIENCE_S - 1  # started on what Ray did not know to be lost yet
    deaths.died("again", "", now)
    assert deaths.judge(A_LOST, now) == [("again", Verdict.LOST_NODE, 0)]
    now += 1
    deaths.died("late", "", now)
    assert deaths.judge(A_LOST, now) == []
    now += PATIENCE_S
    assert deaths.judge(A_LOST, now) == [("late", Verdict.OWN, 1)]


def test_nodes_that_were_lost_before_the_first_death_excuse_nothing():
    deaths, now = Deaths(), 1000.0
    assert deaths.judge(A_LOST, now) == []
    now += 3600
    deaths.died("trial", "", now)
    now += PATIENCE_S
    assert deaths.judge(A_LOST, now) == [("trial", Verdict.OWN, 1)]
