import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

from tests.support.sams import drawn_image, in_double, lively_sam, tiny_sam, trained_sam
from tests.support.tolerances import assert_near, rounding, roundings_in
from weaksam.config import SamConfig
from weaksam.masks import masks_to_boxes
from weaksam.sam.load import load_sam
from weaksam.sam.prompting import decode_prompts, encode_image, full_masks, measure_masks, two_way_transformer
from weaksam.sam.small import build_small_sam

BUILDERS = [pytest.param(build_small_sam, id="built-in"), pytest.param(tiny_sam, id="linear-patches-of-16")]
OFFSET = 1.0
AMPLIFIED = 1000  # by which the scaled weights of ``lively_sam`` enlarge what rounding does in its first layers


def noise(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def points_on(image, *lengths):
    """Prompts with the given numbers of points, drawn on an image."""
    rng = np.random.default_rng(1)
    height, width = image.shape[:2]
    return [(rng.random((n, 2)) * [width, height]).astype(np.float32) for n in lengths]


def stock(sam, image, points_xy, mask_indices):
    """The same answers from one ``SamPredictor.predict`` per prompt: logits at full size, low-res logits, predicted IoU."""
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    answers = [predictor.predict(points, np.ones(len(points)), return_logits=True) for points in points_xy]
    return [
        torch.from_numpy(np.concatenate([column[list(mask_indices)] for column in columns]))
        for columns in zip(*answers, strict=True)
    ]


@pytest.mark.parametrize("size_hw", [(75, 100), (100, 75), (64, 64), (31, 200), (200, 150), (1, 1), (1, 40)], ids=str)
def test_an_image_is_encoded_as_the_stock_predictor_does(size_hw):
    sam, image = lively_sam(), noise(*size_hw)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    encoded = encode_image(sam, image)
    assert_near(encoded.features, predictor.features, length=roundings_in(sam.image_encoder))
    assert (encoded.input_hw, encoded.size_hw) == (tuple(predictor.input_size), size_hw)


def test_an_image_too_thin_for_the_stock_predictor_keeps_one_pixel():
    assert encode_image(lively_sam(), noise(1, 400)).input_hw == (1, 128)


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
    points_xy = points_on(image, 1, 1, 3, 1, 2, 3, 1)
    decoded = decode_prompts(
        sam, encode_image(sam, image), points_xy, mask_indices=mask_indices, stability_offset=OFFSET, keep_logits=True
    )
    full_logits, predicted_iou, low_res_logits = stock(sam, image, points_xy, mask_indices)
    roundings = roundings_in(sam)
    magnitude = AMPLIFIED * full_logits.abs().max().item()
    for threshold in (sam.mask_threshold, sam.mask_threshold - OFFSET, sam.mask_threshold + OFFSET):
        # Rounding decides no pixel, so that everything made of pixels must be the same.
        assert (full_logits - threshold).abs().min() > rounding(torch.float64, roundings, magnitude)
    boxes_xyxy, empty = masks_to_boxes(full_logits > sam.mask_threshold)
    assert len(boxes_xyxy.unique(dim=0)) > 3  # else nothing was compared
    assert decoded.prompt_index.tolist() == [prompt for prompt in range(7) for _ in mask_indices]
    assert decoded.mask_index.tolist() == list(mask_indices) * 7
    assert decoded.boxes_xyxy.tolist() == boxes_xyxy.tolist()
    assert decoded.empty.tolist() == empty.tolist()
    # Stock divides areas in float32.
    assert_near(decoded.stability, calculate_stability_score(full_logits, sam.mask_threshold, OFFSET), magnitude=1.0)
    rows, columns = decoded.low_res_logits.shape[1:]
    for found, expected in (
        (decoded.predicted_iou, predicted_iou),
        (decoded.low_res_logits, low_res_logits[:, :rows, :columns]),
    ):
        assert found.dtype == expected.dtype == torch.float64
        assert_near(found, expected, length=roundings, magnitude=AMPLIFIED * expected.abs().max().item())


@pytest.mark.parametrize("build", BUILDERS)
def test_the_transformer_shared_by_prompts_is_the_stock_one_but_for_rounding(build):
    transformer = build().mask_decoder.transformer.double()
    channels, generator = transformer.embedding_dim, torch.Generator().manual_seed(0)
    tokens = torch.randn(5, 7, channels, dtype=torch.float64, generator=generator)
    image, image_pe = torch.randn(2, 1, channels, 6, 6, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        expected = transformer(image.expand(5, -1, -1, -1), image_pe.expand(5, -1, -1, -1), tokens)
        found = two_way_transformer(
            transformer, tokens, image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
        )
    for ours, stock_one in zip(found, expected, strict=True):
        assert_near(ours, stock_one, length=roundings_in(transformer))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("size_hw", [(75, 100), (100, 75), (96, 96), (61, 640), (333, 50), (1, 1)], ids=str)
def test_cropped_logits_are_resized_and_measured_like_whole_ones(build, size_hw):
    sam, image = in_double(lively_sam(build)), noise(*size_hw)
    encoded = encode_image(sam, image)
    cropped_hw = decode_prompts(sam, encoded, points_on(image, 1), keep_logits=True).low_res_logits.shape[-2:]
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
    for kept, mask in zip(full_masks(sam, encoded, cropped[:3]), masks, strict=False):
        np.testing.assert_array_equal(kept, mask.numpy())


def test_stability_is_nan_without_a_pixel_at_the_lower_threshold_and_where_it_is_not_asked_for():
    sam, image = lively_sam(), noise(60, 80)
    encoded = encode_image(sam, image)
    nothing = torch.full((1, 64, 64), sam.mask_threshold - 2 * OFFSET)
    boxes_xyxy, empty, stability = measure_masks(sam, encoded, nothing, OFFSET)
    assert (boxes_xyxy.tolist(), empty.tolist(), stability.isnan().tolist()) == ([[0, 0, 0, 0]], [True], [True])
    assert decode_prompts(sam, encoded, points_on(image, 1)).stability.isnan().all()


def test_masks_of_too_small_a_predicted_iou_are_not_looked_at_and_the_others_are_the_same():
    sam, image = in_double(trained_sam()), drawn_image(75, 100)  # fewer at once round otherwise
    encoded, points_xy = encode_image(sam, image), points_on(image, *[1] * 12)
    every = decode_prompts(sam, encoded, points_xy, stability_offset=OFFSET)
    threshold = every.predicted_iou.median().item()  # which is one of them, and does not exceed itself
    some = decode_prompts(sam, encoded, points_xy, min_predicted_iou=threshold, stability_offset=OFFSET)
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
    decoded = decode_prompts(sam, encode_image(sam, image), points_on(image, 1, 1, 2), min_predicted_iou=2.0)
    assert decoded.empty.tolist() == [True] * 9
    assert (decoded.predicted_iou < 2).all()


def test_no_prompts_get_no_answers():
    sam = lively_sam()
    decoded = decode_prompts(sam, encode_image(sam, noise(60, 80)), [], stability_offset=OFFSET, keep_logits=True)
    assert decoded.boxes_xyxy.shape == (0, 4)
    assert len(decoded.prompt_index) == len(decoded.mask_index) == len(decoded.predicted_iou) == len(decoded.empty) == 0
    assert len(decoded.low_res_logits) == 0


def test_identical_prompts_get_identical_answers():
    sam, image = in_double(lively_sam()), noise(60, 80)  # a matrix product may treat its last rows otherwise
    (point,) = points_on(image, 1)
    decoded = decode_prompts(sam, encode_image(sam, image), [point, point, point])
    assert decoded.boxes_xyxy[:3].tolist() == decoded.boxes_xyxy[3:6].tolist() == decoded.boxes_xyxy[6:].tolist()
    first = decoded.predicted_iou[:3].repeat(3)
    assert_near(decoded.predicted_iou, first, length=roundings_in(sam), magnitude=AMPLIFIED)


def test_an_image_has_the_same_answers_bit_for_bit_whatever_came_before_it():
    sam, image = lively_sam(), noise(60, 80)
    points_xy = points_on(image, *[1] * 200, 4, 4)
    first = decode_prompts(sam, encode_image(sam, image), points_xy, keep_logits=True)
    other = noise(90, 40)
    decode_prompts(sam, encode_image(sam, other), points_on(other, 2, 1, 1))
    again = decode_prompts(sam, encode_image(sam, image), points_xy, keep_logits=True)
    assert torch.equal(first.low_res_logits, again.low_res_logits)
    assert torch.equal(first.boxes_xyxy, again.boxes_xyxy)
    assert torch.equal(first.predicted_iou, again.predicted_iou)


@pytest.mark.gpu
def test_a_gpu_gives_the_boxes_of_the_cpu_within_a_pixel():
    image = drawn_image(150, 200)
    points_xy = points_on(image, *[1] * 100, 3, 3, 5)
    on_cpu, on_gpu = (
        decode_prompts(sam, encode_image(sam, image), points_xy, stability_offset=OFFSET)
        for sam in (trained_sam(), load_sam(SamConfig(name="builtin"), "cuda"))
    )
    near = (on_cpu.boxes_xyxy - on_gpu.boxes_xyxy).abs().amax(dim=1) <= 1
    assert near.float().mean() >= 0.99
