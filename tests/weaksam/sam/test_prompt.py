import numpy as np
import pytest
import torch

from tests.support.sams import drawn_image, in_double, lively_sam, noise, stock_answers, tiny_sam, trained_sam
from tests.support.small_memory import let_few_fit
from tests.support.tolerances import assert_near, roundings_in
from weaksam.errors import DataError
from weaksam.sam.encode import encode_image
from weaksam.sam.kernels.exact import ExactKernels
from weaksam.sam.prompt import SINGLE_MASK, THREE_MASKS, Prompt, decode_prompts, logits_hw

AMPLIFIED = 1000  # by which the scaled weights of ``lively_sam`` enlarge what rounding does in its first layers


def xy(*points):
    return np.array(points, np.float32).reshape(-1, 2)


def box(*sides):
    return np.array(sides, np.float32)


def labels(*values):
    return np.array(values, np.int32)


FORMS = {  # on an image of 75 x 100
    "a-point": [Prompt(points_xy=xy((20, 30)))],
    "a-point-beside-the-object": [Prompt(points_xy=xy((20, 30)), labels=labels(0))],
    "a-point-at-the-last-pixel": [Prompt(points_xy=xy((99, 74)))],
    "several-points": [Prompt(points_xy=xy((20, 30), (40.5, 31.25), (0, 0)))],
    "points-on-and-beside": [Prompt(points_xy=xy((20, 30), (80, 60), (50, 9)), labels=labels(1, 0, 1))],
    "a-box": [Prompt(box_xyxy=box(10, 20, 60, 70))],
    "a-box-of-one-pixel": [Prompt(box_xyxy=box(30, 40, 31, 41))],
    "a-box-without-area": [Prompt(box_xyxy=box(30, 40, 30, 40))],
    "a-box-at-the-border": [Prompt(box_xyxy=box(60.5, 0, 100, 75))],
    "the-whole-image": [Prompt(box_xyxy=box(0, 0, 100, 75))],
    "points-in-a-box": [Prompt(points_xy=xy((20, 30), (55, 66)), labels=labels(1, 0), box_xyxy=box(10, 20, 60, 70))],
}
FORMS["all-of-these"] = [prompt for prompts in FORMS.values() for prompt in prompts] * 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask_indices", [THREE_MASKS, (SINGLE_MASK,), (2, SINGLE_MASK)], ids=str)
@pytest.mark.parametrize(
    ("build", "picture"),
    [
        pytest.param(trained_sam, drawn_image, id="built-in-on-shapes"),
        pytest.param(lambda: lively_sam(tiny_sam), noise, id="untrained-of-another-shape"),
    ],
)
def test_every_form_of_prompt_is_answered_as_by_the_stock_predictor(build, picture, mask_indices, form):
    sam, image, prompts = in_double(build()), picture(75, 100), FORMS[form]
    found = low_res_masks(sam, image, prompts, mask_indices)
    _, predicted_iou, low_res_logits = stock_answers(sam, image, prompts, mask_indices)
    rows, columns = found[1].shape[-2:]
    for ours, expected in zip(found, (predicted_iou, low_res_logits[:, :rows, :columns]), strict=True):
        assert_near(ours, expected, length=roundings_in(sam), magnitude=AMPLIFIED * expected.abs().max().item())


def low_res_masks(sam, image, prompts, mask_indices):
    """Predicted IoU ``[P * K]`` and logits ``[P * K, h', w']``, prompt by prompt."""
    encoded = encode_image(sam, image)
    shape = len(prompts), len(mask_indices)
    predicted_iou = torch.full(shape, torch.nan, dtype=torch.float64)
    low_res_logits = torch.full((*shape, *logits_hw(sam, encoded)), torch.nan, dtype=torch.float64)
    for decoded in decode_prompts(sam, encoded, prompts, mask_indices=mask_indices):
        assert decoded.chosen.all()
        predicted_iou[decoded.prompt_index] = decoded.predicted_iou
        low_res_logits[decoded.prompt_index] = decoded.low_res_logits.unflatten(0, (-1, len(mask_indices)))
    return predicted_iou.flatten(), low_res_logits.flatten(0, 1)


def test_the_built_in_sam_segments_what_a_box_surrounds():
    image = np.full((128, 128, 3), 230, np.uint8)
    image[40:90, 30:80] = (200, 30, 30)
    sam = trained_sam()
    (decoded,) = decode_prompts(
        sam, encode_image(sam, image), [Prompt(box_xyxy=box(30, 40, 80, 90))], mask_indices=(SINGLE_MASK,)
    )
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[20:45, 15:40] = True
    mask = decoded.low_res_logits[0] > sam.mask_threshold
    assert (mask & inside).sum() / (mask | inside).sum() > 0.8


def test_no_prompts_get_no_chunk():
    sam = lively_sam()
    assert list(decode_prompts(sam, encode_image(sam, noise(60, 80)), [])) == []


def test_only_masks_of_enough_predicted_iou_are_decoded():
    sam, image = in_double(trained_sam()), drawn_image(75, 100)
    encoded, prompts = encode_image(sam, image), FORMS["a-point"] + FORMS["a-point-at-the-last-pixel"]
    (every,) = decode_prompts(sam, encoded, prompts)
    highest = every.predicted_iou.max().item()
    (none,) = decode_prompts(sam, encoded, prompts, min_predicted_iou=highest)  # which does not exceed itself
    assert not none.chosen.any()
    assert len(none.low_res_logits) == 0
    threshold = every.predicted_iou.median().item()
    (some,) = decode_prompts(sam, encoded, prompts, min_predicted_iou=threshold)
    assert torch.equal(some.chosen, every.predicted_iou > threshold)
    expected = every.low_res_logits[some.chosen.flatten()]
    assert_near(some.low_res_logits, expected, length=roundings_in(sam), magnitude=expected.abs().max().item())
    (by_mask,) = decode_prompts(sam, encoded, prompts, min_predicted_iou=(highest, threshold, -1.0))
    assert by_mask.chosen.tolist() == [[False, iou[1] > threshold, True] for iou in every.predicted_iou.tolist()]


def test_where_memory_runs_out_the_answers_are_the_same_but_for_rounding(monkeypatch):
    sam, image = in_double(lively_sam()), noise(60, 80)
    prompts = [Prompt(points_xy=xy((x, y))) for x in range(5, 80, 10) for y in range(5, 60, 10)]
    expected = low_res_masks(sam, image, prompts, THREE_MASKS)
    memory = let_few_fit(monkeypatch, ExactKernels, "attend", 10, lambda _, __, tokens, *___: len(tokens))
    for ours, whole in zip(low_res_masks(sam, image, prompts, THREE_MASKS), expected, strict=True):
        assert_near(ours, whole, length=roundings_in(sam), magnitude=AMPLIFIED * whole.abs().max().item())
    assert sum(memory.sizes) == len(prompts)
    assert len(set(memory.sizes[:-1])) == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param({}, "expected points, a box or both, got neither", id="nothing"),
        pytest.param({"points_xy": xy()}, r"n at least 1, got \(0, 2\)", id="no-points"),
        pytest.param({"points_xy": np.zeros((2, 3), np.float32)}, r"\(n, 2\).*got \(2, 3\)", id="points-in-space"),
        pytest.param({"box_xyxy": np.zeros((1, 4), np.float32)}, r"\(4,\), got \(1, 4\)", id="a-list-of-boxes"),
        pytest.param({"points_xy": xy((1, 2)), "labels": labels(1, 1)}, r"expected 1 labels .* \[1, 1\]", id="labels"),
        pytest.param({"points_xy": xy((1, 2)), "labels": labels(-1)}, r"of 0 or 1.*\[-1\]", id="another-label"),
        pytest.param({"box_xyxy": box(0, 0, 1, 1), "labels": labels(1)}, "expected 0 labels", id="labels-of-no-point"),
    ],
)
def test_what_is_no_prompt_is_refused(parts, message):
    with pytest.raises(DataError, match=message):
        Prompt(**parts)
