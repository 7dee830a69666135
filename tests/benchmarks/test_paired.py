"""The statistics of paired cells, by hand."""

import math

import pytest

from benchmarks.paired import cells_to_repeat, interval, report


def test_the_interval_is_students_t_of_the_differences():
    # Mean 2, standard deviation 1, n = 3: 4.303 (t of 2 degrees at .975) / sqrt(3).
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / math.sqrt(3)))
    assert interval([0.5, 0.5]) == (0.5, 0.0)
    assert interval([0.5]) == (0.5, math.inf)


def cell(*values):
    return {n: {"ap50_area": v, "ap50_eleven_point": v, "coco_ap75": v} for n, v in enumerate(values)}


def test_only_cells_of_too_wide_an_interval_are_repeated():
    results = {"a": cell(10.0, 50.0, 30.0), "b": cell(11.0, 51.1, 30.9), "c": cell(12.0, 49.0, 30.0)}
    assert cells_to_repeat(results, [("a", "b"), ("a", "c")], 0.2) == {"a", "b", "c"}
    assert cells_to_repeat(results, [("a", "b"), ("a", "c")], 1.0) == {"a", "c"}
    assert cells_to_repeat(results, [("a", "b"), ("a", "c")], 4.0) == set()


def test_cells_are_compared_seed_by_seed_and_an_interval_with_zero_says_so():
    results = {"a": cell(10.0, 50.0, 30.0), "b": cell(11.0, 51.1, 30.9), "c": cell(12.0, 49.0, 30.0)}
    _, differences = report(results, [("a", "b"), ("a", "c")], "title")
    means, intervals = (list(differences.columns[n].cells) for n in (1, 2))
    assert means == ["+1.00", "+0.33"]
    assert intervals == ["+0.75 to +1.25", "-3.46 to +4.13  (holds zero)"]
