import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, automatic_mask_generator
from segment_anything.utils.amg import generate_crop_boxes
from torchvision.ops import batched_nms

from tests.support.automatic_masks import automatic_masks
from tests.support.sams import drawn_image, in_double, trained_sam
from tests.support.tolerances import assert_near, roundings_in
from weaksam.config import EverythingConfig
from weaksam.errors import ConfigError
from weaksam.masks import masks_to_boxes
from weaksam.masks_np import decode_rle
from weaksam.sam.everything import (
    EDGE_TOLERANCE,
    crop_boxes,
    cut_off,
    segment_everything,
    suppress,
    without_small_regions,
)
from weaksam.structures import PART, SUBPART, WHOLE

PERMISSIVE = {"min_predicted_iou": 0.3, "min_stability": 0.5}  # which the built-in SAM's masks pass


def everything(image, **options):
    return segment_everything(in_double(trained_sam()), image, EverythingConfig(**options))


def exclusive_nms(boxes, scores, categories, iou_threshold):
    return batched_nms(boxes.to(scores.dtype) + torch.tensor([0, 0, 1, 1]), scores, categories, iou_threshold)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size_hw", "crop_layers", "overlap", "downscale", "min_region_area"),
    [
        pytest.param((128, 128), 0, 0.0, 1, 0, id="the-whole-image"),
        pytest.param((75, 100), 0, 0.0, 1, 0, id="another-shape"),
        pytest.param((128, 128), 1, 0.5, 2, 0, id="crops"),
        pytest.param((150, 200), 1, 512 / 1500, 1, 0, id="crops-of-another-shape"),
        pytest.param((75, 100), 0, 0.0, 1, 60, id="without-small-regions"),
        pytest.param((150, 200), 1, 512 / 1500, 1, 100, id="crops-without-small-regions"),
    ],
)
def test_the_masks_are_those_of_the_stock_generator(
    monkeypatch, size_hw, crop_layers, overlap, downscale, min_region_area
):
    # In float64, where rounding decides no filter; with the one IoU of this package.
    monkeypatch.setattr(automatic_mask_generator, "batched_nms", exclusive_nms)
    sam, image = in_double(trained_sam()), drawn_image(*size_hw)
    # Suppressed little and with low standards, so that there are masks in pieces and some that are duplicates once mended.
    nms_iou, least_iou, stability = (0.95, 0.05, 0.1) if min_region_area else (0.7, 0.3, 0.5)
    expected = SamAutomaticMaskGenerator(
        sam, points_per_side=8, pred_iou_thresh=least_iou, stability_score_thresh=stability, box_nms_thresh=nms_iou,
        crop_n_layers=crop_layers, crop_overlap_ratio=overlap, crop_n_points_downscale_factor=downscale,
        min_mask_region_area=min_region_area,
    ).generate(image)  # fmt: skip
    options = {
        "points_per_side": 8, "crop_layers": crop_layers, "crop_overlap": overlap, "crop_points_downscale": downscale,
        "min_predicted_iou": least_iou, "min_stability": stability, "nms_iou": nms_iou,
    }  # fmt: skip
    found = everything(image, min_region_area=min_region_area, **options)
    assert len(expected) > 3  # else nothing was compared
    assert len({tuple(crop) for crop in found.crop_xyxy.tolist()}) > crop_layers
    assert len(found) == len(expected)
    for n, stock in enumerate(expected):
        np.testing.assert_array_equal(decode_rle(found.mask_rle[n]), stock["segmentation"])
        x, y, w, h = stock["bbox"]
        assert found.boxes_xyxy[n].tolist() == [x, y, x + w + 1, y + h + 1]
        assert found.area[n] == stock["area"]
        left, top, right, bottom = found.crop_xyxy[n].tolist()
        assert [left, top, right - left, bottom - top] == stock["crop_box"]
        assert_near(found.point_xy[n], stock["point_coords"][0], dtype=torch.float32)
        assert_near(found.predicted_iou[n], stock["predicted_iou"], dtype=torch.float32, length=roundings_in(sam))
        assert_near(found.stability[n], stock["stability_score"], dtype=torch.float32)
    if min_region_area:
        before = everything(image, **options)
        runs = {rle["counts"] for rle in before.mask_rle}
        assert not all(rle["counts"] in runs for rle in found.mask_rle)  # something was done


def drawn(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


RING = drawn(".....", ".###.", ".#.#.", ".###.", ".....")
SQUARE = drawn(".....", ".###.", ".###.", ".###.", ".....")
AND_A_SPECK = drawn("....#", ".....", "##...", "##...", "##...")
WITHOUT_IT = drawn(".....", ".....", "##...", "##...", "##...")
TWO_SPECKS = drawn("#....", ".....", "....#", "....#", ".....")
THE_LARGER = drawn(".....", ".....", "....#", "....#", ".....")


@pytest.mark.parametrize(
    ("masks", "least", "expected"),
    [
        pytest.param([RING, WITHOUT_IT], 2, [(WITHOUT_IT, 1), (SQUARE, 0)], id="a-hole-is-filled"),
        pytest.param([RING], 1, [(RING, 0)], id="a-hole-as-large-as-that-is-not"),
        pytest.param([AND_A_SPECK, SQUARE], 2, [(SQUARE, 1), (WITHOUT_IT, 0)], id="an-island-is-dropped"),
        pytest.param([TWO_SPECKS], 9, [(THE_LARGER, 0)], id="of-small-islands-the-largest-stays"),
        pytest.param([RING, SQUARE], 2, [(SQUARE, 1)], id="the-one-that-nothing-was-done-to-stays"),
        pytest.param([RING, SQUARE], 1, [(RING, 0)], id="of-two-such-the-first-stays"),
        pytest.param([], 2, [], id="nothing"),
    ],
)
def test_small_regions(masks, least, expected):
    found = without_small_regions(automatic_masks(masks, size_hw=(5, 5)), EverythingConfig(min_region_area=least))
    assert [decode_rle(rle).tolist() for rle in found.mask_rle] == [mask.tolist() for mask, _ in expected]
    assert found.area.tolist() == [mask.sum() for mask, _ in expected]
    boxes_xyxy, _ = masks_to_boxes(torch.from_numpy(np.stack([np.zeros((5, 5), bool), *(m for m, _ in expected)])))
    assert found.boxes_xyxy.tolist() == boxes_xyxy[1:].tolist()
    assert found.point_xy[:, 0].tolist() == [number for _, number in expected]  # by which they are told apart here


def test_a_mask_comes_with_its_box_its_area_and_its_prompt():
    found = everything(drawn_image(75, 100), points_per_side=6, **PERMISSIVE)
    assert len(found)
    for n, rle in enumerate(found.mask_rle):
        mask = decode_rle(rle)
        boxes_xyxy, _ = masks_to_boxes(torch.from_numpy(mask)[None])
        assert found.boxes_xyxy[n].tolist() == boxes_xyxy[0].tolist()
        assert found.area[n] == mask.sum() > 0
        assert found.crop_xyxy[n].tolist() == [0, 0, 100, 75]
        assert mask[tuple(found.point_xy[n][::-1].astype(int))]  # on these drawings, the prompt lies on what it made
    assert found.boxes_xyxy.dtype == found.point_xy.dtype == np.float32
    ranks = found.predicted_iou.tolist()
    assert ranks == sorted(ranks, reverse=True)


@pytest.mark.slow
def test_a_level_is_the_number_of_the_mask_among_the_three_of_its_point():
    sam, image = in_double(trained_sam()), drawn_image(75, 100)
    found = everything(image, points_per_side=6, nms_iou=1.0, min_predicted_iou=0.05, min_stability=0.0)
    assert set(found.level.tolist()) == {SUBPART, PART, WHOLE}
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    for n, rle in enumerate(found.mask_rle):
        masks, _, _ = predictor.predict(found.point_xy[n][None].astype(np.float64), np.ones(1))
        np.testing.assert_array_equal(decode_rle(rle), masks[found.level[n]])


OVERLAPPING = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10], [50, 50, 60, 60]]  # the first three by .8 or more


@pytest.mark.parametrize(
    ("level", "predicted_iou", "best_first", "wholes_first"),
    [
        pytest.param([PART, WHOLE, SUBPART, PART], [0.95, 0.77, 0.9, 0.9], [0, 3], [1, 3], id="a-poor-whole"),
        pytest.param([PART, WHOLE, WHOLE, PART], [0.95, 0.77, 0.8, 0.99], [3, 0], [2, 3], id="the-better-whole"),
        pytest.param([PART, SUBPART, PART, WHOLE], [0.9, 0.95, 0.91, 0.8], [1, 3], [3, 1], id="a-whole-elsewhere"),
        pytest.param([WHOLE, WHOLE, PART, PART], [0.8, 0.8, 0.8, 0.8], [0, 3], [0, 3], id="a-tie"),
    ],
)
def test_which_of_overlapping_masks_stays(level, predicted_iou, best_first, wholes_first):
    boxes_xyxy = torch.tensor(OVERLAPPING, dtype=torch.float32)
    for first, expected in ((False, best_first), (True, wholes_first)):
        config = EverythingConfig(nms_iou=0.7, wholes_first=first)
        kept = suppress(boxes_xyxy, torch.tensor(predicted_iou), torch.tensor(level), config)
        assert kept.tolist() == expected
    assert suppress(boxes_xyxy[:0], torch.zeros(0), torch.zeros(0), EverythingConfig(wholes_first=True)).tolist() == []


def test_a_bonus_lets_more_wholes_pass_and_nothing_else():
    options = {"points_per_side": 6, "nms_iou": 1.0, "min_stability": 0.0}

    def found(**more):
        masks = everything(drawn_image(75, 100), **options, **more)
        keys = (masks.level.tolist(), map(tuple, masks.point_xy.tolist()), masks.predicted_iou.tolist())
        return set(zip(*keys, strict=True))

    all_of_them, without, with_bonus = (
        found(min_predicted_iou=0.3),
        found(min_predicted_iou=0.5),
        found(min_predicted_iou=0.5, whole_iou_bonus=0.2),
    )
    wholes = {mask for mask in all_of_them if mask[0] == WHOLE}
    assert with_bonus == without | wholes  # with the predicted IoU that SAM said
    assert without < with_bonus < all_of_them


@pytest.mark.parametrize("crop_layers", [0, 2])
@pytest.mark.parametrize("min_region_area", [0, 100])
def test_an_image_of_one_pixel_is_one_mask_or_none(crop_layers, min_region_area):
    sam, image = in_double(trained_sam()), np.full((1, 1, 3), 90, np.uint8)
    config = EverythingConfig(
        points_per_side=2, crop_layers=crop_layers, min_predicted_iou=0.0, min_region_area=min_region_area
    )
    sam.mask_threshold = -1000.0
    found = segment_everything(sam, image, config)
    assert [decode_rle(rle).tolist() for rle in found.mask_rle] == [[[True]]]
    assert (found.boxes_xyxy.tolist(), found.area.tolist(), found.stability.tolist()) == ([[0, 0, 1, 1]], [1], [1.0])
    sam.mask_threshold = 1000.0
    assert len(segment_everything(sam, image, config)) == 0


@pytest.mark.parametrize("options", [{}, {"crop_layers": 1}, {"min_region_area": 9, "wholes_first": True}], ids=str)
def test_where_no_mask_passes_nothing_is_found(options):
    found = everything(drawn_image(75, 100), points_per_side=3, min_predicted_iou=1.0, **options)
    assert (len(found), found.size_hw, found.mask_rle) == (0, (75, 100), [])
    shapes = [column.shape for column in (found.level, found.area, found.boxes_xyxy, found.point_xy, found.crop_xyxy)]
    assert shapes == [(0,), (0,), (0, 4), (0, 2), (0, 4)]


@pytest.mark.parametrize(
    ("size_hw", "layers", "overlap", "expected"),
    [
        pytest.param((60, 90), 0, 0.5, [((0, 0, 90, 60), 0)], id="no-layer"),
        pytest.param((10, 20), 1, 0.0, [
            ((0, 0, 20, 10), 0),
            ((0, 0, 10, 5), 1), ((0, 5, 10, 10), 1), ((10, 0, 20, 5), 1), ((10, 5, 20, 10), 1),
        ], id="quarters"),
        # 4 pixels of overlap: pieces of (20 + 4) / 2 and (10 + 4) / 2 pixels
        pytest.param((10, 20), 1, 0.4, [
            ((0, 0, 20, 10), 0),
            ((0, 0, 12, 7), 1), ((0, 3, 12, 10), 1), ((8, 0, 20, 7), 1), ((8, 3, 20, 10), 1),
        ], id="overlapping"),
        pytest.param((1, 1), 1, 0.3, [((0, 0, 1, 1), 0), ((0, 0, 1, 1), 1)], id="one-pixel"),
        pytest.param((1, 3), 1, 0.3, [
            ((0, 0, 3, 1), 0), ((0, 0, 2, 1), 1), ((2, 0, 3, 1), 1)
        ], id="the-last-is-shorter"),
    ],
)  # fmt: skip
def test_crops(size_hw, layers, overlap, expected):
    assert crop_boxes(size_hw, layers, overlap) == expected


@pytest.mark.parametrize("overlap", [0.0, 512 / 1500, 0.9])
@pytest.mark.parametrize("size_hw", [(64, 64), (375, 500), (501, 333), (97, 640)], ids=str)
def test_crops_are_those_of_the_stock_generator(size_hw, overlap):
    boxes, layers = generate_crop_boxes(size_hw, 3, overlap)
    assert [(list(crop), layer) for crop, layer in crop_boxes(size_hw, 3, overlap)] == list(
        zip(boxes, layers, strict=True)
    )


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([150, 150, 200, 200], False, id="in-the-middle"),
        pytest.param([100 + EDGE_TOLERANCE, 150, 200, 200], True, id="at-the-left-edge"),
        pytest.param([101 + EDGE_TOLERANCE, 150, 200, 200], False, id="a-pixel-further"),
        pytest.param([150, 150, 200, 299], True, id="at-the-lower-edge"),
        pytest.param([150, 0, 200, 200], False, id="at-the-edge-of-the-image"),
        pytest.param([150, 0, 300, 200], True, id="at-an-edge-of-each"),
    ],
)
def test_what_a_crop_cuts_off(box, expected):
    boxes_xyxy = torch.tensor([box], dtype=torch.float32)
    assert cut_off(boxes_xyxy, (100, 0, 300, 300), (400, 500)).tolist() == [expected]
    assert cut_off(boxes_xyxy, (0, 0, 500, 400), (400, 500)).tolist() == [False]
    assert cut_off(boxes_xyxy[:0], (100, 0, 300, 300), (400, 500)).tolist() == []


@pytest.mark.parametrize(
    "options",
    [
        {"points_per_side": 0},
        {"min_stability": 1.1},
        {"crop_overlap": 1.0},
        {"crop_layers": -1},
        {"whole_iou_bonus": 2},
        {"min_region_area": -1},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"^{next(iter(options))}: expected"):
        EverythingConfig(**options)
