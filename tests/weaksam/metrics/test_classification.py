import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tolerances import near
from weaksam.metrics.classification import average_precision, classification_scores, share


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        pytest.param([3, 2, 1], [1, 0, 0], 1.0, id="perfect"),
        pytest.param([3, 2, 1], [0, 0, 1], 1 / 3, id="last"),
        pytest.param([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2, id="first-and-third"),
        pytest.param([1, 1], [1, 0], 0.5, id="a-tie-shares-its-precision"),
        pytest.param([2, 1, 1, 1], [1, 1, 0, 0], (1 + 2 / 4) / 2, id="a-tie-after-a-hit"),
        pytest.param([5, 5, 5], [1, 1, 1], 1.0, id="all-positive"),
        pytest.param([7], [1], 1.0, id="one-item"),
    ],
)
def test_average_precision_by_hand(scores, positive, expected):
    result = average_precision(np.array(scores, float), np.array(positive, bool))
    assert result == near(expected, dtype=torch.float64, length=8)


@pytest.mark.parametrize("positive", [[], [0, 0]], ids=["empty", "no-positive"])
def test_average_precision_without_a_positive_is_nan(positive):
    assert np.isnan(average_precision(np.zeros(len(positive)), np.array(positive, bool)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12), st.randoms())
def test_order_of_the_input_does_not_matter_and_a_slow_loop_agrees(items, random):
    shuffled = items.copy()
    random.shuffle(shuffled)
    results = []
    for order in (items, shuffled):
        scores, positive = np.array([s for s, _ in order], float), np.array([p for _, p in order], bool)
        results.append(average_precision(scores, positive))
    total = sum(p for _, p in items)
    slow = float("nan")
    if total:
        slow = 0.0
        for threshold in {s for s, _ in items}:
            gained = sum(p for s, p in items if s == threshold)
            taken = [p for s, p in items if s >= threshold]
            slow += gained / total * sum(taken) / len(taken)
    assert results == near([slow, slow], dtype=torch.float64, length=12)


def test_map_per_class_and_the_published_map_per_image():
    logits = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    result = classification_scores(logits, [(0,), (0, 1)])
    # Class 0: both positive, 1. Class 1: image 1 is positive and ranks first, 1. Class 2: nobody.
    assert result.per_class[:2].tolist() == [1.0, 1.0]
    assert np.isnan(result.per_class[2])
    assert result.mean_ap == 1.0
    assert result.mean_ap_per_image == 1.0
    assert result.images == 2

    worse = classification_scores(logits, [(1,), (0,)])
    # Per class: 0 -> image 1 ranks second, 1/2; 1 -> image 0 second, 1/2. Per image: second of three, 1/2 each.
    assert worse.per_class[:2].tolist() == [0.5, 0.5]
    assert (worse.mean_ap, worse.mean_ap_per_image) == (0.5, 0.5)


def test_images_with_unknown_labels_are_left_out_and_images_without_a_class_are_negatives():
    logits = np.array([[9.0], [1.0], [5.0]])
    result = classification_scores(logits, [None, (0,), ()])
    assert result.images == 2
    assert result.mean_ap == 0.5  # ranks below the image without a class
    assert result.mean_ap_per_image == 1.0


def test_nothing_known_is_nan():
    result = classification_scores(np.zeros((1, 2)), [None])
    assert result.images == 0
    assert np.isnan(result.mean_ap)
    assert np.isnan(result.mean_ap_per_image)
    assert np.isnan(classification_scores(np.zeros((0, 2)), []).mean_ap)


def test_mismatched_or_infinite_input_is_refused():
    with pytest.raises(ValueError, match="labels for 2 images, got 1"):
        classification_scores(np.zeros((2, 1)), [(0,)])
    with pytest.raises(ValueError, match="finite"):
        classification_scores(np.array([[np.nan]]), [(0,)])


def test_a_share_of_nothing_is_unknown():
    np.testing.assert_array_equal(share(np.array([1, 0, 0]), np.array([4, 2, 0])), [0.25, 0, np.nan])
    assert float(share(np.int64(3), np.int64(4))) == 0.75
    assert np.isnan(share(np.int64(0), np.int64(0)))
