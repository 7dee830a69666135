import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tolerances import assert_near, near
from weaksam.detectors.retrained.dino.boxes import Objects, generalised_iou
from weaksam.detectors.retrained.dino.matcher import match, matching_costs

NOTHING = Objects(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))


def objects(*rows):
    """Rows of class, cx, cy, w, h."""
    return Objects(torch.tensor([row[0] for row in rows]), torch.tensor([row[1:] for row in rows], dtype=torch.float32))


def test_costs_by_hand():
    costs = matching_costs(
        torch.tensor([[0.0, 2.0]]),
        torch.tensor([[0.5, 0.5, 0.2, 0.2]]),
        objects((0, 0.6, 0.5, 0.2, 0.2), (1, 0.5, 0.5, 0.2, 0.2)),
    )
    # p = 1/2: .25 * (1/2)^2 ln 2 if it is there, .75 * (1/2)^2 ln 2 if not. Boxes: .1 apart; they share 1/3 of their union,
    # which fills what is around them.
    assert costs[0, 0].item() == near(
        2 * (0.0625 - 0.1875) * math.log(2) + 5 * 0.1 + 2 * (1 - 1 / 3), length=8, magnitude=2.0
    )
    p = 1 / (1 + math.exp(-2))
    there, not_there = 0.25 * (1 - p) ** 2 * -math.log(p), 0.75 * p**2 * -math.log(1 - p)
    assert costs[0, 1].item() == near(2 * (there - not_there), length=8, magnitude=2.0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0.5, 0.5, 0.2, 0.4), (0.5, 0.5, 0.2, 0.4), 1.0),
        ((0.25, 0.5, 0.5, 1.0), (0.75, 0.5, 0.5, 1.0), 0.0),  # side by side
        ((0.1, 0.5, 0.2, 1.0), (0.9, 0.5, 0.2, 1.0), -0.6),  # the gap is .6 of what is around them
        ((0.5, 0.5, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0), 0.0),
        ((0.5, 0.5, 0.0, 0.0), (0.5, 0.5, 0.5, 0.5), 0.0),
    ],
    ids=["equal", "touching", "apart", "points", "point inside"],
)
def test_generalised_iou_by_hand(a, b, expected):
    assert generalised_iou(torch.tensor(a), torch.tensor(b)).item() == near(expected, length=4, magnitude=1.0)


def random_case(seed, queries, count, *, ties):
    generator = torch.Generator().manual_seed(seed)
    logits, boxes = torch.randn(queries, 3, generator=generator), torch.rand(queries, 4, generator=generator)
    truth = Objects(torch.randint(3, (count,), generator=generator), torch.rand(count, 4, generator=generator))
    if ties and queries and count:
        logits, boxes = logits[:1].repeat(queries, 1), boxes[:1].repeat(queries, 1)
        truth = Objects(truth.class_index[:1].repeat(count), truth.boxes_cxcywh[:1].repeat(count, 1))
    return logits, boxes, truth


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(0, 6), st.booleans())
def test_no_assignment_is_cheaper(seed, queries, count, ties):
    case = random_case(seed, queries, count, ties=ties)
    query, found = match(*case)
    matched = min(queries, count)
    assert query.tolist() == sorted(set(query.tolist()))
    assert len(query) == len(found) == len(set(found.tolist())) == matched
    costs = matching_costs(*case).double()
    cheapest = min(
        sum(costs[q, n].item() for q, n in zip(chosen, order, strict=True))
        for chosen in itertools.combinations(range(queries), matched)
        for order in itertools.permutations(range(count), matched)
    )
    assert costs[query, found].sum().item() == near(cheapest, length=count + 1, magnitude=1 + costs.abs().sum().item())


def test_without_objects_nothing_matches():
    query, found = match(torch.zeros(4, 2), torch.rand(4, 4), NOTHING)
    assert query.tolist() == found.tolist() == []


def test_identical_objects_have_a_query_each():
    query, found = match(*random_case(0, 5, 3, ties=True))
    assert len(set(query.tolist())) == 3
    assert sorted(found.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_is_told(broken):
    boxes = torch.rand(3, 4)
    boxes[1, 2] = broken
    with pytest.raises(FloatingPointError, match=r"3 queries with 1 objects.*lower the learning rate"):
        match(torch.zeros(3, 2), boxes, objects((0, 0.5, 0.5, 0.1, 0.1)))


def test_half_precision_predictions_are_matched_in_float32():
    logits, boxes, truth = random_case(3, 6, 4, ties=False)
    with torch.autocast("cpu", torch.bfloat16):
        costs = matching_costs(logits.bfloat16(), boxes, truth)
    assert costs.dtype == torch.float32
    assert_near(costs, matching_costs(logits.bfloat16().float(), boxes, truth))
