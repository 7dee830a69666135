import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam.metrics.proposal_recall import (
    CURVE_THRESHOLDS,
    ProposalRecall,
    RecallRow,
    cumulative,
    match_many_to_one,
    match_one_to_one,
)
from weaksam.structures import GroundTruth


def truth(boxes, difficult=(), crowd=()):
    count = len(boxes)
    return GroundTruth(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        class_index=np.zeros(count, np.int64),
        difficult=np.isin(np.arange(count), difficult),
        crowd=np.isin(np.arange(count), crowd),
    )


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def one_row(recall) -> RecallRow:
    (row,) = recall.rows()
    return row


@pytest.mark.parametrize(
    ("iou", "one_to_one", "many_to_one"),
    [
        pytest.param([[0.9, 0.2], [0.8, 0.3]], [0.9, 0.3], [0.9, 0.8], id="the-best-pair-takes-the-shared-proposal"),
        pytest.param([[0.5, 0.4], [0.6, 0.5]], [0.4, 0.6], [0.5, 0.6], id="greedy-not-optimal"),
        pytest.param([[0.7], [0.7]], [0.7, 0.0], [0.7, 0.7], id="a-tie-goes-to-the-first-object"),
        pytest.param([[0.6, 0.6], [0.5, 0.1]], [0.6, 0.1], [0.6, 0.5], id="a-tie-takes-the-first-proposal"),
        pytest.param([[0.0, 0.0]], [0.0], [0.0], id="no-overlap"),
        pytest.param(np.zeros((2, 0)), [0.0, 0.0], [0.0, 0.0], id="no-proposals"),
        pytest.param(np.zeros((0, 3)), [], [], id="no-objects"),
    ],
)
def test_matching_of_a_hand_made_image(iou, one_to_one, many_to_one):
    iou = np.array(iou, dtype=np.float64)
    assert match_one_to_one(iou).tolist() == one_to_one
    assert match_many_to_one(iou).tolist() == many_to_one


def pairs_at_threshold(iou, threshold):
    """The published loop: best remaining pair first, until no pair reaches the threshold."""
    left = {(g, n): iou[g][n] for g in range(len(iou)) for n in range(len(iou[0]) if len(iou) else 0)}
    hits = 0
    while left:
        g, n = min(left, key=lambda pair: (-left[pair], pair))
        if left[g, n] < threshold:
            break
        hits += 1
        left = {pair: value for pair, value in left.items() if pair[0] != g and pair[1] != n}
    return hits


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([0, 0.3, 0.5, 0.55, 0.75, 0.8, 0.9, 1]), min_size=width, max_size=width),
            max_size=5,
        )
    )
)
def test_one_matching_answers_every_threshold(iou):
    matched = match_one_to_one(np.array(iou, dtype=np.float64).reshape(len(iou), len(iou[0]) if iou else 3))
    for threshold in CURVE_THRESHOLDS:
        assert (matched >= threshold).sum() == pairs_at_threshold(iou, threshold)


def test_matching_does_not_touch_its_input():
    iou = np.array([[0.9, 0.1]])
    match_one_to_one(iou)
    assert iou.tolist() == [[0.9, 0.1]]


def test_cumulative_rows_follow_table_4_and_others_stand_alone():
    met = {"selective-search", "cross", "grid", "fine", "mine"}
    assert cumulative(met) == {
        "grid": ("grid",),
        "fine": ("grid", "fine"),
        "cross": ("grid", "fine", "cross"),
        "mine": ("mine",),
        "selective-search": ("selective-search",),
    }
    assert cumulative(()) == {}


def test_rows_accumulate_sources_over_images():
    recall = ProposalRecall(cumulative(("grid", "fine")))
    two_objects = truth([(0, 0, 10, 10), (20, 20, 30, 30)])
    # Row by row: fine covers the second object fully, grid the first with IoU 80/100.
    recall.add(boxes((20, 20, 30, 30), (0, 0, 10, 8)), ["fine", "grid"], two_objects)
    # An image without any proposal: its object is missed, not forgotten.
    recall.add(boxes(), [], truth([(0, 0, 5, 5)]))
    grid, fine = recall.rows()
    assert (grid.images, grid.boxes, grid.objects, grid.mean_boxes) == (2, 1, 3, 0.5)
    assert [grid.recall(t) for t in (0.5, 0.75, 0.9)] == [1 / 3, 1 / 3, 0]
    assert (fine.boxes, fine.mean_boxes) == (2, 1.0)
    assert [fine.recall(t) for t in (0.5, 0.75, 0.9)] == [2 / 3, 2 / 3, 1 / 3]


def test_one_proposal_counts_once_one_to_one_and_twice_many_to_one():
    recall = ProposalRecall({"grid": ("grid",)})
    recall.add(boxes((0, 0, 10, 10)), ["grid"], truth([(0, 0, 10, 10), (0, 0, 10, 9)]))
    row = one_row(recall)
    assert row.recall(0.5) == 0.5
    assert row.recall(0.5, many_to_one=True) == 1.0


@pytest.mark.parametrize(("height", "threshold"), [(5, 0.5), (55, 0.55), (7, 0.7), (75, 0.75), (9, 0.9), (95, 0.95)])
def test_an_iou_equal_to_the_threshold_counts(height, threshold):
    full = 10 if height < 10 else 100
    recall = ProposalRecall({"grid": ("grid",)})
    recall.add(boxes((3, 3, 8, 3 + height)), ["grid"], truth([(3, 3, 8, 3 + full)]))
    assert one_row(recall).recall(threshold) == 1.0


def test_crowds_never_count_and_difficult_objects_only_when_asked():
    objects = truth([(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)], difficult=[1], crowd=[2])
    proposals = boxes((20, 0, 30, 10), (40, 0, 50, 10))
    with_difficult = ProposalRecall({"grid": ("grid",)})
    without = ProposalRecall({"grid": ("grid",)}, include_difficult=False)
    for recall in (with_difficult, without):
        recall.add(proposals, ["grid", "grid"], objects)
    assert (one_row(with_difficult).objects, one_row(with_difficult).recall(0.5)) == (2, 0.5)
    assert (one_row(without).objects, one_row(without).recall(0.5)) == (1, 0.0)


def test_nothing_added_gives_nan_and_an_image_without_objects_counts_its_boxes():
    recall = ProposalRecall(cumulative(["grid"]))
    assert np.isnan(one_row(recall).mean_boxes)
    assert np.isnan(one_row(recall).recall(0.5))
    recall.add(boxes((0, 0, 1, 1), (0, 0, 2, 2)), ["grid", "grid"], truth([]))
    assert one_row(recall).mean_boxes == 2.0
    assert np.isnan(one_row(recall).recall(0.5))


def test_proposals_of_an_unnamed_source_are_ignored():
    recall = ProposalRecall(cumulative(["grid"]))
    recall.add(boxes((0, 0, 10, 10)), ["whole-image"], truth([(0, 0, 10, 10)]))
    assert (one_row(recall).boxes, one_row(recall).recall(0.5)) == (0, 0.0)


def test_other_thresholds_can_be_asked_for():
    recall = ProposalRecall(cumulative(["grid"]), thresholds=(0.25, 1.0))
    recall.add(boxes((0, 0, 10, 3)), ["grid"], truth([(0, 0, 10, 10)]))
    row = one_row(recall)
    assert (row.thresholds, row.hits_one_to_one, row.recall(0.25), row.recall(1.0)) == ((0.25, 1.0), (1, 0), 1.0, 0.0)
