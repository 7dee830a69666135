import math
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.tolerances import assert_near, near
from weaksam.losses.mil import (
    BACKGROUND,
    PseudoLabels,
    box_loss,
    image_loss,
    mine_mist,
    mine_oicr,
    mine_top1,
    pad,
    real_proposals,
    refinement_loss,
    wsddn_scores,
)

# Pseudo truth at a time: a chain a-b-c in which each overlaps its neighbour alone, 10 x 10 boxes 5 pixels apart.
A, B, C = [0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [10.0, 0.0, 20.0, 10.0]
FAR = [100.0, 100.0, 110.0, 110.0]


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(1, -1, 4)


def of_one_class(*scores):
    return torch.tensor(scores, dtype=torch.float32).reshape(1, -1, 1)


def everything(proposals):
    return torch.ones(1, len(proposals[0]), dtype=torch.bool)


PRESENT = torch.tensor([[True]])


def mined(mine, proposals, scores, labels=PRESENT, **options):
    """The pseudo labels of one image as (class, weight) pairs."""
    found = mine(proposals, scores, everything(proposals), labels, **options)
    return list(zip(found.class_index[0].tolist(), found.weight[0].tolist(), strict=True))


# ---------------------------------------------------------------------------------------------------- the obvious reference


@dataclass
class Case:
    """One image, as plain numbers."""

    boxes: list[tuple[int, ...]]
    scores: np.ndarray  # [R, C]
    labels: np.ndarray  # [C]


@cache
def exact_iou(a, b):
    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = area(a) + area(b) - intersection
    return Fraction(intersection, union) if union else Fraction(0)


def exact(threshold):
    return Fraction(threshold).limit_denominator(1000)


def ranked(case, c):
    return sorted(range(len(case.boxes)), key=lambda r: -case.scores[r, c])  # equal ones stay in order


def truth_of_mist(case, share, max_overlap):
    """(proposal, class) pairs: method 4.4, RoI by RoI."""
    truth = []
    count = len(case.boxes)
    k = 1 if count < 10 else max(1, int(count * share))
    for c in np.flatnonzero(case.labels):
        top = ranked(case, c)[:k]
        for place, r in enumerate(top):
            if all(exact_iou(case.boxes[r], case.boxes[better]) < exact(max_overlap) for better in top[:place]):
                truth.append((r, int(c)))
    return truth


def truth_of_oicr(case, near_top, nms_iou):
    """(proposal, class) pairs: method 4.3, best score first, equal ones in the order of class, then proposal."""
    near = [
        (r, int(c))
        for c in np.flatnonzero(case.labels)
        for r in range(len(case.boxes))
        if Fraction(float(case.scores[r, c])) >= exact(near_top) * Fraction(float(case.scores[:, c].max()))
    ]
    kept = []
    for r, c in sorted(near, key=lambda pair: -case.scores[pair]):
        if all(exact_iou(case.boxes[r], case.boxes[other]) <= exact(nms_iou) for other, _ in kept):
            kept.append((r, c))
    return kept


def truth_of_top1(case):
    """(proposal, class) pairs: method 4.3's textbook rule as published; what a class has chosen scores 0 for the next."""
    truth, scores = [], case.scores.copy()
    for c in np.flatnonzero(case.labels) if case.boxes else ():
        r = int(scores[:, c].argmax())
        truth.append((r, int(c), float(scores[r, c])))
        scores[r] = 0
    return truth


def taught(case, truth, min_iou, ignore_below=0.0, *, reached=True):
    """For each proposal: class, weight, target box; without pseudo truth nothing is to be learnt."""
    weighed = [pair if len(pair) == 3 else (*pair, float(case.scores[pair])) for pair in truth]
    rows = []
    for box in case.boxes:
        if not truth:
            rows.append((BACKGROUND, 0.0, None))
            continue
        overlaps = [exact_iou(box, case.boxes[r]) for r, *_ in weighed]
        best = overlaps.index(max(overlaps))  # the first of equals
        r, c, score = weighed[best]
        if overlaps[best] < exact(ignore_below):
            rows.append((BACKGROUND, 0.0, case.boxes[r]))
        else:
            foreground = overlaps[best] >= exact(min_iou) if reached else overlaps[best] > exact(min_iou)
            rows.append((c if foreground else BACKGROUND, score, case.boxes[r]))
    return rows


def drawn(rng, classes):
    """An image with ties and duplicates: few score levels, boxes on a coarse grid, some of them empty."""
    count = int(rng.choice([0, 1, 2, 5, 6, 7, 9, 10, 14, 40]))
    corners = np.sort(rng.integers(0, rng.choice([3, 6, 30]), (count, 2, 2)), axis=1).reshape(count, 4)
    levels = int(rng.choice([1, 3, 8, 1024]))
    scores = rng.integers(0, levels + 1, (count, classes)) / levels
    labels = rng.random(classes) < rng.choice([0.0, 0.3, 1.0])
    return Case([tuple(box) for box in corners.tolist()], scores.astype(np.float32), labels)


def laid_out(cases, garbage):
    """The padded batch; padding holds ``garbage`` where it must not be looked at."""
    counts = [len(case.boxes) for case in cases]
    real = real_proposals(counts)
    flat_boxes = torch.tensor([box for case in cases for box in case.boxes], dtype=torch.float32).reshape(-1, 4)
    flat_scores = torch.from_numpy(np.concatenate([case.scores for case in cases]))
    labels = torch.from_numpy(np.stack([case.labels for case in cases]))
    fill = [pad(values, counts).masked_fill(~real[..., None], garbage) for values in (flat_boxes, flat_scores)]
    return *fill, real, labels


def assert_taught(found, cases, expected):
    for image, (case, rows) in enumerate(zip(cases, expected, strict=True)):
        for r, (class_index, weight, target) in enumerate(rows):
            assert found.class_index[image, r] == class_index
            assert found.weight[image, r] == np.float32(weight)
            assert target is None or tuple(found.target_boxes_xyxy[image, r].tolist()) == target
        assert (found.class_index[image, len(case.boxes) :] == BACKGROUND).all()
        assert (found.weight[image, len(case.boxes) :] == 0).all()


@pytest.mark.parametrize("seed", range(200))
def test_mining_in_padded_batches_equals_the_obvious_reference(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 5))
    cases = [drawn(rng, classes) for _ in range(rng.integers(1, 4))]
    batch = laid_out(cases, garbage=rng.choice([0.0, 7.0]))
    min_iou, ignore_below = float(rng.choice([0.25, 0.5])), float(rng.choice([0.0, 0.1]))

    share, max_overlap = float(rng.choice([0, 0.15, 0.5, 1])), float(rng.choice([0, 0.2, 0.5, 1]))
    found = mine_mist(*batch, share=share, max_overlap=max_overlap, min_iou=min_iou)
    assert_taught(found, cases, [taught(case, truth_of_mist(case, share, max_overlap), min_iou) for case in cases])

    near_top, nms_iou = float(rng.choice([0, 0.5, 0.9, 1])), float(rng.choice([0, 0.25, 0.5, 1]))
    found = mine_oicr(*batch, near_top=near_top, nms_iou=nms_iou, min_iou=min_iou, ignore_below=ignore_below)
    expected = [taught(case, truth_of_oicr(case, near_top, nms_iou), min_iou, ignore_below) for case in cases]
    assert_taught(found, cases, expected)

    found = mine_top1(*batch, min_iou=min_iou)
    assert_taught(found, cases, [taught(case, truth_of_top1(case), min_iou, reached=False) for case in cases])


@pytest.mark.parametrize("seed", range(200))
def test_losses_of_padded_batches_equal_the_obvious_reference(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 5))
    counts = [int(n) for n in rng.integers(0, 8, rng.integers(1, 4))]
    real = real_proposals(counts)
    shape = tuple(real.shape)
    class_index, weight = rng.integers(-1, classes, shape), rng.random(shape)
    pseudo = PseudoLabels(
        class_index=torch.from_numpy(class_index),
        weight=torch.from_numpy(weight).float(),
        target_boxes_xyxy=torch.zeros(*shape, 4),
    )
    labels = rng.random((len(counts), 1 + classes)) < 0.5
    c, d, logits = (rng.normal(size=(*shape, 1 + classes)) for _ in range(3))
    deltas, targets = 2 * rng.normal(size=(*shape, 1 + classes, 4)), rng.normal(size=(*shape, 4))
    epsilon = float(rng.choice([0, 1e-6, 0.1]))

    scores = wsddn_scores(torch.from_numpy(c), torch.from_numpy(d), real)
    image_sum, image_mean = (
        image_loss(scores, torch.from_numpy(labels), real, epsilon=1e-8, mean=mean).tolist() for mean in (False, True)
    )
    refinement = refinement_loss(torch.from_numpy(logits), pseudo, real, epsilon=epsilon).tolist()
    specific, agnostic = (
        box_loss(torch.from_numpy(deltas[:, :, :sets]), torch.from_numpy(targets), pseudo, real).tolist()
        for sets in (None, 1)
    )
    for i, count in enumerate(counts):
        x = two_streams_by_hand(c[i, :count], d[i, :count])
        assert scores[i, :count].numpy() == near(x, length=8)
        assert (scores[i, count:] == 0).all()
        bce = sum(
            -math.log(phi if there else 1 - phi) for phi, there in zip(x.sum(axis=0), labels[i], strict=True) if count
        )
        assert image_sum[i] == near(bce, length=64)
        assert image_mean[i] == near(bce / (1 + classes), length=64)
        rows = list(zip(class_index[i, :count], weight[i, :count], strict=True))
        assert refinement[i] == near(refinement_by_hand(logits[i], rows, epsilon), length=64)
        assert specific[i] == near(boxes_by_hand(deltas[i], targets[i], rows), length=64)
        assert agnostic[i] == near(boxes_by_hand(deltas[i][:, :1], targets[i], rows), length=64)


def softmax(values):
    shifted = [math.exp(value - max(values)) for value in values]
    return [value / sum(shifted) for value in shifted]


def two_streams_by_hand(c, d):
    x = np.zeros(c.shape)
    for column in range(c.shape[1]):
        among = softmax(list(d[:, column])) if len(d) else []
        for r in range(len(c)):
            x[r, column] = softmax(list(c[r]))[column] * among[r]
    return x


def refinement_by_hand(logits, rows, epsilon):
    losses = [
        -weight * math.log(softmax(list(row))[class_index + 1] + epsilon)
        for row, (class_index, weight) in zip(logits, rows, strict=False)
    ]
    return sum(losses) / len(losses) if losses else 0.0


def boxes_by_hand(deltas, targets, rows):
    total = 0.0
    for r, (class_index, weight) in enumerate(rows):
        if class_index != BACKGROUND:
            own = deltas[r, class_index + 1 if deltas.shape[1] > 1 else 0]
            distances = [abs(a - b) for a, b in zip(own, targets[r], strict=True)]
            total += weight * sum(0.5 * d * d if d < 1 else d - 0.5 for d in distances)
    return total / len(rows) if rows else 0.0


# ---------------------------------------------------------------------------------------------------------- MIST's mining


def apart(count):
    """Boxes that overlap nothing, with falling scores."""
    return boxes(*[[20.0 * n, 0, 20.0 * n + 10, 10] for n in range(count)]), of_one_class(
        *[1 - n / 1024 for n in range(count)]
    )


@pytest.mark.parametrize(
    ("proposals", "looked_at"),
    [
        pytest.param(1, 1, id="alone"),
        pytest.param(4, 1, id="int(.15 * 4) = 0 would be none"),
        pytest.param(6, 1, id="int(.15 * 6) = 0 would be none"),
        pytest.param(9, 1, id="fewer than ten: the best alone"),
        pytest.param(10, 1, id="int(.15 * 10) = 1"),
        pytest.param(14, 2, id="int(.15 * 14) = 2"),
        pytest.param(20, 3, id="int(.15 * 20) = 3"),
        pytest.param(200, 30, id="int(.15 * 200) = 30"),
    ],
)
def test_a_share_of_the_proposals_is_ranked(proposals, looked_at):
    # Nothing overlaps, so each of the ranked is pseudo truth and all others are background.
    classes = [index for index, _ in mined(mine_mist, *apart(proposals))]
    assert classes == [0] * looked_at + [BACKGROUND] * (proposals - looked_at)


@pytest.mark.parametrize(
    ("share", "foreground"),
    [
        pytest.param(0.5, 5, id="half of ten"),
        pytest.param(1.0, 10, id="all"),
        pytest.param(0.0, 1, id="none: the best"),
    ],
)
def test_the_share_is_an_option_and_0_keeps_the_best_one(share, foreground):
    assert [index for index, _ in mined(mine_mist, *apart(10), share=share)].count(0) == foreground


@pytest.mark.parametrize("count", [9, 20])
def test_fewer_than_ten_leave_the_best_one_whatever_the_share(count):
    classes = [index for index, _ in mined(mine_mist, *apart(count), share=1.0)]
    assert classes.count(0) == (1 if count < 10 else count)


def test_a_chain_keeps_its_end_under_nms_but_not_under_mist():
    # IoU(a, b) = IoU(b, c) = 50 / 150 = .33, IoU(a, c) = 0. NMS at .2 lets a suppress b, and c, which only overlaps the
    # suppressed b, stays: {a, c}. MIST compares c with b all the same: {a}. Ten boxes make share 1 count.
    rest = [[20.0 * n, 50, 20.0 * n + 10, 60] for n in range(7)]
    proposals, scores = boxes(A, B, C, *rest), of_one_class(0.9, 0.8, 0.7, *[0.1] * 7)
    found = mine_mist(proposals, scores, everything(proposals), PRESENT, share=0.3, max_overlap=0.2)
    assert found.class_index[0, :3].tolist() == [0, BACKGROUND, BACKGROUND]
    # c overlaps no pseudo truth at all: the first one is as near as any.
    assert found.weight[0, :3].tolist() == near([0.9, 0.9, 0.9])
    by_nms = mine_oicr(proposals, scores, everything(proposals), PRESENT, near_top=0.75, nms_iou=0.2)
    assert by_nms.class_index[0, :3].tolist() == [0, BACKGROUND, 0]
    assert by_nms.weight[0, :3].tolist() == near([0.9, 0.9, 0.7])


@pytest.mark.parametrize("max_overlap", [0.0, 0.2, 1.0])
def test_the_best_proposal_of_each_class_is_always_kept(max_overlap):
    proposals = boxes(*[A] * 12)
    scores = torch.full((1, 12, 2), 0.25)
    scores[0, 7, 0] = scores[0, 3, 1] = 0.5
    found = mine_mist(
        proposals, scores, everything(proposals), torch.tensor([[True, True]]), share=1.0, max_overlap=max_overlap
    )
    # Twelve times the same box: the best of both classes stay; of equal overlaps the first class is taken.
    assert found.class_index[0].tolist() == [0] * 12
    assert found.weight[0].tolist() == [0.5] * 12


def test_an_overlap_equal_to_the_limit_is_too_much():
    # IoU = 20 / (100 + 20 - 20) = .2
    inside = [0.0, 0.0, 10.0, 2.0]
    proposals = boxes(A, inside, *[[50.0 * n, 200, 50.0 * n + 9, 209] for n in range(8)])
    scores = of_one_class(0.9, 0.8, *[0.1] * 8)
    assert mined(mine_mist, proposals, scores, share=0.2, max_overlap=0.2)[1][0] == BACKGROUND
    assert mined(mine_mist, proposals, scores, share=0.2, max_overlap=0.21)[1][0] == 0


def test_background_weighs_as_much_as_the_pseudo_truth_nearest_to_it():
    # Pseudo truth: A for class 0 (.75), FAR for class 1 (.5). B overlaps A by .33: background, weight .75. The box at FAR's
    # corner overlaps it by 25 / 100 = .25: background, weight .5. What overlaps neither takes the first.
    proposals = boxes(A, B, FAR, [100, 100, 105, 105], [300, 300, 310, 310])
    scores = torch.tensor([[[0.75, 0.0], [0.5, 0.0], [0.0, 0.5], [0.0, 0.25], [0.125, 0.125]]])
    for mine in (mine_mist, mine_oicr, mine_top1):
        found = mine(proposals, scores, everything(proposals), torch.tensor([[True, True]]))
        assert found.class_index[0].tolist() == [0, BACKGROUND, 1, BACKGROUND, BACKGROUND]
        assert found.weight[0].tolist() == [0.75, 0.75, 0.5, 0.5, 0.75]
        assert found.target_boxes_xyxy[0].tolist() == [A, A, FAR, FAR, A]


def test_a_proposal_belongs_to_the_class_that_overlaps_it_most():
    # IoU with A = 80 / 120 = .67, with B = 70 / 130 = .54.
    proposals = boxes(A, B, [2.0, 0.0, 12.0, 10.0])
    scores = torch.tensor([[[0.5, 0.0], [0.0, 0.75], [0.1, 0.1]]])
    assert mined(mine_mist, proposals, scores, torch.tensor([[True, True]])) == [(0, 0.5), (1, 0.75), (0, 0.5)]


def test_an_absent_class_teaches_nothing_however_high_its_scores():
    proposals, scores = boxes(A, FAR), torch.tensor([[[0.9, 0.25], [0.9, 0.5]]])
    absent_first = torch.tensor([[False, True]])
    assert mined(mine_mist, proposals, scores, absent_first) == [(BACKGROUND, 0.5), (1, 0.5)]
    assert mined(mine_oicr, proposals, scores, absent_first) == [(BACKGROUND, 0.5), (1, 0.5)]


# ---------------------------------------------------------------------------------------------------------- OICR's mining


def test_proposals_near_the_best_score_are_pseudo_truth():
    # .9 * .8 = .72: the one of .73 is near enough, the one of .71 is not.
    proposals = boxes(*[[20.0 * n, 0, 20.0 * n + 10, 10] for n in range(3)])
    scores = of_one_class(0.8, 0.73, 0.71)
    assert mined(mine_oicr, proposals, scores) == [
        (0, near(0.8)), (0, near(0.73)), (BACKGROUND, near(0.8)),
    ]  # fmt: skip
    assert [index for index, _ in mined(mine_oicr, proposals, scores, near_top=0.85)] == [0, 0, 0]
    assert [index for index, _ in mined(mine_oicr, proposals, scores, near_top=1.0)] == [0, BACKGROUND, BACKGROUND]


def test_pseudo_truth_of_one_class_suppresses_that_of_another():
    # IoU of the first two = 80 / 120 = .67 > .5, so class 1 loses its only pseudo truth to class 0.
    proposals = boxes(A, [2.0, 0.0, 12.0, 10.0], FAR)
    scores = torch.tensor([[[0.75, 0.0], [0.0, 0.5], [0.0, 0.0]]])
    both = torch.tensor([[True, True]])
    assert mined(mine_oicr, proposals, scores, both) == [(0, 0.75), (0, 0.75), (BACKGROUND, 0.75)]
    assert mined(mine_oicr, proposals, scores, both, nms_iou=0.7) == [(0, 0.75), (1, 0.5), (BACKGROUND, 0.75)]


def test_proposals_far_from_any_pseudo_truth_can_be_ignored():
    # IoU with A: B .33, the box at its corner 4 / 196 = .02.
    proposals = boxes(A, B, [8.0, 8.0, 18.0, 18.0])
    scores = of_one_class(0.75, 0.25, 0.0)
    assert mined(mine_oicr, proposals, scores, ignore_below=0.1) == [(0, 0.75), (BACKGROUND, 0.75), (BACKGROUND, 0.0)]
    assert mined(mine_oicr, proposals, scores)[2] == (BACKGROUND, 0.75)


THREE_APART = boxes([0, 0, 10, 10], [50, 50, 60, 60], [100, 100, 120, 120])


def scores_of(**by_class):
    """Scores ``[1, R, 8]`` and labels of the classes named ``c3=(…)``, which are present."""
    scores = torch.zeros(1, len(next(iter(by_class.values()))), 8)
    for name, values in by_class.items():
        scores[0, :, int(name[1:])] = torch.tensor(values)
    return scores, scores.any(dim=1)


@pytest.mark.parametrize(("low", "high"), [("c3", "c7"), ("c7", "c3")])
def test_what_overlaps_no_pseudo_truth_weighs_as_the_best_of_all_classes(low, high):
    # Classes score .2 and .9, each in a region of its own; the third region belongs to neither.
    scores, labels = scores_of(**{low: (0.2, 0, 0), high: (0, 0.9, 0)})
    found = mine_oicr(THREE_APART, scores, everything(THREE_APART), labels)
    assert found.class_index[0].tolist() == [int(low[1:]), int(high[1:]), BACKGROUND]
    assert found.weight[0].tolist() == pytest.approx([0.2, 0.9, 0.9])
    assert found.target_boxes_xyxy[0, 2].tolist() == [50, 50, 60, 60]
    # Published MIST lays its pseudo truth out class by class: there the lowest class decides.
    first_class = mine_mist(THREE_APART, scores, everything(THREE_APART), labels, share=0.0)
    assert first_class.weight[0, 2].item() == pytest.approx(0.2 if low == "c3" else 0.9)


def test_what_overlaps_two_classes_equally_goes_to_the_better_one():
    # The last box holds half of either pseudo truth: IoU 50 / 150 with both.
    proposals = boxes([0, 0, 10, 10], [10, 0, 20, 10], [5, 0, 15, 10])
    scores, labels = scores_of(c1=(0.25, 0, 0), c2=(0, 0.75, 0))
    assert mined(mine_oicr, proposals, scores, labels, min_iou=0.25) == [(1, 0.25), (2, 0.75), (2, 0.75)]


@pytest.mark.parametrize("seed", range(20))
def test_the_numbering_of_classes_does_not_matter_to_oicr(seed):
    rng = np.random.default_rng(seed)
    proposals = pad(torch.from_numpy(np.sort(rng.integers(0, 60, (40, 2, 2)), axis=1).reshape(40, 4)).float(), [30, 10])
    real = real_proposals([30, 10])
    scores = torch.from_numpy(rng.permutation(60 * 5).reshape(2, 30, 5) / 300).float()  # no two alike
    labels = torch.from_numpy(rng.random((2, 5)) < 0.6)
    new_number = torch.from_numpy(rng.permutation(5))
    old_number = new_number.argsort()
    found = mine_oicr(proposals, scores, real, labels, near_top=0.6)
    again = mine_oicr(proposals, scores[..., old_number], real, labels[..., old_number], near_top=0.6)
    renumbered = torch.where(found.class_index == BACKGROUND, BACKGROUND, new_number[found.class_index])
    assert torch.equal(again.class_index, renumbered)
    assert torch.equal(again.weight, found.weight)
    assert torch.equal(again.target_boxes_xyxy[real], found.target_boxes_xyxy[real])


# ------------------------------------------------------------------------------------------------- the paper's OICR: top-1


def test_the_papers_oicr_takes_the_best_alone():
    # Twenty boxes of nearly the same score, nothing overlaps: near-top takes them all, the paper's rule the best alone.
    proposals, scores = apart(20)
    assert [index for index, _ in mined(mine_oicr, proposals, scores)] == [0] * 20
    assert mined(mine_top1, proposals, scores) == [(0, 1.0)] + [(BACKGROUND, 1.0)] * 19


def test_a_region_that_a_class_has_chosen_is_not_chosen_again():
    # Class 3 takes the first region; class 7 would, too, and takes its second best.
    scores, labels = scores_of(c3=(0.9, 0.1, 0), c7=(0.8, 0, 0.5))
    found = mined(mine_top1, THREE_APART, scores, labels)
    assert [index for index, _ in found] == [3, BACKGROUND, 7]
    assert [weight for _, weight in found] == pytest.approx([0.9, 0.9, 0.5])


def test_classes_that_share_their_only_region_leave_it_to_the_first():
    # Nothing is left to class 2 but a score of 0, in the same place.
    scores, labels = scores_of(c1=(0.5,), c2=(0.75,))
    assert mined(mine_top1, boxes(A), scores, labels) == [(1, 0.5)]


@pytest.mark.parametrize(("width", "expected"), [(5.0, BACKGROUND), (6.0, 0)])
def test_an_iou_of_exactly_half_is_background_to_the_papers_oicr_alone(width, expected):
    proposals, scores = boxes(A, [0.0, 0.0, width, 10.0]), of_one_class(0.75, 0.0)
    assert mined(mine_top1, proposals, scores)[1] == (expected, 0.75)
    assert mined(mine_oicr, proposals, scores)[1] == (0, 0.75)


# ---------------------------------------------------------------------------------------------------------------- batches


def random_batch(counts, classes=3, seed=0):
    """Tensors of a batch and the parameters-like logits that its losses are computed from."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*columns):
        return pad(torch.randn(sum(counts), *columns, generator=generator), counts)

    corners = torch.rand(sum(counts), 2, 2, generator=generator).mul(200).sort(dim=1).values.reshape(-1, 4)
    return {
        "proposals": pad(corners, counts),
        "real": real_proposals(counts),
        "labels": torch.rand(len(counts), classes, generator=generator) < 0.7,
        "class_logits": normal(classes),
        "detection_logits": normal(classes),
        "logits": normal(1 + classes),
        "deltas": normal(1 + classes, 4),
        "targets": normal(4),
    }


def losses_of(batch, mine=mine_mist):
    """The pseudo labels and the three losses per image, as a detector combines them."""
    scores = wsddn_scores(batch["class_logits"], batch["detection_logits"], batch["real"])
    pseudo = mine(batch["proposals"], scores, batch["real"], batch["labels"])
    return pseudo, {
        "scores": scores,
        "image": image_loss(scores, batch["labels"], batch["real"], epsilon=1e-8, mean=True),
        "refinement": refinement_loss(batch["logits"], pseudo, batch["real"], epsilon=1e-6),
        "boxes": box_loss(batch["deltas"], batch["targets"], pseudo, batch["real"]),
    }


@pytest.mark.parametrize("mine", [mine_mist, mine_oicr, mine_top1])
def test_neighbours_and_padding_change_nothing(mine):
    counts = [13, 40, 1]
    batch = random_batch(counts)
    together, losses = losses_of(batch, mine)
    # Padding of finite garbage, and 30 rows more of it.
    wider = {
        name: torch.cat([value, value.new_zeros(3, 30, *value.shape[2:])], dim=1) if name != "labels" else value
        for name, value in batch.items()
    }
    for name in set(wider) - {"real", "labels"}:
        wider[name][~wider["real"]] = 3.0
    padded, losses_padded = losses_of(wider, mine)
    for name in ("image", "refinement", "boxes"):
        assert losses_padded[name].tolist() == near(losses[name].tolist(), length=70 * 4)
    for image, count in enumerate(counts):
        alone, own = losses_of({name: value[image : image + 1] for name, value in shortened(batch, count)}, mine)
        for field in fields(PseudoLabels):
            one = getattr(alone, field.name)[0]
            assert_near(getattr(together, field.name)[image, :count], one, length=70)
            assert_near(getattr(padded, field.name)[image, :count], one, length=70)
        for name in ("image", "refinement", "boxes"):
            assert own[name].item() == near(losses[name][image].item(), length=70 * 4)


def shortened(batch, count):
    return [(name, value if name == "labels" else value[:, :count]) for name, value in batch.items()]


@pytest.mark.parametrize("mine", [mine_mist, mine_oicr, mine_top1])
def test_images_with_0_1_and_2000_proposals_share_a_batch(mine):
    batch = random_batch([0, 1, 2000])
    batch["labels"] = torch.tensor([[True, False, True]] * 3)
    for name in ("class_logits", "detection_logits", "logits", "deltas"):
        batch[name].requires_grad_()
    pseudo, losses = losses_of(batch, mine)
    higher = 2 * int(losses["scores"][1, 0, 2] > losses["scores"][1, 0, 0])
    assert pseudo.class_index.shape == (3, 2000)
    assert {name: losses[name][0].item() for name in ("image", "refinement", "boxes")} == {
        "image": 0, "refinement": 0, "boxes": 0,
    }  # fmt: skip
    # The only proposal is the best of both classes. It overlaps both equally, so MIST takes the first, as the paper's OICR,
    # for which it serves one class only; OICR's NMS keeps the one that scores higher.
    assert pseudo.class_index[1, :2].tolist() == [higher if mine is mine_oicr else 0, BACKGROUND]
    assert set(pseudo.class_index[2].tolist()) == {BACKGROUND, 0, 2}
    sum(losses[name].sum() for name in ("image", "refinement", "boxes")).backward()
    for name in ("class_logits", "detection_logits", "logits", "deltas"):
        assert batch[name].grad.isfinite().all()
        assert (batch[name].grad[~batch["real"]] == 0).all()
        assert (batch[name].grad[2] != 0).any()


@pytest.mark.parametrize("mine", [mine_mist, mine_oicr, mine_top1])
@pytest.mark.parametrize("counts", [[0], [0, 0], [3], [12, 0]])
def test_images_without_proposals_or_labels_are_taught_nothing(mine, counts):
    batch = random_batch(counts)
    batch["labels"] = torch.zeros(len(counts), 3, dtype=torch.bool)
    batch["logits"].requires_grad_()
    pseudo, losses = losses_of(batch, mine)
    assert (pseudo.class_index == BACKGROUND).all()
    assert (pseudo.weight == 0).all()
    assert pseudo.target_boxes_xyxy.shape == batch["proposals"].shape
    assert losses["refinement"].tolist() == losses["boxes"].tolist() == [0] * len(counts)
    losses["refinement"].sum().backward()
    assert (batch["logits"].grad == 0).all()
    # That no class is there can still be learnt from an image that has proposals.
    assert [loss > 0 for loss in losses["image"].tolist()] == [count > 0 for count in counts]


def test_pseudo_labels_carry_no_gradient():
    batch = random_batch([5])
    scores = wsddn_scores(batch["class_logits"].requires_grad_(), batch["detection_logits"], batch["real"])
    for mine in (mine_mist, mine_oicr, mine_top1):
        pseudo = mine(batch["proposals"].requires_grad_(), scores, batch["real"], torch.ones(1, 3, dtype=torch.bool))
        assert not any(getattr(pseudo, field.name).requires_grad for field in fields(PseudoLabels))


def test_proposals_are_laid_out_one_row_per_image():
    values = torch.arange(8.0).reshape(4, 2)
    assert pad(values, [1, 0, 3]).tolist() == [
        [[0, 1], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]], [[2, 3], [4, 5], [6, 7]],
    ]  # fmt: skip
    assert real_proposals([1, 0, 3]).tolist() == [[True, False, False], [False] * 3, [True] * 3]
    assert pad(values[:0], [0, 0]).shape == (2, 0, 2)
    assert real_proposals([0, 0]).shape == (2, 0)


# ----------------------------------------------------------------------------------------------------------------- losses


def test_two_streams_by_hand():
    # Class 0 against class 1: logits (0, ln 3) give (1/4, 3/4), (0, 0) give (1/2, 1/2). Among the proposals: (ln 2, 0) give
    # (2/3, 1/3) for class 0, (0, 0) give (1/2, 1/2) for class 1.
    c = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0]]])
    d = torch.tensor([[[math.log(2), 0.0], [0.0, 0.0]]])
    scores = wsddn_scores(c, d, torch.tensor([[True, True]]))
    expected = [[1 / 4 * 2 / 3, 3 / 4 * 1 / 2], [1 / 2 * 1 / 3, 1 / 2 * 1 / 2]]
    assert scores[0].numpy() == near(np.array(expected), length=4)


def test_image_loss_by_hand():
    # Image scores .2 + .3 = .5 (present) and .1 + .15 = .25 (absent): -ln .5 and -ln .75.
    scores = torch.tensor([[[0.2, 0.1], [0.3, 0.15]]])
    real, labels = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    expected = math.log(2) + math.log(4 / 3)
    assert image_loss(scores, labels, real, epsilon=0, mean=False).tolist() == near([expected], length=4)
    assert image_loss(scores, labels, real, epsilon=0, mean=True).tolist() == near([expected / 2], length=4)


@pytest.mark.parametrize(
    ("score", "present", "epsilon", "expected"),
    [
        pytest.param(0.0, True, 1e-8, -math.log(1e-8), id="kept from 0"),
        pytest.param(0.0, True, 0.0, 100, id="logarithms end at -100"),
        pytest.param(1.0, False, 0.0, 100, id="and so they do at 1"),
        pytest.param(1.0, False, 1e-8, 100, id="1 - 1e-8 is 1 in float32"),
        pytest.param(1.0, False, 0.01, -math.log(0.01), id="kept from 1"),
        pytest.param(1.0000001, True, 0.0, 0.0, id="a sum of roundings beyond 1"),
        pytest.param(0.0, False, 0.0, 0.0, id="right"),
    ],
)
def test_image_scores_are_kept_from_0_and_1(score, present, epsilon, expected):
    scores = torch.tensor([[[score]]], requires_grad=True)
    loss = image_loss(scores, torch.tensor([[present]]), torch.tensor([[True]]), epsilon=epsilon, mean=False)
    assert loss.item() == near(expected, length=4, magnitude=max(expected, 1.0))
    loss.sum().backward()
    assert scores.grad.isfinite().all()


def pseudo_labels(classes, weights, proposals=None):
    count = len(classes)
    target = torch.zeros(1, count, 4) if proposals is None else proposals
    return PseudoLabels(
        class_index=torch.tensor([classes]), weight=torch.tensor([weights]), target_boxes_xyxy=target
    )  # fmt: skip


def test_refinement_loss_by_hand():
    # Background is column 0. Probabilities (1/2, 1/4, 1/4) learnt as class 1 with weight .8, (1/4, 3/8, 3/8) as background
    # with weight .5; a third one with weight 0. Mean over the three: (.8 ln 4 + .5 ln 4 + 0) / 3.
    p = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 4, 3 / 8, 3 / 8], [1 / 3, 1 / 3, 1 / 3]]])
    pseudo = pseudo_labels([1, BACKGROUND, 0], [0.8, 0.5, 0.0])
    real = torch.tensor([[True, True, True]])
    assert refinement_loss(p.log(), pseudo, real).tolist() == near([1.3 * math.log(4) / 3], length=8)
    with_epsilon = refinement_loss(p.log(), pseudo, real, epsilon=0.25)
    assert with_epsilon.tolist() == near([1.3 * math.log(2) / 3], length=8)


def test_epsilon_bounds_the_refinement_loss_of_a_hopeless_proposal():
    logits = torch.tensor([[[0.0, -200.0]]], requires_grad=True)
    pseudo, real = pseudo_labels([0], [1.0]), torch.tensor([[True]])
    assert refinement_loss(logits, pseudo, real).item() == near(200)
    bounded = refinement_loss(logits, pseudo, real, epsilon=1e-6)
    assert bounded.item() == near(-math.log(1e-6))
    bounded.sum().backward()
    assert logits.grad.isfinite().all()


def box_numbers():
    """Two proposals of classes 1 and background, and a third of class 0; each class has deltas of its own."""
    deltas = torch.zeros(1, 3, 3, 4)
    deltas[0, 0, 2] = torch.tensor([0.5, 0.0, 2.0, 0.0])  # class 1 of the first
    deltas[0, 2, 1] = torch.tensor([0.0, -3.0, 0.0, 0.2])  # class 0 of the third
    deltas[0, 0, 0] = torch.tensor([9.0, 0.0, 0.0, 0.0])  # what class-agnostic deltas would be
    return deltas, pseudo_labels([1, BACKGROUND, 0], [0.5, 0.9, 0.25]), torch.tensor([[True, True, True]])


def test_box_loss_by_hand():
    deltas, pseudo, real = box_numbers()
    # Against targets of 0: .5^2 / 2 + (2 - .5) = 1.625 and (3 - .5) + .2^2 / 2 = 2.52.
    # (.5 * 1.625 + .25 * 2.52) / 3 proposals; the background one is counted, but not measured.
    loss = box_loss(deltas, torch.zeros(1, 3, 4), pseudo, real)
    assert loss.tolist() == near([(0.5 * 1.625 + 0.25 * 2.52) / 3], length=8)


def test_class_agnostic_box_loss_by_hand():
    deltas, pseudo, real = box_numbers()
    # One set of deltas for all classes: 9 - .5 for the first proposal, 0 for the third.
    loss = box_loss(deltas[:, :, :1], torch.zeros(1, 3, 4), pseudo, real)
    assert loss.tolist() == near([0.5 * 8.5 / 3], length=8)


@pytest.mark.parametrize("nothing", [0.0, 5.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("sets", [1, 3])
def test_background_gives_no_gradient_whatever_its_target(nothing, sets):
    deltas, pseudo, real = box_numbers()
    deltas = (deltas[:, :, :sets] + 0.25).requires_grad_()
    targets = torch.zeros(1, 3, 4)
    targets[0, 1] = nothing
    loss = box_loss(deltas, targets, pseudo, real)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert (deltas.grad[0, 1] == 0).all()
    assert deltas.grad.isfinite().all()
    own = [(0, 0), (2, 0)] if sets == 1 else [(0, 2), (2, 1)]
    moved = deltas.grad[0].abs().sum(dim=2).nonzero().tolist()
    assert moved == [list(pair) for pair in own]


class Heads(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(8, n) for n in (classes, classes, 1 + classes, 4 * (1 + classes)))
        for head in self.heads:
            nn.init.normal_(head.weight, std=1.0)

    def forward(self, features):
        c, d, logits, deltas = (head(features) for head in self.heads)
        return c, d, logits, deltas.unflatten(-1, (-1, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mine", [mine_mist, mine_oicr, mine_top1])
def test_under_autocast_scores_and_losses_stay_float32_and_finite(dtype, mine):
    torch.manual_seed(1)
    counts = [3000, 5]  # the softmax over 3,000 proposals is below what fp16 can hold
    batch, heads = random_batch(counts), Heads(3)
    features = pad(torch.randn(sum(counts), 8), counts)
    with torch.autocast("cpu", dtype):
        c, d, logits, deltas = heads(features)
        assert {value.dtype for value in (c, d, logits, deltas)} == {dtype}
        outputs = {"class_logits": c, "detection_logits": d, "logits": logits, "deltas": deltas}
        pseudo, losses = losses_of({**batch, **outputs}, mine)
        total = sum(losses[name].sum() for name in ("image", "refinement", "boxes"))
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert pseudo.weight.dtype == pseudo.target_boxes_xyxy.dtype == torch.float32
    assert all(value.isfinite().all() for value in losses.values())
    full = [value.float() for value in (c, d, logits, deltas)]
    _, exactly = losses_of({**batch, **dict(zip(outputs, full, strict=True))}, mine)
    assert torch.equal(losses["image"], exactly["image"])  # nothing was rounded on the way
    total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in heads.parameters())
