"""Thresholds that a training's own losses choose, once, and that a checkpoint keeps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from weaksam.config import RoiDropConfig
from weaksam.losses import history
from weaksam.losses.history import LossHistory, history_of


def highest(values):
    if len(set(values.tolist())) < 2:
        raise ValueError("all the same")
    return float(values.max())


def median(values):
    return float(np.median(values))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(history, "FEWEST", 4)
    monkeypatch.setattr(history, "REMEMBERED", 6)


BOTH = RoiDropConfig(enabled=True, tau_cls="auto", tau_reg="auto")
ONE = RoiDropConfig(enabled=True, tau_cls="auto", tau_reg=2.0)


def column(*values):
    return torch.tensor(values)[:, None]


def test_thresholds_are_set_once_when_the_drop_begins_and_enough_was_seen(few):
    found = LossHistory(BOTH, {"tau_cls": (highest, 9.0), "tau_reg": (median, 9.0)})
    found.look(torch.tensor([[1.0, 10.0], [2.0, 20.0]]), begin=False)
    assert not found.is_settled
    found.look(torch.tensor([[3.0, 30.0]]), begin=True)
    assert not found.is_settled  # three instances are too few
    found.look(torch.zeros(0, 2), begin=True)
    found.look(torch.tensor([[0.5, 5.0], [0.25, 40.0]]), begin=True)
    assert found.thresholds.tolist() == [3.0, 20.0]
    found.look(torch.full((50, 2), 1000.0), begin=True)
    assert found.thresholds.tolist() == [3.0, 20.0]


def test_only_open_options_are_chosen_and_nothing_exceeds_what_is_not_set_yet(few):
    found = LossHistory(ONE, {"tau_cls": (highest, 9.0), "tau_reg": (median, 9.0)})
    assert (found.chosen(), found.in_numbers()) == ({}, replace(ONE, tau_cls=9.0))
    found.look(torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]), begin=True)
    assert (found.chosen(), found.in_numbers()) == ({"tau_cls": 4.0}, replace(ONE, tau_cls=4.0))
    rules = {"tau_cls": (highest, 9.0)}
    assert history_of(RoiDropConfig(enabled=True), rules) is None
    assert history_of(replace(ONE, enabled=False), rules) is None
    assert history_of(ONE, rules) is not None


def test_the_latest_losses_count(few):
    found = LossHistory(ONE, {"tau_cls": (highest, 9.0)})
    found.look(column(99.0, 98.0), begin=False)
    found.look(column(1.0, 2.0, 3.0, 4.0, 5.0), begin=False)
    assert int(found.seen) == 7
    found.look(column(0.0), begin=True)
    assert found.thresholds.tolist() == [5.0]  # of the last six: 1 to 5 and 0
    many = LossHistory(ONE, {"tau_cls": (highest, 9.0)})
    many.look(column(*range(100, 0, -1)).float(), begin=True)
    assert many.thresholds.tolist() == [6.0]


def test_what_is_not_finite_is_forgotten_and_equal_losses_have_another_threshold(few):
    found = LossHistory(ONE, {"tau_cls": (highest, math.inf)})
    found.look(column(1.0, math.nan, math.inf, 1.0, 1.0, 1.0), begin=True)
    assert int(found.seen) == 4
    assert found.is_settled
    assert found.thresholds.tolist() == [math.inf]


def test_a_checkpoint_keeps_all_of_it(few):
    losses = torch.rand(11, 1, generator=torch.Generator().manual_seed(0))
    whole, first, second = (LossHistory(ONE, {"tau_cls": (median, 9.0)}) for _ in range(3))
    for part in (losses[:4], losses[4:9], losses[9:]):
        whole.look(part, begin=False)
    first.look(losses[:4], begin=False)
    second.load_state_dict(first.state_dict())
    for part in (losses[4:9], losses[9:]):
        second.look(part, begin=False)
    whole.settle()
    second.settle()
    assert second.is_settled
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
