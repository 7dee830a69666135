"""Knobs: how values are given, drawn and combined."""

import itertools
import math
import random
from typing import Any

import optuna
import pytest
from pydantic import ValidationError

from tune.spaces import Knob, combinations, corners, drawn, every_combination, headings, short


def knob(**given):
    return Knob.model_validate(given)


def test_a_list_is_a_grid():
    assert Knob.model_validate([1, 2]) == knob(grid=[1, 2])
    assert knob(grid=[1, 2]).listed == (1, 2)
    assert knob(choice=["a", None]).listed == ("a", None)
    assert knob(uniform=[0.0, 1.0]).listed == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of grid"),
        ({"grid": []}, "one of grid"),
        ({"grid": [1], "choice": [2]}, "one of grid"),
        ({"uniform": [1.0, 1.0]}, "low < high, got 1 and 1"),
        ({"uniform": [2.0, 1.0]}, "low < high"),
        ({"uniform": [10**400, 1]}, "uniform: expected two finite numbers"),
        ({"log_uniform": [1, 10**400]}, "log_uniform: expected two finite numbers"),
        ({"uniform": [0.0, math.inf]}, "uniform: expected two finite numbers"),
        ({"uniform": [math.nan, 1.0]}, "uniform: expected two finite numbers"),
        ({"log_uniform": [0.0, 1.0]}, "0 < low < high, got 0 and 1"),
        ({"gird": [1]}, "gird"),
        ("0.3", "Knob"),
    ],
)
def test_a_knob_has_one_way_and_a_range_is_one(given, message):
    with pytest.raises(ValidationError, match=message):
        Knob.model_validate(given)


def test_a_grid_is_enumerated_with_the_last_knob_varying_fastest():
    space = {"a": knob(grid=[1, 2]), "b": knob(choice=["x", "y", "z"])}
    assert [tuple(s.values()) for s in every_combination(space)] == list(itertools.product([1, 2], "xyz"))


def test_settings_are_counted_and_a_range_has_no_end():
    assert combinations({"a": knob(grid=[1, 2]), "b": knob(choice=["x", "y", "z"])}) == 6
    assert combinations({"a": knob(grid=[1, 2]), "b": knob(uniform=[0.0, 1.0])}) == math.inf


def test_a_knob_holds_what_it_may_be():
    assert knob(grid=["auto", 0.3]).contains("auto")
    assert not knob(grid=["auto", 0.3]).contains(0.4)
    of_range = knob(uniform=[0.0, 1.0])
    assert [of_range.contains(value) for value in (0, 1.0, 1.1, -1, "auto", None, True)] == [True, True, *[False] * 5]


def test_a_heading_is_the_shortest_end_that_is_nobody_elses():
    names = ["pseudo_labels.tau_s", "retrain.test.max_side", "detect.max_side", "max_side"]
    assert headings(names) == dict(zip(names, ["tau_s", "test.max_side", "detect.max_side", "max_side"], strict=True))


def test_draws_are_the_same_for_a_seed_and_stay_inside():
    space = {
        "u": knob(uniform=[2.0, 3.0]),
        "l": knob(log_uniform=[0.001, 10.0]),
        "n": knob(uniform=[2.0, 4.0]),
        "m": knob(log_uniform=[1.0, 3.0]),
        "c": knob(choice=["x", "y"]),
    }
    whole = {"u": False, "l": False, "n": True, "m": True, "c": False}
    found = list(itertools.islice(drawn(space, whole, seed=7), 400))
    assert found == list(itertools.islice(drawn(space, whole, seed=7), 400))
    assert found != list(itertools.islice(drawn(space, whole, seed=8), 400))
    assert all(2 <= s["u"] <= 3 and 0.001 <= s["l"] <= 10 for s in found)
    assert {s["n"] for s in found} == {2, 3, 4}
    assert {s["m"] for s in found} == {1, 2, 3}
    assert {s["c"] for s in found} == {"x", "y"}
    # Half of a logarithmic range lies below its geometric middle, .1; of a uniform one hardly anything would.
    assert 0.4 < sum(s["l"] < 0.1 for s in found) / 400 < 0.6


def test_a_drawn_range_ends_at_its_bounds():
    generator = random.Random(0)
    assert all(1 <= knob(log_uniform=[1.0, 1.0 + 1e-12]).draw(generator, whole=False) <= 1 + 1e-12 for _ in range(50))


def test_corners_hold_every_extreme_of_every_knob_and_no_more():
    space = {"a": knob(grid=[1, 2, 3]), "b": knob(uniform=[0.0, 1.0])}
    found = corners(space)
    assert found == [{"a": 1, "b": 0.0}, {"a": 2, "b": 0.0}, {"a": 3, "b": 0.0}, {"a": 1, "b": 1.0}]


def test_what_optuna_draws_from_can_reach_its_bounds_and_nothing_beyond():
    def found(knob_: Knob, *, whole: bool) -> set[Any]:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        return {study.ask({"a": knob_.distribution(whole=whole)}).params["a"] for _ in range(200)}

    assert found(knob(uniform=[2.0, 4.0]), whole=True) == {2, 3, 4}
    assert found(knob(log_uniform=[1.5, 4.2]), whole=True) == {2, 3, 4}
    assert found(knob(choice=[True, "any", 3]), whole=False) == {True, "any", 3}
    low = knob(log_uniform=[0.01, 1.0])
    assert sum(value < 0.1 for value in found(low, whole=False)) > 60  # half of them, as their logarithm is uniform
    assert all(0.01 <= value <= 1.0 for value in found(low, whole=False))


def test_values_as_people_read_them():
    assert [short(v) for v in (None, 0.30000000000000004, 3, True, "any")] == ["–", "0.3", "3", "True", "any"]
