import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, automatic_mask_generator
from segment_anything.utils.amg import generate_crop_boxes
from torchvision.ops import batched_nms

from tests.support.sams import drawn_image, in_double, trained_sam
from tests.support.tolerances import assert_near, roundings_in
from weaksam.config import EverythingConfig
from weaksam.errors import ConfigError
from weaksam.masks import masks_to_boxes
from weaksam.masks_np import decode_rle
from weaksam.sam.everything import EDGE_TOLERANCE, crop_boxes, cut_off, segment_everything

PERMISSIVE = {"min_predicted_iou": 0.3, "min_stability": 0.5}  # which the built-in SAM's masks pass


def everything(image, **options):
    return list(segment_everything(in_double(trained_sam()), image, EverythingConfig(**options)))


def exclusive_nms(boxes, scores, categories, iou_threshold):
    return batched_nms(boxes.to(scores.dtype) + torch.tensor([0, 0, 1, 1]), scores, categories, iou_threshold)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size_hw", "crop_layers", "overlap", "downscale"),
    [
        pytest.param((128, 128), 0, 0.0, 1, id="the-whole-image"),
        pytest.param((75, 100), 0, 0.0, 1, id="another-shape"),
        pytest.param((128, 128), 1, 0.5, 2, id="crops"),
        pytest.param((150, 200), 1, 512 / 1500, 1, id="crops-of-another-shape"),
    ],
)
def test_the_masks_are_those_of_the_stock_generator(monkeypatch, size_hw, crop_layers, overlap, downscale):
    # In float64, where rounding decides no filter; with the one IoU of this package.
    monkeypatch.setattr(automatic_mask_generator, "batched_nms", exclusive_nms)
    sam, image = in_double(trained_sam()), drawn_image(*size_hw)
    expected = SamAutomaticMaskGenerator(
        sam, points_per_side=8, pred_iou_thresh=0.3, stability_score_thresh=0.5, crop_n_layers=crop_layers,
        crop_overlap_ratio=overlap, crop_n_points_downscale_factor=downscale,
    ).generate(image)  # fmt: skip
    found = everything(
        image, points_per_side=8, crop_layers=crop_layers, crop_overlap=overlap, crop_points_downscale=downscale,
        **PERMISSIVE,
    )  # fmt: skip
    assert len(expected) > 3  # else nothing was compared
    assert len({mask.crop_xyxy for mask in found}) > crop_layers
    assert len(found) == len(expected)
    for mask, stock in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask.mask, stock["segmentation"])
        x, y, w, h = stock["bbox"]
        assert mask.box_xyxy.tolist() == [x, y, x + w + 1, y + h + 1]
        assert mask.area == stock["area"]
        left, top, right, bottom = mask.crop_xyxy
        assert [left, top, right - left, bottom - top] == stock["crop_box"]
        assert_near(mask.point_xy, stock["point_coords"][0], dtype=torch.float32)
        assert_near(mask.predicted_iou, stock["predicted_iou"], dtype=torch.float32, length=roundings_in(sam))
        assert_near(mask.stability, stock["stability_score"], dtype=torch.float32)


def test_a_mask_comes_with_its_box_its_area_and_its_run_lengths():
    found = everything(drawn_image(75, 100), points_per_side=6, **PERMISSIVE)
    assert found
    for mask in found:
        boxes_xyxy, _ = masks_to_boxes(torch.from_numpy(mask.mask)[None])
        assert mask.box_xyxy.tolist() == boxes_xyxy[0].tolist()
        assert mask.box_xyxy.dtype == np.float32
        assert mask.area == mask.mask.sum() > 0
        np.testing.assert_array_equal(decode_rle(mask.rle()), mask.mask)
        assert mask.crop_xyxy == (0, 0, 100, 75)
    ranks = [mask.predicted_iou for mask in found]
    assert ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize("crop_layers", [0, 2])
def test_an_image_of_one_pixel_is_one_mask_or_none(crop_layers):
    sam, image = in_double(trained_sam()), np.full((1, 1, 3), 90, np.uint8)
    config = EverythingConfig(points_per_side=2, crop_layers=crop_layers, min_predicted_iou=0.0)
    sam.mask_threshold = -1000.0
    (mask,) = segment_everything(sam, image, config)
    assert mask.mask.tolist() == [[True]]
    assert (mask.box_xyxy.tolist(), mask.area, mask.stability) == ([0, 0, 1, 1], 1, 1.0)
    sam.mask_threshold = 1000.0
    assert list(segment_everything(sam, image, config)) == []


@pytest.mark.parametrize("crop_layers", [0, 1])
def test_where_no_mask_passes_nothing_is_found(crop_layers):
    assert everything(drawn_image(75, 100), points_per_side=3, min_predicted_iou=1.0, crop_layers=crop_layers) == []


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
    "options", [{"points_per_side": 0}, {"min_stability": 1.1}, {"crop_overlap": 1.0}, {"crop_layers": -1}], ids=str
)
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"^{next(iter(options))}: expected"):
        EverythingConfig(**options)
