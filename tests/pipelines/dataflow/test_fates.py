from __future__ import annotations

import pyarrow as pa

from pipelines.dataflow.fates import Care, Fates

ALL = pa.table({"image_id": ["a", "b", "c"]})


def chosen(fates: Fates, left: pa.Table = ALL) -> tuple[list[str], Care]:
    rows, care = fates.next(left)
    return rows["image_id"].to_pylist(), care


def test_an_image_that_kills_its_process_is_tried_alone_then_by_itself_then_dropped() -> None:
    fates = Fates()
    assert chosen(fates) == (["a", "b", "c"], Care.TOGETHER)
    assert fates.learn({"b", "c"}, set()) == {}
    assert chosen(fates) == (["a"], Care.TOGETHER)
    assert chosen(fates, ALL.slice(1)) == (["b", "c"], Care.ALONE)
    assert fates.learn({"b"}, set()) == {}
    assert chosen(fates, ALL.slice(1)) == (["c"], Care.ALONE)  # died beside it the first time, and may again
    assert chosen(fates, ALL.slice(1, 1)) == (["b"], Care.BY_ITSELF)
    assert {i: reason["reason"] for i, reason in fates.learn({"b"}, set()).items()} == {"b": "process died"}


def test_nodes_may_be_lost_four_times_without_any_care() -> None:
    fates = Fates()
    for _ in range(4):
        assert fates.learn(set(), {"a"}) == {}
        assert chosen(fates) == (["a", "b", "c"], Care.TOGETHER)


def test_an_image_in_flight_on_five_lost_nodes_is_tried_by_itself_once() -> None:
    fates = Fates()
    for _ in range(5):
        assert fates.learn(set(), {"a"}) == {}
    assert chosen(fates, ALL.slice(0, 1)) == (["a"], Care.BY_ITSELF)
    (dropped,) = fates.learn(set(), {"a"}).items()
    assert dropped[0] == "a"
    assert dropped[1]["reason"] == "node lost"
    assert dropped[1]["detail"].startswith("6 times")


def test_a_process_that_dies_after_five_lost_nodes_is_the_first_of_three() -> None:
    fates = Fates()
    for _ in range(5):
        fates.learn(set(), {"a"})
    assert fates.learn({"a"}, set()) == {}
    assert fates.learn({"a"}, set()) == {}
    assert fates.learn({"a"}, set())["a"]["reason"] == "process died"


def test_of_images_that_are_tried_by_themselves_one_is_tried_at_a_time() -> None:
    fates = Fates()
    for _ in range(2):
        fates.learn({"a", "c"}, set())
    assert chosen(fates, ALL.filter([True, False, True])) == (["a"], Care.BY_ITSELF)


def test_a_node_that_is_lost_over_a_suspect_counts_as_a_node() -> None:
    fates = Fates()
    fates.learn({"a"}, set())
    for _ in range(4):
        assert fates.learn(set(), {"a"}) == {}
        assert chosen(fates, ALL.slice(0, 1)) == (["a"], Care.ALONE)


def test_an_image_that_a_process_died_over_and_a_node_was_lost_over_is_a_suspect_once() -> None:
    fates = Fates()
    assert fates.learn({"a"}, {"a"}) == {}
    assert chosen(fates, ALL.slice(0, 1)) == (["a"], Care.ALONE)


def test_of_nothing_nothing_is_chosen() -> None:
    assert chosen(Fates(), ALL.slice(0, 0)) == ([], Care.TOGETHER)
