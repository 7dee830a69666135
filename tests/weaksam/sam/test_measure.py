import numpy as np
import pytest
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

from tests.support.sams import (
    drawn_image,
    in_double,
    lively_sam,
    noise,
    points_on,
    stock_answers,
    tiny_sam,
    trained_sam,
)
from tests.support.tolerances import assert_near, rounding, roundings_in
from weaksam.config import SamConfig
from weaksam.masks import masks_to_boxes
from weaksam.masks_np import decode_rle
from weaksam.sam.encode import encode_image
from weaksam.sam.load import load_sam
from weaksam.sam.measure import kept_masks, measure_masks, measure_prompts
from weaksam.sam.small import build_small_sam

BUILDERS = [pytest.param(build_small_sam, id="built-in"), pytest.param(tiny_sam, id="linear-patches-of-16")]
OFFSET = 1.0
AMPLIFIED = 1000  # by which the scaled weights of ``lively_sam`` enlarge what rounding does in its first layers


@pytest.mark.parametrize("size_hw", [(75, 100), (150, 90)], ids=str)
@pytest.mark.parametrize("mask_indices", [(0, 1, 2), (1, 2)], ids=str)
@pytest.mark.parametrize(
    ("sam", "picture"),
    [
        pytest.param(trained_sam, drawn_image, id="built-in-on-shapes"),
        pytest.param(lively_sam, noise, id="untrained"),
        pytest.param(lambda: lively_sam(tiny_sam), noise, id="untrained-of-another-shape"),
    ],
)
def test_answers_equal_one_stock_call_per_prompt(sam, picture, mask_indices, size_hw):
    # In float64: the untrained ones amplify rounding until in float32 it may decide pixels at a mask's edge.
    sam, image = in_double(sam()), picture(*size_hw)
    prompts = points_on(image, 1, 1, 3, 1, 2, 3, 1)
    measured = measure_prompts(
        sam, encode_image(sam, image), prompts, mask_indices=mask_indices, stability_offset=OFFSET, keep_logits=True
    )
    full_logits, predicted_iou, low_res_logits = stock_answers(sam, image, prompts, mask_indices)
    roundings = roundings_in(sam)
    magnitude = AMPLIFIED * full_logits.abs().max().item()
    for threshold in (sam.mask_threshold, sam.mask_threshold - OFFSET, sam.mask_threshold + OFFSET):
        # Rounding decides no pixel, so that everything made of pixels must be the same.
        assert (full_logits - threshold).abs().min() > rounding(torch.float64, roundings, magnitude)
    boxes_xyxy, empty = masks_to_boxes(full_logits > sam.mask_threshold)
    assert len(boxes_xyxy.unique(dim=0)) > 3  # else nothing was compared
    assert measured.prompt_index.tolist() == [prompt for prompt in range(7) for _ in mask_indices]
    assert measured.mask_index.tolist() == list(mask_indices) * 7
    assert measured.boxes_xyxy.tolist() == boxes_xyxy.tolist()
    assert measured.empty.tolist() == empty.tolist()
    # Stock divides areas in float32.
    assert_near(measured.stability, calculate_stability_score(full_logits, sam.mask_threshold, OFFSET), magnitude=1.0)
    rows, columns = measured.low_res_logits.shape[1:]
    for found, expected in (
        (measured.predicted_iou, predicted_iou),
        (measured.low_res_logits, low_res_logits[:, :rows, :columns]),
    ):
        assert found.dtype == expected.dtype == torch.float64
        assert_near(found, expected, length=roundings, magnitude=AMPLIFIED * expected.abs().max().item())


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("size_hw", [(75, 100), (100, 75), (96, 96), (61, 640), (333, 50), (1, 1)], ids=str)
def test_cropped_logits_are_resized_and_measured_like_whole_ones(build, size_hw):
    sam, image = in_double(lively_sam(build)), noise(*size_hw)
    encoded = encode_image(sam, image)
    cropped_hw = measure_prompts(sam, encoded, points_on(image, 1), keep_logits=True).low_res_logits.shape[-2:]
    side = sam.prompt_encoder.mask_input_size[0]
    whole = torch.randn(60, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 4
    published = sam.postprocess_masks(whole[:, None], encoded.input_hw, encoded.size_hw)[:, 0]
    cropped = whole[:, : cropped_hw[0], : cropped_hw[1]]
    boxes_xyxy, empty, stability = measure_masks(sam, encoded, cropped, OFFSET)
    for threshold in (sam.mask_threshold, sam.mask_threshold - OFFSET, sam.mask_threshold + OFFSET):
        assert (published - threshold).abs().min() > rounding(torch.float64, 16, 20.0)  # 4 neighbours, resized twice
    masks = published > sam.mask_threshold
    inclusive = batched_mask_to_box(masks)
    assert torch.equal(boxes_xyxy, torch.where(empty[:, None], 0, inclusive + torch.tensor([0, 0, 1, 1])).float())
    assert torch.equal(empty, ~masks.any(-1).any(-1))
    expected = calculate_stability_score(published, sam.mask_threshold, OFFSET)
    assert_near(stability, expected, magnitude=1.0)
    for kept, mask in zip(kept_masks(sam, encoded, cropped[:3]), masks[:3], strict=True):
        np.testing.assert_array_equal(decode_rle(kept), mask.numpy())


def test_stability_is_nan_without_a_pixel_at_the_lower_threshold_and_where_it_is_not_asked_for():
    sam, image = lively_sam(), noise(60, 80)
    encoded = encode_image(sam, image)
    nothing = torch.full((1, 64, 64), sam.mask_threshold - 2 * OFFSET)
    boxes_xyxy, empty, stability = measure_masks(sam, encoded, nothing, OFFSET)
    assert (boxes_xyxy.tolist(), empty.tolist(), stability.isnan().tolist()) == ([[0, 0, 0, 0]], [True], [True])
    assert measure_prompts(sam, encoded, points_on(image, 1)).stability.isnan().all()


def test_masks_of_too_small_a_predicted_iou_are_not_looked_at_and_the_others_are_the_same():
    sam, image = in_double(trained_sam()), drawn_image(75, 100)  # fewer at once round otherwise
    encoded, prompts = encode_image(sam, image), points_on(image, *[1] * 12)
    every = measure_prompts(sam, encoded, prompts, stability_offset=OFFSET)
    threshold = every.predicted_iou.median().item()  # which is one of them, and does not exceed itself
    some = measure_prompts(sam, encoded, prompts, min_predicted_iou=threshold, stability_offset=OFFSET)
    looked_at = every.predicted_iou > threshold
    assert 0 < looked_at.sum() < len(looked_at)
    assert torch.equal(some.predicted_iou, every.predicted_iou)
    for column in ("boxes_xyxy", "empty", "stability"):
        assert torch.equal(getattr(some, column)[looked_at], getattr(every, column)[looked_at]), column
    assert not some.boxes_xyxy[~looked_at].any()
    assert some.empty[~looked_at].all()
    assert some.stability[~looked_at].isnan().all()


def test_where_no_mask_is_looked_at_every_row_is_empty():
    sam, image = trained_sam(), drawn_image(75, 100)
    measured = measure_prompts(sam, encode_image(sam, image), points_on(image, 1, 1, 2), min_predicted_iou=2.0)
    assert measured.empty.tolist() == [True] * 9
    assert (measured.predicted_iou < 2).all()


def test_no_prompts_get_no_answers():
    sam = lively_sam()
    measured = measure_prompts(sam, encode_image(sam, noise(60, 80)), [], stability_offset=OFFSET, keep_logits=True)
    assert measured.boxes_xyxy.shape == (0, 4)
    assert (
        len(measured.prompt_index)
        == len(measured.mask_index)
        == len(measured.predicted_iou)
        == len(measured.empty)
        == 0
    )
    assert len(measured.low_res_logits) == 0


def test_an_image_has_the_same_answers_bit_for_bit_whatever_came_before_it():
    sam, image = lively_sam(), noise(60, 80)
    prompts = points_on(image, *[1] * 200, 4, 4)
    first = measure_prompts(sam, encode_image(sam, image), prompts, keep_logits=True)
    other = noise(90, 40)
    measure_prompts(sam, encode_image(sam, other), points_on(other, 2, 1, 1))
    again = measure_prompts(sam, encode_image(sam, image), prompts, keep_logits=True)
    assert torch.equal(first.low_res_logits, again.low_res_logits)
    assert torch.equal(first.boxes_xyxy, again.boxes_xyxy)
    assert torch.equal(first.predicted_iou, again.predicted_iou)


def test_identical_prompts_get_identical_answers():
    sam, image = in_double(lively_sam()), noise(60, 80)  # a matrix product may treat its last rows otherwise
    (point,) = points_on(image, 1)
    measured = measure_prompts(sam, encode_image(sam, image), [point, point, point])
    assert measured.boxes_xyxy[:3].tolist() == measured.boxes_xyxy[3:6].tolist() == measured.boxes_xyxy[6:].tolist()
    first = measured.predicted_iou[:3].repeat(3)
    assert_near(measured.predicted_iou, first, length=roundings_in(sam), magnitude=AMPLIFIED)


@pytest.mark.gpu
def test_a_gpu_gives_the_boxes_of_the_cpu_within_a_pixel():
    image = drawn_image(150, 200)
    prompts = points_on(image, *[1] * 100, 3, 3, 5)
    on_cpu, on_gpu = (
        measure_prompts(sam, encode_image(sam, image), prompts, stability_offset=OFFSET)
        for sam in (trained_sam(), load_sam(SamConfig(name="builtin"), "cuda"))
    )
    near = (on_cpu.boxes_xyxy - on_gpu.boxes_xyxy).abs().amax(dim=1) <= 1
    assert near.float().mean() >= 0.99
