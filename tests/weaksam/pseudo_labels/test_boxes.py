"""Boxes by hand, and a few hundred random images against the plain loop of the benchmark."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.pseudo_labels import plain_reasons
from tests.support.tolerances import assert_near, near
from weaksam.config import PseudoLabelsConfig
from weaksam.errors import ConfigError
from weaksam.pseudo_labels import boxes as pseudo_labels
from weaksam.pseudo_labels.boxes import REASONS, fill_in, pseudo_ground_truth, select
from weaksam.structures import Detections

PAPER = PseudoLabelsConfig(covered_by="any")
OFFICIAL = PseudoLabelsConfig(normalise="range", covered_by="any")
TOP1 = PseudoLabelsConfig(mode="top1")

KEPT, LOW, COVERED, OTHER = "kept", "low score", "covered", "not the best"
# Far apart, 10 pixels wide and high.
A, B, C = (0, 0, 10, 10), (100, 0, 110, 10), (200, 0, 210, 10)
# Each inside the next: 100, 400 and 900 pixels.
INNER, MIDDLE, OUTER = (0, 0, 10, 10), (0, 0, 20, 20), (0, 0, 30, 30)
NOTHING = (5, 5, 5, 9)


def detections(*rows, class_index=0):
    """Detections of one image from rows of (box, score) or (box, score, class)."""
    return Detections(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        class_index=np.array([row[2] if len(row) > 2 else class_index for row in rows], np.int64),
        score=np.array([row[1] for row in rows], np.float32),
        image_scores=np.zeros(0, np.float32),
    )


def selected(found, labels, config=None, num_classes=3):
    """What becomes of the detections of one image: reasons by name, normalised scores."""
    present = np.zeros((1, num_classes), bool)
    present[0, list(labels)] = True
    arguments = found.boxes_xyxy, found.class_index, found.score, np.zeros(len(found), np.int64), present
    selection = select(*arguments, config or PseudoLabelsConfig())
    return [REASONS[n] for n in selection.reason], selection.score_normalised.tolist()


TABLE = {
    # config, rows of (box, score), expected reasons, expected normalised scores
    "min-max of three scores": (None, [(A, 1.0), (B, 0.5), (C, 0.0)], [KEPT, KEPT, LOW], [1, 0.5, 0]),
    "min-max subtracts the lowest": (None, [(A, 0.75), (B, 0.625), (C, 0.5)], [KEPT, KEPT, LOW], [1, 0.5, 0]),
    "range does not": (OFFICIAL, [(A, 0.75), (B, 0.625), (C, 0.5)], [KEPT] * 3, [1, 1, 1]),
    "both agree where the lowest is 0": (OFFICIAL, [(A, 1.0), (B, 0.25), (C, 0.0)], [KEPT, LOW, LOW], [1, 0.25, 0]),
    "a score at tau_s does not exceed it": (
        PseudoLabelsConfig(tau_s=0.5), [(A, 1.0), (B, 0.5), (C, 0.0)], [KEPT, LOW, LOW], [1, 0.5, 0],
    ),
    "the best one needs no tau_s": (PseudoLabelsConfig(tau_s=1.0), [(B, 0.25), (A, 0.5)], [LOW, KEPT], [0, 1]),
    "of two best ones the first needs no tau_s": (
        PseudoLabelsConfig(tau_s=1.0), [(A, 0.5), (B, 0.5), (C, 0.25)], [KEPT, LOW, LOW], [1, 1, 0],
    ),
    "one box": (None, [(A, 0.001)], [KEPT], [1]),
    "one box of score 0": (None, [(A, 0.0)], [KEPT], [1]),
    "one box as published": (OFFICIAL, [(A, 0.001)], [KEPT], [1]),
    "equal scores": (None, [(A, 0.25), (B, 0.25), (C, 0.25)], [KEPT] * 3, [1, 1, 1]),
    "equal scores as published": (OFFICIAL, [(A, 0.25), (B, 0.25)], [KEPT] * 2, [1, 1]),
    "a chain keeps the outermost": (
        None, [(INNER, 1.0), (MIDDLE, 0.75), (OUTER, 0.5), (A, 0.0)], [COVERED, COVERED, KEPT, LOW], [1, 0.75, 0.5, 0],
    ),
    "what is too low covers nothing": (None, [(INNER, 1.0), (B, 0.5), (OUTER, 0.0)], [KEPT, KEPT, LOW], [1, 0.5, 0]),
    # 17 of 20 columns are 85 %.
    "covered at exactly tau_o": (None, [((3, 0, 23, 10), 1.0), ((0, 0, 20, 20), 1.0)], [COVERED, KEPT], [1, 1]),
    "covered a little less": (None, [((4, 0, 24, 10), 1.0), ((0, 0, 20, 20), 1.0)], [KEPT, KEPT], [1, 1]),
    "identical boxes: the better stays": (None, [(A, 0.5), (A, 1.0), (B, 0.0)], [COVERED, KEPT, LOW], [0.5, 1, 0]),
    "identical in all: the first stays": (None, [(A, 0.5), (A, 0.5)], [KEPT, COVERED], [1, 1]),
    "identical boxes as published: the class is lost": (PAPER, [(A, 0.5), (A, 0.5)], [COVERED, COVERED], [1, 1]),
    "nearly the same: the larger stays": (
        None, [((0, 0, 100, 99), 1.0), ((0, 0, 100, 100), 0.5), (B, 0.0)], [COVERED, KEPT, LOW], [1, 0.5, 0],
    ),
    "nearly the same, as published": (
        PAPER, [((0, 0, 100, 99), 1.0), ((0, 0, 100, 100), 0.5), (C, 0.0)], [COVERED, COVERED, LOW], [1, 0.5, 0],
    ),
    "a nested box as published": (PAPER, [(INNER, 1.0), (OUTER, 1.0)], [COVERED, KEPT], [1, 1]),
    "a box without area is covered by every other": (
        None, [(NOTHING, 1.0), (B, 0.5), (C, 0.0)], [COVERED, KEPT, LOW], [1, 0.5, 0],
    ),
    "a box without area that is alone": (None, [(NOTHING, 1.0)], [KEPT], [1]),
    "the best of boxes without area": (None, [(NOTHING, 0.5), ((0, 0, 9, 0), 0.75)], [LOW, KEPT], [0, 1]),
    "top-1": (TOP1, [(A, 0.5), (INNER, 1.0), (OUTER, 0.0)], [OTHER, KEPT, LOW], [0.5, 1, 0]),
    "top-1 of equals": (TOP1, [(A, 0.5), (B, 0.5)], [KEPT, OTHER], [1, 1]),
    "top-1 takes no score of 0": (TOP1, [(A, 0.0)], [LOW], [1]),
    "top-2": (replace(TOP1, top_k=2), [(A, 0.25), (B, 0.5), (C, 0.375)], [OTHER, KEPT, KEPT], [0, 1, 0.5]),
    "no detections": (None, [], [], []),
}  # fmt: skip


@pytest.mark.parametrize(("config", "rows", "reasons", "normalised"), TABLE.values(), ids=TABLE.keys())
def test_the_detections_of_one_class_by_hand(config, rows, reasons, normalised):
    found = selected(detections(*rows), [0], config)
    assert found[0] == reasons
    assert found[1] == near(normalised, magnitude=1.0)


def test_classes_do_not_see_each_other():
    found = detections((INNER, 1.0, 0), (OUTER, 0.5, 1), (INNER, 0.25, 2), (A, 0.125, 1))
    reasons, normalised = selected(found, [0, 1])
    assert reasons == [KEPT, KEPT, "not an image label", LOW]
    assert normalised == near([1, 1, np.nan, 0], magnitude=1.0)


def test_images_do_not_see_each_other_and_may_come_in_any_order():
    one, other = detections((INNER, 1.0), (A, 0.125)), detections((OUTER, 0.5), (C, 0.25), (INNER, 0.5, 1))
    boxes, classes, scores = (
        np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("boxes_xyxy", "class_index", "score")
    )
    image_index = np.array([1, 1, 0, 0, 0])
    labels = np.array([[True, False], [True, False]])
    mixed = np.array([3, 0, 4, 1, 2])
    for order in (np.arange(5), mixed):
        columns = (column[order] for column in (boxes, classes, scores, image_index))
        reason = select(*columns, labels, PseudoLabelsConfig()).reason
        expected = np.array([KEPT, LOW, KEPT, LOW, "not an image label"])[order]
        assert [REASONS[n] for n in reason] == expected.tolist()


def test_an_image_without_labels_has_no_pseudo_ground_truth():
    found = detections((A, 1.0), (B, 0.5))
    assert selected(found, [])[0] == ["not an image label"] * 2
    assert len(pseudo_ground_truth(found, [], PseudoLabelsConfig())) == 0


def test_a_label_without_detections_leaves_no_trace():
    assert selected(detections((A, 1.0)), [0, 2])[0] == [KEPT]
    assert len(pseudo_ground_truth(detections(), [0, 2], PseudoLabelsConfig())) == 0


def test_the_pseudo_ground_truth_of_one_image_keeps_order_and_scores():
    found = detections((INNER, 0.25, 4), (B, 0.75, 1), (A, 0.5, 2), (OUTER, 0.5, 4), (C, 1.0, 4))
    truth = pseudo_ground_truth(found, (1, 4), PseudoLabelsConfig())
    assert truth.boxes_xyxy.tolist() == [list(B), list(OUTER), list(C)]
    assert truth.class_index.tolist() == [1, 4, 4]
    assert truth.score.tolist() == [0.75, 0.5, 1.0]
    assert truth.score_normalised.tolist() == near([1, 1 / 3, 1], length=4)
    dtypes = [truth.boxes_xyxy.dtype, truth.class_index.dtype, truth.score.dtype, truth.score_normalised.dtype]
    assert dtypes == ["f4", "i8", "f4", "f4"]


def test_thresholds_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"tau_o: expected 0\.\.1, or auto, got 1\.5"):
        PseudoLabelsConfig(tau_o=1.5)
    with pytest.raises(ConfigError, match="top_k: expected 1 or more"):
        PseudoLabelsConfig(top_k=0)


CONFIGS = {
    "default": PseudoLabelsConfig(),
    "paper": PAPER,
    "official": OFFICIAL,
    "range": PseudoLabelsConfig(normalise="range"),
    "strict": PseudoLabelsConfig(tau_s=1.0, tau_o=0.5),
    "loose": PseudoLabelsConfig(tau_s=0.0, tau_o=1.0),
    "anything covers": PseudoLabelsConfig(tau_o=0.0),
    "top-1": TOP1,
    "top-3": replace(TOP1, top_k=3),
}


def random_image(generator):
    """Up to 14 detections of 3 classes with tied scores: nested, identical, without area; and some of the classes as labels."""
    number = generator.integers(15)
    corners = generator.integers(0, 4, (number, 2)) * 5
    boxes = np.concatenate([corners, corners + generator.integers(0, 5, (number, 2)) * 5], axis=1)
    if number > 3:
        boxes[generator.integers(number, size=3)] = boxes[0]
    score = generator.integers(0, 5, number) / 4
    labels = [c for c in range(3) if generator.random() < 0.6]
    return boxes.astype(np.float32), generator.integers(0, 3, number), score.astype(np.float32), labels


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_many_images_at_once_agree_with_the_plain_loop(config, monkeypatch):
    monkeypatch.setattr(pseudo_labels, "_PAIRS_AT_ONCE", 5)  # so that groups are cut up
    generator = np.random.default_rng(7)
    images = [random_image(generator) for _ in range(300)]
    expected = [reason for image in images for reason in plain_reasons(*(list(part) for part in image), config)]
    boxes, classes, scores = (np.concatenate([image[n] for image in images]) for n in range(3))
    labels = np.array([[c in image[3] for c in range(3)] for image in images])
    image_index = np.repeat(np.arange(300), [len(image[0]) for image in images])
    selection = select(boxes, classes, scores, image_index, labels, config)
    assert [REASONS[n] for n in selection.reason] == expected
    assert selection.kept.tolist() == [reason == KEPT for reason in expected]

    labelled = labels[image_index, classes]
    assert np.isnan(selection.score_normalised).tolist() == (~labelled).tolist()
    assert ((selection.score_normalised[labelled] >= 0) & (selection.score_normalised[labelled] <= 1)).all()
    if config.mode == "adaptive" and config.covered_by == "larger":
        groups = image_index * 3 + classes
        assert set(groups[selection.kept]) == set(groups[labelled]), "a label with detections lost its last box"


def test_as_published_a_class_may_lose_its_last_box():
    reasons, _ = selected(detections((A, 1.0, 0), (A, 1.0, 0), (B, 0.5, 1)), [0, 1], PAPER)
    assert reasons == [COVERED, COVERED, KEPT]


@pytest.mark.parametrize("factor", [0.25, 3.0, 1e-6, 1e6])
@pytest.mark.parametrize("config", [PseudoLabelsConfig(), PAPER, TOP1], ids=["default", "paper", "top-1"])
def test_the_unit_of_the_scores_does_not_matter(config, factor):
    generator = np.random.default_rng(3)
    for _ in range(50):
        boxes, classes, _, labels = random_image(generator)
        scores = generator.random(len(boxes)).astype(np.float32)
        present = np.array([[c in labels for c in range(3)]])
        image_index = np.zeros(len(boxes), np.int64)
        one = select(boxes, classes, scores, image_index, present, config)
        other = select(boxes, classes, scores * np.float32(factor), image_index, present, config)
        np.testing.assert_array_equal(one.reason, other.reason)
        spread = min((np.ptp(scores[classes == c]) for c in labels if (classes == c).sum() > 1), default=1.0)
        assert_near(one.score_normalised, other.score_normalised, length=4, magnitude=1 / spread)


# ------------------------------------------------------------------------------------------ thresholds left to the data


def flat(*images):
    """Columns of ``select`` from images of (labels, [(box, class, score), …])."""
    rows = [(*row, n) for n, (_, found) in enumerate(images) for row in found]
    boxes, classes, scores, numbers = zip(*rows, strict=True) if rows else ([], [], [], [])
    labels = np.zeros((len(images), 3), np.bool_)
    for n, (present, _) in enumerate(images):
        labels[n, list(present)] = True
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(scores, np.float32),
        np.array(numbers, np.int64),
        labels,
    )


AUTO = PseudoLabelsConfig(tau_s="auto", tau_o="auto")


def test_tau_s_parts_the_normalised_scores_of_labels():
    # Normalised: 1, .75, 0 and 1, .25, 0; the class that is no label does not count. Otsu parts {0, 0, .25} and {.75, 1, 1}.
    far = [(60 * n, 0, 60 * n + 10, 10) for n in range(7)]
    columns = flat(
        ([0], [(far[0], 0, 0.9), (far[1], 0, 0.7), (far[2], 0, 0.1), (far[3], 1, 0.5)]),
        ([1], [(far[4], 1, 0.5), (far[5], 1, 0.2), (far[6], 1, 0.1)]),
    )
    found = fill_in(*columns, AUTO)
    assert found.tau_s == near(0.5)
    assert found.tau_o == 0.85  # no box covers another: the paper's number
    kept = select(*columns, found).kept
    assert kept.tolist() == [True, True, False, False, True, False, False]


def test_tau_o_parts_the_shares_that_boxes_are_covered_to():
    # Three boxes of one class and score: the small ones are covered by the large one to 100 % and 30 %; parted at 65 %.
    large, inside, beside = (0, 0, 100, 100), (0, 0, 10, 10), (97, 0, 107, 10)
    columns = flat(([0], [(large, 0, 0.9), (inside, 0, 0.9), (beside, 0, 0.9)]))
    found = fill_in(*columns, PseudoLabelsConfig(tau_o="auto"))
    assert (found.tau_s, found.tau_o) == (0.3, near(0.65))
    assert select(*columns, found).kept.tolist() == [True, False, True]


def test_numbers_stay_and_nothing_to_choose_from_gives_the_papers():
    columns = flat(([0], [((0, 0, 10, 10), 0, 0.5)]), ([1], []))
    assert fill_in(*columns, PseudoLabelsConfig(tau_s=0.4, tau_o=0.6)) == PseudoLabelsConfig(tau_s=0.4, tau_o=0.6)
    assert fill_in(*columns, AUTO) == PseudoLabelsConfig()
    assert fill_in(*flat(([0], [])), AUTO) == PseudoLabelsConfig()


def test_a_threshold_that_is_left_open_cannot_select():
    with pytest.raises(ValueError, match="fill_in"):
        select(*flat(([0], [((0, 0, 10, 10), 0, 0.5)])), AUTO)
    with pytest.raises(ConfigError, match=r"tau_s: expected 0\.\.1, or auto"):
        PseudoLabelsConfig(tau_s=1.5)
