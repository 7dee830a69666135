import numpy as np
import pytest
import torch
from torchvision.ops import nms

from tests.support.small_memory import let_few_fit
from tests.support.tolerances import assert_near, near, roundings_in
from weaksam.config import (
    DetectConfig,
    DinoConfig,
    FasterRcnnConfig,
    Mask2FormerConfig,
    MaskRcnnConfig,
    MilConfig,
    RetrainConfig,
    RetrainedDetectConfig,
    Weights,
)
from weaksam.detectors.inference import detect, detect_alone
from weaksam.detectors.loading import build_detector
from weaksam.detectors.mil import MIL_DETECTORS
from weaksam.detectors.mil.base import Prediction
from weaksam.detectors.mil.samples import collate, mirrored, scaled
from weaksam.detectors.retrained.base import RetrainedDetector, ViewDetections
from weaksam.errors import ConfigError

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
BOXES = np.array([[2, 3, 30, 40], [10, 5, 70, 48], [40, 10, 60, 30], [3, 3, 31, 40]], dtype=np.float32)


def detector_of(name):
    torch.manual_seed(0)
    detector = build_detector(
        MilConfig(detector=MIL_DETECTORS[name](), backbone="small", init=Weights("builtin:stem")), 3
    )
    for layer in (detector.class_stream, detector.detection_stream, *detector.refinements, *detector.box_branches):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return detector.eval()


def obvious(detector, image, boxes, config):
    """Pass by pass, proposal by proposal, class by class; (box, class, score) of the detections, the best first."""
    height, width = image.shape[:2]
    passes = []
    for scale in config.scales:
        for mirror in [False, True] if config.flip else [False]:
            view = scaled(image, boxes, scale, config.max_side)
            if mirror:
                view = mirrored(*view)
            batch = collate([(detector.body.normalise(view[0]), torch.from_numpy(view[1]))])
            passes.append((detector.predict(*batch), mirror))
    found = []
    for c in range(detector.num_classes):
        rows = []
        for r, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            score = sum(p.scores[r, c].item() for p, _ in passes) / len(passes)
            decoded = []
            for prediction, mirror in passes:
                box = x1, y1, x2, y2
                if prediction.deltas is not None:
                    dx, dy, dw, dh = prediction.deltas[r, c].tolist()
                    x = (x1 + x2) / 2 + (-dx if mirror else dx) / 10 * (x2 - x1)
                    y = (y1 + y2) / 2 + dy / 10 * (y2 - y1)
                    w, h = (x2 - x1) * np.exp(dw / 5), (y2 - y1) * np.exp(dh / 5)
                    box = x - w / 2, y - h / 2, x + w / 2, y + h / 2
                decoded.append([min(max(side, 0), (width, height)[n % 2]) for n, side in enumerate(box)])
            box = np.mean(decoded, axis=0).tolist()
            if score > config.score_threshold:
                rows.append((box, c, score))
        kept = nms(
            torch.tensor([b for b, _, _ in rows]).view(-1, 4).float(),
            torch.tensor([s for *_, s in rows]),
            config.nms_iou,
        )
        found += [rows[k] for k in kept.tolist()]
    return sorted(found, key=lambda d: -d[2])[: config.max_detections]


@pytest.mark.parametrize("name", MIL_DETECTORS)
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(DetectConfig(scales=(48, 64)), id="averaged"),
        pytest.param(DetectConfig(scales=(48,), flip=False), id="one-pass"),
        pytest.param(DetectConfig(scales=(96,), max_side=80, score_threshold=0.2, max_detections=3), id="strict"),
    ],
)
def test_detections_equal_the_obvious_reference(name, config):
    detector = detector_of(name)
    expected = obvious(detector, IMAGE, BOXES, config)
    found = detect(detector, IMAGE, BOXES, config)
    assert found.class_index.tolist() == [c for _, c, _ in expected]
    assert_near(found.score, [s for *_, s in expected], length=roundings_in(detector))
    assert_near(found.boxes_xyxy, [b for b, *_ in expected], length=roundings_in(detector))
    assert (found.boxes_xyxy.dtype, found.class_index.dtype, found.score.dtype) == (np.float32, np.int64, np.float32)
    assert found.image_scores.shape == (3,)


@pytest.mark.parametrize("name", MIL_DETECTORS)
def test_a_device_of_little_memory_sees_a_few_proposals_at_a_time_and_finds_the_same(monkeypatch, name):
    detector, config = detector_of(name), DetectConfig(scales=(48, 64))
    expected = detect(detector, IMAGE, BOXES, config)
    memory = let_few_fit(monkeypatch, detector.body, "head", 2, len)
    found = detect(detector, IMAGE, BOXES, config)
    assert memory.sizes == [2, 2] * 4
    np.testing.assert_array_equal(found.class_index, expected.class_index)
    assert_near(found.score, expected.score, length=roundings_in(detector))
    assert_near(found.boxes_xyxy, expected.boxes_xyxy, length=roundings_in(detector))


@pytest.mark.parametrize("name", MIL_DETECTORS)
def test_in_half_precision_scores_and_boxes_are_float32_and_near(name):
    exact, fast = (
        detect(detector_of(name), IMAGE, BOXES, DetectConfig(scales=(48, 64), nms_iou=1.0, precision=wanted))
        for wanted in ("exact", "fast")
    )
    assert (fast.boxes_xyxy.dtype, fast.score.dtype) == (np.float32, np.float32)
    assert len(fast) == len(exact)
    assert np.abs(np.sort(fast.score) - np.sort(exact.score)).max() < 0.05
    assert np.abs(fast.image_scores - exact.image_scores).max() < 0.05


def test_dino_is_refused_half_precision_at_test_time():
    RetrainConfig(detector=FasterRcnnConfig(), test=RetrainedDetectConfig(precision="fast"))
    RetrainConfig(detector=DinoConfig(), test=RetrainedDetectConfig(precision="tf32"))
    with pytest.raises(ConfigError, match=r"test\.precision: expected exact or tf32 with dino.*got 'fast'"):
        RetrainConfig(detector=DinoConfig(), test=RetrainedDetectConfig(precision="fast"))


@pytest.mark.parametrize("name", MIL_DETECTORS)
def test_a_mirrored_image_gives_mirrored_detections(name):
    detector, config = detector_of(name), DetectConfig(scales=(48, 56))
    found = detect(detector, IMAGE, BOXES, config)
    image, boxes = mirrored(IMAGE, BOXES)
    other = detect(detector, np.ascontiguousarray(image), boxes, config)
    assert_near(other.score, found.score, length=roundings_in(detector))
    np.testing.assert_array_equal(other.class_index, found.class_index)
    assert_near(mirrored(image, other.boxes_xyxy)[1], found.boxes_xyxy, length=roundings_in(detector))
    assert_near(other.image_scores, found.image_scores, length=roundings_in(detector))


@pytest.mark.parametrize("name", MIL_DETECTORS)
def test_without_proposals_nothing_is_found(name):
    found = detect(detector_of(name), IMAGE, np.zeros((0, 4), np.float32), DetectConfig(scales=(48,)))
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.image_scores.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", MIL_DETECTORS)
def test_proposals_without_size_differences_are_found_once_per_class(name):
    found = detect(detector_of(name), IMAGE, BOXES[[0, 0, 0]], DetectConfig(scales=(48,)))
    assert sorted(found.class_index.tolist()) == [0, 1, 2]


class Fixed:
    """Says the same of every view; the proposals are the boxes."""

    def __init__(self, scores):
        self.scores = torch.tensor(scores)
        self.body = self

    def normalise(self, image):
        return torch.zeros(3, *image.shape[:2])

    def parameters(self):
        yield torch.zeros(1)

    def predict(self, *batch):
        assert len(batch) == 3
        return Prediction(self.scores.sum(dim=0), self.scores, None)


APART = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]], dtype=np.float32)


@pytest.mark.parametrize(
    ("boxes", "scores", "options", "expected"),
    [
        pytest.param(APART, [[0.0], [0.5], [0.2]], {}, [(1, 0, 0.5), (2, 0, 0.2)], id="0-is-not-above-0"),
        pytest.param(
            APART, [[0.5], [0.75], [0.25]], {"score_threshold": 0.5}, [(1, 0, 0.75)], id="equal-to-the-threshold-goes"
        ),
        pytest.param(
            APART, [[0.5, 0.1], [0.25, 0.9], [0.3, 0.2]], {"max_detections": 3},
            [(1, 1, 0.9), (0, 0, 0.5), (2, 0, 0.3)], id="the-cap-is-over-all-classes",
        ),
        pytest.param(
            APART[[0, 0, 1]], [[0.5, 0.1], [0.25, 0.2], [0.3, 0.0]], {},
            [(0, 0, 0.5), (2, 0, 0.3), (0, 1, 0.2)], id="classes-do-not-suppress-each-other",
        ),
        # IoU of [0, 0, 10, 10] and [0, 0, 10, 4] is .4, which suppresses above .3 and not above .4
        pytest.param(
            np.array([[0, 0, 10, 10], [0, 0, 10, 4]], np.float32), [[0.5], [0.4]], {}, [(0, 0, 0.5)], id="overlap"
        ),
        pytest.param(
            np.array([[0, 0, 10, 10], [0, 0, 10, 4]], np.float32), [[0.5], [0.4]], {"nms_iou": 0.41},
            [(0, 0, 0.5), (1, 0, 0.4)], id="overlap-allowed",
        ),
        pytest.param(APART, [[0.0], [0.0], [0.0]], {}, [], id="nothing"),
    ],
)  # fmt: skip
def test_suppression_by_hand(boxes, scores, options, expected):
    config = DetectConfig(scales=(48,), flip=False, **options)
    found = detect(Fixed(scores), IMAGE, boxes, config)
    rows = [
        (boxes.tolist().index(box), c, near(s))
        for box, c, s in zip(found.boxes_xyxy.tolist(), found.class_index.tolist(), found.score.tolist(), strict=True)
    ]
    assert rows == expected
    assert_near(found.image_scores, torch.tensor(scores).sum(dim=0), length=3)


def test_boxes_are_cut_to_the_image():
    found = detect(Fixed([[0.5]]), IMAGE, np.array([[-4, 40, 90, 60]], np.float32), DetectConfig(scales=(48,)))
    assert found.boxes_xyxy.tolist() == [[0, 40, 70, 48]]


# ------------------------------------------------------------------------------------------- detectors without proposals


class ColourDetector(RetrainedDetector):
    """Finds red as class 0 and green as class 1: the box of the pixels of that colour, scored by the height of the view."""

    def __init__(self, scores, **test):
        config = RetrainConfig(backbone="small", freeze_stages=0, test=RetrainedDetectConfig(**test))
        super().__init__(config, num_classes=3)
        self.scores = scores
        self.seen = []

    def training_losses(self, images, sizes_hw, targets, step):
        raise NotImplementedError

    def predict(self, images, sizes_hw):
        assert len(images) == 1
        height, width = sizes_hw[0].tolist()
        self.seen.append((height, width))
        view = images[0, :, :height, :width]
        boxes, classes, scores = [], [], []
        for c in (0, 1):
            y, x = (view[c] > view[1 - c] + 1).nonzero(as_tuple=True)
            if len(x):
                boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
                classes.append(c)
                scores.append(self.scores[height] - 0.05 * c)
        return [
            ViewDetections(
                torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
                torch.tensor(classes, dtype=torch.int64),
                torch.tensor(scores),
            )
        ]


def coloured():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 5:25, 0] = 255
    image[20:36, 40:58, 1] = 255
    return image


def test_what_the_passes_find_is_joined_in_the_pixels_of_the_image():
    detector = ColourDetector({40: 0.5, 80: 0.7}, scales=(40, 80), max_side=200, nms_iou=0.5)
    found = detect_alone(detector, coloured())
    assert detector.seen == [(40, 60), (40, 60), (80, 120), (80, 120)]
    assert found.class_index.tolist() == [0, 1]  # four boxes of each, which suppress each other within their class
    assert found.score.tolist() == near([0.7, 0.65])
    np.testing.assert_allclose(found.boxes_xyxy, [[5, 10, 25, 30], [40, 20, 58, 36]], atol=1)
    assert found.image_scores.tolist() == near([0.7, 0.65, 0.0])


def test_boxes_of_mirrored_views_are_mirrored_back():
    detector = ColourDetector({40: 0.5}, scales=(40,), nms_iou=1.0)
    found = detect_alone(detector, coloured())
    assert found.class_index.tolist() == [0, 0, 1, 1]  # identical boxes do not exceed an IoU of 1
    assert found.boxes_xyxy.tolist() == [[5, 10, 25, 30]] * 2 + [[40, 20, 58, 36]] * 2


def test_a_single_pass_is_left_as_its_detector_has_it():
    detector = ColourDetector({40: 0.5}, scales=(40,), flip=False, nms_iou=0.0, max_detections=1)
    found = detect_alone(detector, coloured())
    assert found.boxes_xyxy.tolist() == [[5, 10, 25, 30]]
    assert found.score.tolist() == [0.5]
    assert found.image_scores.tolist() == near([0.5, 0.45, 0.0])  # also of what the cap left out


class TriangleDetector(ColourDetector):
    """Finds two triangles in one box, which do not overlap, whatever it is shown; mirrored, each looks like the other."""

    def __init__(self, detector, **test):
        super().__init__({}, **test)
        self.options = detector()

    def predict(self, images, sizes_hw):  # noqa: ARG002
        height, width = sizes_hw[0].tolist()
        self.seen.append((height, width))
        lower = torch.ones(56, 56).tril(-1)
        upper = lower.flip(-1) if len(self.seen) % 2 == 0 else lower
        both = torch.stack([upper, 1 - upper])
        boxes = torch.tensor([[0.0, 0.0, width, height]]).repeat(2, 1)
        return [ViewDetections(boxes, torch.zeros(2, dtype=torch.int64), torch.tensor([0.9, 0.8]), both)]


@pytest.mark.parametrize(("detector", "expected"), [(Mask2FormerConfig, [0.9, 0.8]), (MaskRcnnConfig, [0.9])])
def test_what_passes_find_is_suppressed_by_masks_where_the_detector_says_so(detector, expected):
    found = detect_alone(TriangleDetector(detector, scales=(40,), nms_iou=0.5), coloured())
    assert found.score.tolist() == near(expected)
    assert len(found.mask_rle) == len(expected)


def test_nothing_found_is_no_detections_and_scores_of_zero():
    found = detect_alone(ColourDetector({}, scales=(40, 80)), np.zeros((40, 60, 3), np.uint8))
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.image_scores.tolist() == [0, 0, 0]
