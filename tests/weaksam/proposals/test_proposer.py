import numpy as np
import pytest
import torch

from tests.support.sams import drawn_image, in_double, lively_sam, trained_sam
from tests.support.small_memory import let_few_fit
from weaksam.config import CluesConfig, PeaksConfig, PromptsConfig, ProposalsConfig
from weaksam.errors import ConfigError
from weaksam.proposals.proposer import Proposer
from weaksam.sam import measure
from weaksam.sam.kernels.exact import ExactKernels
from weaksam.structures import ClassMaps

IMAGE = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
PROMPTS = PromptsConfig(points_per_side=2, peaks=PeaksConfig(kernel_cross=17))
SIZES = ProposalsConfig(keep_empty=True)


class OnePeakPerClass:
    """A clue source that knows three classes and puts class c's peak at (10 * c, 10 * c)."""

    class_names = ("ant", "bee", "cat")
    kinds = ("fine", "cross")

    def __init__(self):
        self.asked_logits = 0

    def logits(self, image):  # noqa: ARG002
        self.asked_logits += 1
        return torch.tensor([-3.0, 2.0, -1.0])

    def class_maps(self, image, class_index):
        for index in class_index:
            drawn = torch.zeros(1, *image.shape[:2])
            drawn[0, 10 * index, 10 * index] = 1
            yield ClassMaps(class_index=index, maps={"fine": drawn, "cross": drawn.repeat(4, 1, 1)})


@pytest.mark.parametrize(
    ("labels", "gating", "expected", "asked"),
    [
        pytest.param([2, 0], "labels", [0, 2], 0, id="known-labels-spare-the-logits"),
        pytest.param(None, "labels", [1], 1, id="unknown-labels-are-predicted"),
        pytest.param([2, 0], "predicted", [1], 1, id="prediction-if-asked-for"),
        pytest.param([], "labels", [], 0, id="none-of-the-classes"),
    ],
)
def test_prompts_come_from_the_classes_present(labels, gating, expected, asked):
    clues = OnePeakPerClass()
    coarse, fine, cross = Proposer(clues, None, prompts=PROMPTS, clues_config=CluesConfig(gating=gating)).prompt(
        IMAGE, labels
    )
    assert fine.class_index == expected * 2  # alone and jointly
    assert len(coarse) == 0
    assert [point.tolist() for point in cross.points_xy] == ([[[10, 10]]] if expected == [1] else cross_of(expected))
    assert clues.asked_logits == asked


def cross_of(classes):
    """Four maps per class: eight peaks of two classes, hence one cluster between them."""
    return [[[10, 10]]] if classes == [0, 2] else []


def test_maps_can_be_looked_at_on_their_way():
    seen = []
    Proposer(OnePeakPerClass(), None).prompt(IMAGE, [0, 2], on_maps=lambda of_class: seen.append(of_class.class_index))
    assert seen == [0, 2]


def test_the_whole_is_its_two_halves_with_the_grid_added_in_the_second():
    proposer = Proposer(OnePeakPerClass(), lively_sam(), prompts=PROMPTS, proposals=SIZES)
    whole = proposer(IMAGE, [2])
    prompts = Proposer(OnePeakPerClass(), None, prompts=PROMPTS).prompt(IMAGE, [2])
    halves = Proposer(None, lively_sam(), prompts=PROMPTS, proposals=SIZES).segment(IMAGE, prompts)
    np.testing.assert_array_equal(whole.boxes_xyxy, halves.boxes_xyxy)
    assert whole.source == halves.source
    assert [of_source.source for of_source in whole.prompts] == ["grid", "coarse", "fine", "cross"]
    assert whole.source.count("fine") == 4


def test_without_a_clue_network_only_the_grid_is_asked():
    found = Proposer(None, lively_sam(), prompts=PROMPTS)(IMAGE, [0])
    assert [of_source.source for of_source in found.prompts] == ["grid"]


def test_without_clue_sources_the_clue_network_is_not_asked():
    clues = OnePeakPerClass()
    assert Proposer(clues, None, prompts=PromptsConfig(sources=("grid",))).prompt(IMAGE) == []
    assert clues.asked_logits == 0


def test_without_the_grid_only_clues_are_asked():
    prompts = PromptsConfig(sources=("fine",), peaks=PeaksConfig())
    found = Proposer(OnePeakPerClass(), lively_sam(), prompts=prompts)(IMAGE, [1])
    assert [of_source.source for of_source in found.prompts] == ["fine"]


def test_segmenting_without_a_sam_says_what_is_missing():
    with pytest.raises(ConfigError, match="expected a SAM"):
        Proposer(None, None).segment(IMAGE, [])


@pytest.mark.parametrize(("prompts_that_fit", "masks_that_fit"), [(10, 1000), (1000, 5), (1, 1)])
def test_a_device_of_little_memory_gives_the_same_boxes(monkeypatch, prompts_that_fit, masks_that_fit):
    proposer = Proposer(None, in_double(trained_sam()), prompts=PromptsConfig(sources=("grid",), points_per_side=6))
    image = drawn_image(128, 128)
    expected = proposer(image)
    of_prompts = let_few_fit(
        monkeypatch, ExactKernels, "attend", prompts_that_fit, lambda _, __, tokens, *___: len(tokens)
    )
    of_masks = let_few_fit(monkeypatch, measure, "_full_logits", masks_that_fit, lambda _, __, logits: len(logits))
    found = proposer(image)
    assert len(expected.boxes_xyxy) > 3
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    assert found.discarded == expected.discarded
    assert max(of_prompts.sizes) <= prompts_that_fit
    assert max(of_masks.sizes) <= masks_that_fit
    assert sum(of_prompts.sizes) == 36
