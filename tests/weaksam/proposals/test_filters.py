import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, automatic_mask_generator
from torchvision.ops import batched_nms

from tests.support.sams import drawn_image, in_double, lively_sam, trained_sam
from tests.support.tolerances import assert_near, roundings_in
from weaksam.config import ProposalsConfig
from weaksam.masks_np import decode_rle
from weaksam.proposals.filters import propose, select_masks
from weaksam.proposals.prompts import grid_prompts
from weaksam.sam.measure import MeasuredMasks
from weaksam.structures import MAP_KINDS, SOURCES, TABLE_SOURCES, Prompts

IMAGE = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
SIZE_HW = (75, 100)
UNIT = [0.0, 0.0, 10.0, 10.0]
HALF = [0.0, 0.0, 10.0, 5.0]
FAR = [50.0, 50.0, 60.0, 60.0]
NOTHING = [0.0, 0.0, 0.0, 0.0]
PERMISSIVE = ProposalsConfig(min_predicted_iou=0.0, min_stability=0.0, grid_nms_iou=1.0, cross_nms_iou=1.0)


def clue(source, *prompts_xy):
    """Prompts of one source at the given points."""
    points_xy = [np.array(points, dtype=np.float32).reshape(-1, 2) for points in prompts_xy]
    return Prompts(
        source=source, points_xy=points_xy, kind=["semantic"] * len(points_xy), class_index=[0] * len(points_xy)
    )


def answers(*rows):
    """SAM's answers by hand: (box, predicted IoU, stability) per mask."""
    boxes_xyxy = torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 4)
    return MeasuredMasks(
        boxes_xyxy=boxes_xyxy,
        empty=(boxes_xyxy[:, 2] == 0),
        predicted_iou=torch.tensor([predicted_iou for _, predicted_iou, _ in rows]),
        stability=torch.tensor([stability for _, _, stability in rows]),
        prompt_index=torch.arange(len(rows)),
        mask_index=torch.ones(len(rows), dtype=torch.int64),
        low_res_logits=None,
    )


NAN = float("nan")


@pytest.mark.parametrize(
    ("source", "rows", "options", "kept", "discarded"),
    [
        pytest.param("grid", [], {}, [], {}, id="nothing"),
        pytest.param(
            "grid", [(UNIT, 0.5, 1.0)], {"min_predicted_iou": 0.5}, [], {"predicted IoU": 1}, id="iou-is-strict"
        ),
        pytest.param("grid", [(UNIT, 0.6, 0.5)], {"min_stability": 0.5}, [0], {}, id="stability-is-not"),
        pytest.param("grid", [(UNIT, 0.6, 0.4)], {"min_stability": 0.5}, [], {"stability": 1}, id="unstable"),
        pytest.param(
            "grid", [(NOTHING, 0.6, NAN)], {"min_stability": 0.0}, [], {"stability": 1}, id="nan-never-passes"
        ),
        pytest.param("grid", [(NOTHING, 0.1, NAN)], {}, [], {"predicted IoU": 1}, id="counted-at-the-first-filter"),
        pytest.param("grid", [(NOTHING, 0.6, 0.0)], {"min_stability": 0.0}, [], {"empty mask": 1}, id="empty"),
        pytest.param(
            "grid", [(NOTHING, 0.6, 0.0)], {"min_stability": 0.0, "keep_empty": True}, [0], {}, id="empty-kept-if-asked"
        ),
        pytest.param(
            "grid", [(HALF, 0.6, 1), (FAR, 0.7, 1), (UNIT, 0.9, 1)], {}, [2, 1], {"suppressed": 1}, id="best-iou-first"
        ),
        pytest.param("grid", [(UNIT, 0.6, 1), (UNIT, 0.6, 1)], {}, [0], {"suppressed": 1}, id="of-a-tie-the-first"),
        pytest.param(
            "grid", [(UNIT, 0.9, 0.1), (UNIT, 0.6, 1)], {}, [1], {"stability": 1}, id="an-unstable-mask-suppresses-none"
        ),
        pytest.param(
            "grid",
            [(HALF, 0.6, 1), (UNIT, 0.9, 1)],
            {"grid_nms_iou": 0.5},
            [1, 0],
            {},
            id="overlap-at-the-threshold-stays",
        ),
        pytest.param("fine", [(UNIT, -1, NAN), (UNIT, 0, NAN)], {}, [0, 1], {}, id="fine-is-not-filtered"),
        pytest.param(
            "coarse", [(UNIT, 0, NAN), (NOTHING, 1, NAN)], {}, [0], {"empty mask": 1}, id="coarse-drops-empty"
        ),
        pytest.param("coarse", [(NOTHING, 1, NAN)], {"keep_empty": True}, [0], {}, id="coarse-keeps-empty-if-asked"),
        pytest.param(
            "cross",
            [(UNIT, 0.1, NAN), (UNIT, 0.9, NAN), (HALF, 0, NAN)],
            {},
            [0, 2],
            {"suppressed": 1},
            id="cross-in-order",
        ),
        pytest.param("cross", [(NOTHING, 0, NAN), (UNIT, 0, NAN)], {}, [1], {"empty mask": 1}, id="cross-drops-empty"),
        pytest.param(
            "cross",
            [(NOTHING, 0, NAN), (UNIT, 0, NAN), (NOTHING, 0, NAN)],
            {"keep_empty": True},
            [0, 1],
            {"suppressed": 1},
            id="cross-keeps-one-empty-if-asked",
        ),
        pytest.param(
            "coarse", [(NOTHING, 1, NAN)] * 2, {"keep_empty": True}, [0, 1], {}, id="coarse-keeps-every-empty-if-asked"
        ),
    ],
)
def test_what_each_source_keeps(source, rows, options, kept, discarded):
    found, counts = select_masks(answers(*rows), source, ProposalsConfig(**options))
    assert found.tolist() == kept
    assert {reason: n for reason, n in counts.items() if n} == discarded


@pytest.mark.parametrize("points_per_side", [5, 12])
def test_grid_proposals_equal_those_of_the_stock_mask_generator(monkeypatch, points_per_side):
    # The stock generator suppresses inclusive boxes; make them exclusive for its NMS, which is our convention.
    def exclusive(boxes, scores, categories, iou_threshold):
        return batched_nms((boxes + torch.tensor([0, 0, 1, 1])).to(scores.dtype), scores, categories, iou_threshold)

    monkeypatch.setattr(automatic_mask_generator, "batched_nms", exclusive)
    sam, image = in_double(trained_sam()), drawn_image(120, 160)  # rounding decides neither a pixel nor a filter
    config = ProposalsConfig(min_predicted_iou=0.1, min_stability=0.1, grid_nms_iou=0.7, keep_masks=True)
    stock = SamAutomaticMaskGenerator(
        sam, points_per_side=points_per_side, pred_iou_thresh=0.1, stability_score_thresh=0.1, box_nms_thresh=0.7
    ).generate(image)
    found = propose(sam, image, [grid_prompts((120, 160), points_per_side)], config)
    boxes_xyxy = [[x, y, x + w + 1, y + h + 1] for x, y, w, h in (record["bbox"] for record in stock)]
    assert len(stock) > 5
    assert found.boxes_xyxy.tolist() == boxes_xyxy
    assert_near(found.predicted_iou, [record["predicted_iou"] for record in stock], length=roundings_in(sam))
    for index, rle, record in zip(found.prompt_index, found.mask_rle, stock, strict=True):
        assert_near(found.prompts[0].points_xy[index], record["point_coords"])
        assert (decode_rle(rle) == record["segmentation"]).all()


def test_n_single_and_g_joint_prompts_give_two_boxes_each():
    prompts = clue("coarse", [10, 20], [50, 60], [70, 30], [[10, 20], [50, 60]], [70, 30])
    found = propose(lively_sam(), IMAGE, [prompts], ProposalsConfig(keep_empty=True))
    assert len(found) == 2 * (3 + 2)
    assert found.prompt_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.mask_index.tolist() == [1, 2] * 5


def test_sources_are_concatenated_in_their_order_and_prompts_counted_through():
    prompts = [clue("cross", [50, 60]), clue("fine"), grid_prompts(SIZE_HW, 2), clue("coarse", [10, 20], [30, 40])]
    config = ProposalsConfig(
        min_predicted_iou=0.0, min_stability=0.0, grid_nms_iou=1.0, cross_nms_iou=1.0, keep_empty=True
    )
    found = propose(lively_sam(), IMAGE, prompts, config)
    assert [of_source.source for of_source in found.prompts] == list(SOURCES)
    n_grid = found.source.count("grid")
    assert found.source == ["grid"] * n_grid + ["coarse"] * 4 + ["cross"] * 2
    assert set(found.prompt_index[:n_grid].tolist()) <= {0, 1, 2, 3}
    assert found.prompt_index[n_grid:].tolist() == [4, 4, 5, 5, 6, 6]
    assert (found.boxes_xyxy.dtype, found.prompt_index.dtype) == (np.float32, np.int32)
    assert (found.mask_index.dtype, found.predicted_iou.dtype) == (np.int8, np.float32)


def test_the_order_of_sources_is_the_published_one():
    # Method 3.4. Table 4 adds the fine map's proposals before the coarse one's.
    assert SOURCES == ("grid", "coarse", "fine", "cross")
    assert SOURCES[1:] == MAP_KINDS
    assert TABLE_SOURCES == ("grid", "fine", "coarse", "cross")
    prompts = [clue("cross", [50, 60]), clue("fine", [10, 20]), clue("coarse", [30, 40])]
    found = propose(lively_sam(), IMAGE, prompts, ProposalsConfig(keep_empty=True))
    assert list(dict.fromkeys(found.source)) == ["coarse", "fine", "cross"]
    assert [of_source.source for of_source in found.prompts] == ["coarse", "fine", "cross"]


def test_every_box_is_kept_or_counted_as_discarded():
    prompts = [grid_prompts(SIZE_HW, 8), clue("fine", [10, 20]), clue("cross", [50, 60], [51, 60], [50, 61], [5, 5])]
    found = propose(lively_sam(), IMAGE, prompts, ProposalsConfig())
    for source, decoded in (("grid", 8 * 8 * 3), ("fine", 2), ("cross", 8)):
        counts = {reason: n for (of_source, reason), n in found.discarded.items() if of_source == source}
        assert found.source.count(source) + sum(counts.values()) == decoded
        assert all(counts.values())


def test_repeated_cross_prompts_leave_the_first_boxes():
    sam = in_double(lively_sam())  # more at once round otherwise
    once = propose(sam, IMAGE, [clue("cross", [50, 60], [5, 5])], ProposalsConfig())
    twice = propose(sam, IMAGE, [clue("cross", [50, 60], [5, 5], [50, 60], [5, 5])], ProposalsConfig())
    np.testing.assert_array_equal(once.boxes_xyxy, twice.boxes_xyxy)
    np.testing.assert_array_equal(once.prompt_index, twice.prompt_index)


@pytest.mark.parametrize("prompts", [[], [clue("fine"), clue("cross")]], ids=["no-sources", "sources-without-prompts"])
def test_an_image_without_any_box_gets_one_of_its_own_size(prompts):
    found = propose(lively_sam(), IMAGE, prompts, ProposalsConfig(keep_masks=True))
    assert (found.source, found.boxes_xyxy.tolist()) == (["whole-image"], [[0, 0, 100, 75]])
    assert (found.prompt_index.tolist(), found.mask_index.tolist()) == ([-1], [-1])
    assert np.isnan(found.predicted_iou).all()
    assert decode_rle(found.mask_rle[0]).all()
    without = propose(lively_sam(), IMAGE, prompts, ProposalsConfig(whole_image_if_empty=False, keep_masks=True))
    assert len(without) == 0
    assert without.boxes_xyxy.shape == (0, 4)
    assert without.mask_rle == []


def test_kept_masks_are_those_of_the_boxes():
    prompts = [grid_prompts(SIZE_HW, 8), clue("fine", [10, 20]), clue("cross", [50, 60])]
    sam = in_double(lively_sam())  # a mask alone rounds otherwise than among others
    found = propose(sam, IMAGE, prompts, ProposalsConfig(keep_masks=True))
    assert propose(sam, IMAGE, prompts, ProposalsConfig()).mask_rle is None
    for box, rle in zip(found.boxes_xyxy, found.mask_rle, strict=True):
        y, x = np.nonzero(decode_rle(rle))
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_a_one_pixel_image_has_one_pixel_boxes():
    image = np.zeros((1, 1, 3), dtype=np.uint8)
    found = propose(lively_sam(), image, [grid_prompts((1, 1), 2), clue("fine", [0, 0])], PERMISSIVE)
    assert {tuple(box) for box in found.boxes_xyxy.tolist()} == {(0, 0, 1, 1)}
