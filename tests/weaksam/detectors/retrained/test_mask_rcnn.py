"""Mask R-CNN: its losses are torchvision's, its targets those of the masks themselves, its masks lie where its boxes do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection import roi_heads as stock

from tests.contracts.test_retrained import SIZES_HW, config_of, images
from tests.weaksam.detectors.retrained.test_samples import RAW
from weaksam.config import MaskRcnnConfig, RoiDropConfig
from weaksam.detectors.inference import detect_alone
from weaksam.detectors.loading import build_retrained
from weaksam.detectors.retrained.base import Targets
from weaksam.detectors.retrained.mask_rcnn import MaskRcnn, mask_losses
from weaksam.detectors.retrained.mask_targets import mask_grids, region_targets
from weaksam.detectors.retrained.samples import box_sample
from weaksam.errors import DataError, ImageError
from weaksam.masks import paste_masks
from weaksam.masks_np import decode_rle, encode_rle
from weaksam.structures import PseudoGroundTruth

CELLS = MaskRcnnConfig.mask_cells
HEIGHT, WIDTH = 64, 96


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def box_of(mask: np.ndarray) -> list[float]:
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


DISCS = [disc(26, 24, 18), disc(60, 40, 20)]
BOXES = np.array([box_of(mask) for mask in DISCS], np.float32)


def targets(*masks: np.ndarray, of_class: int = 1) -> Targets:
    boxes = np.array([box_of(mask) for mask in masks], np.float32).reshape(-1, 4)
    grids = mask_grids([encode_rle(mask) for mask in masks], boxes, CELLS)
    return Targets(torch.from_numpy(boxes), torch.full((len(masks),), of_class), grids)


NONE = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, CELLS, CELLS, dtype=torch.uint8))


def detector(**options: object) -> MaskRcnn:
    torch.manual_seed(0)
    config = config_of("mask_rcnn")
    built = build_retrained(replace(config, detector=replace(config.detector, **options)), 3)  # type: ignore[type-var]
    assert isinstance(built, MaskRcnn)
    return built


# --- what there is to learn


def test_a_grid_of_a_mask_is_the_share_of_each_cell() -> None:
    mask = np.zeros((4, 8), np.bool_)
    mask[1:3, 2:4] = True  # of a box of 4 x 2 pixels, the left half
    (grid,) = mask_grids([encode_rle(mask)], np.array([[2, 1, 6, 3]], np.float32), CELLS)
    assert grid.shape == (CELLS, CELLS)
    half = CELLS // 2
    assert (grid[:, : half - 7] == 255).all()
    assert (grid[:, half + 7 :] == 0).all()
    assert grid.float().mean() / 255 == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "mask", [np.ones((1, 1), np.bool_), np.ones((4, 8), np.bool_)], ids=["one-pixel", "whole-image"]
)
def test_a_mask_that_fills_its_box_fills_its_grid(mask: np.ndarray) -> None:
    box = np.array([[0, 0, mask.shape[1], mask.shape[0]]], np.float32)
    assert (mask_grids([encode_rle(mask)], box, CELLS) == 255).all()


def test_no_masks_have_no_grids() -> None:
    assert mask_grids([], np.zeros((0, 4), np.float32), CELLS).shape == (0, CELLS, CELLS)


def test_regions_learn_what_the_mask_itself_says_but_for_its_contour() -> None:
    grids = mask_grids([encode_rle(mask) for mask in DISCS], BOXES, CELLS)
    index = torch.tensor([0, 0, 1, 1])
    regions = torch.from_numpy(BOXES)[index] + torch.tensor(
        [[0.0, 0, 0, 0], [3, -2, 5, 4], [0, 0, 0, 0], [-4, 2, -6, 8]]
    )
    found = region_targets(grids, torch.from_numpy(BOXES), index, regions, 28)
    full = torch.from_numpy(np.stack(DISCS)).float()[:, None]
    wanted = stock.roi_align(full, torch.cat([index[:, None].float(), regions], dim=1), 28, aligned=True)[:, 0]
    assert (found - wanted).abs().mean() < 0.02
    assert ((found > 0.5) == (wanted > 0.5)).float().mean() > 0.98


def test_a_region_beside_its_box_has_nothing_to_find() -> None:
    grids = torch.full((1, CELLS, CELLS), 255, dtype=torch.uint8)
    box = torch.tensor([[10.0, 10, 20, 20]])
    region = torch.tensor([[10.0, 10, 30, 20]])
    (found,) = region_targets(grids, box, torch.tensor([0]), region, 28)
    assert (found[:, :13] > 0.99).all()
    assert (found[:, 15:] < 0.01).all()


# --- losses


def test_the_loss_of_masks_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(7, 4, 28, 28, generator=generator), torch.rand(7, 28, 28, generator=generator)
    labels = torch.tensor([1, 2, 3, 1, 2, 3, 1])
    monkeypatch.setattr(stock, "project_masks_on_boxes", lambda *_: wanted)
    expected = stock.maskrcnn_loss(logits, [torch.zeros(7, 4)], [wanted], [labels], [torch.arange(7)])
    ours = mask_losses(logits[torch.arange(7), labels], wanted).mean()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def test_losses_of_a_step_are_torchvisions_on_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector(beta=1 / 9).train()
    truth, views = [targets(*DISCS), targets(disc(15, 20, 10))], images()
    torch.manual_seed(5)
    ours = model.training_losses(views, SIZES_HW, truth, 0).losses

    def project(_: torch.Tensor, boxes: torch.Tensor, index: torch.Tensor, side: int) -> torch.Tensor:
        of_view = next(waiting)
        return region_targets(of_view.masks, of_view.boxes_xyxy, index, boxes, side)

    waiting = iter(truth)
    monkeypatch.setattr(stock, "project_masks_on_boxes", project)
    torch.manual_seed(5)
    image_list, features = model._features(views, SIZES_HW)
    of_boxes = [{"boxes": t.boxes_xyxy, "labels": t.class_index} for t in truth]
    proposals, _ = model.rpn.train()(image_list, features, of_boxes)
    known = [
        {"boxes": t.boxes_xyxy, "labels": t.class_index + 1, "masks": torch.zeros(len(t.class_index), HEIGHT, WIDTH)}
        for t in truth
    ]
    _, theirs = model.roi_heads.train()(features, proposals, [(HEIGHT, WIDTH)] * 2, known)
    for name, stock_name in {"class": "loss_classifier", "box": "loss_box_reg", "mask": "loss_mask"}.items():
        assert ours[name].item() == pytest.approx(theirs[stock_name].item(), rel=1e-5)


@pytest.mark.parametrize(
    "truth",
    [
        pytest.param([targets(*DISCS), NONE], id="one-view-empty"),
        pytest.param([NONE, NONE], id="no-instances"),
        pytest.param([targets(disc(10.5, 10.5, 0.6)), NONE], id="one-pixel"),
        pytest.param([targets(*[disc(10 + n % 10 * 8, 8 + n // 10 * 5, 4) for n in range(100)]), NONE], id="a-hundred"),
    ],
)
def test_losses_are_finite_and_reach_the_head(truth: list[Targets]) -> None:
    model = detector().train()
    losses = model.training_losses(images(), SIZES_HW, truth, 0).losses
    assert list(losses) == ["rpn_objectness", "rpn_box", "class", "box", "mask"]
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    weight = model.roi_heads.mask_predictor.mask_fcn_logits.weight
    learns = weight.grad is not None and bool((weight.grad != 0).any())
    assert learns == any(len(of_view.boxes_xyxy) for of_view in truth)


def test_in_half_precision_losses_are_nearly_the_same() -> None:
    found = []
    for enabled in (False, True):
        model = detector().train()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(model.training_losses(images(), SIZES_HW, [targets(*DISCS), NONE], 0).losses["mask"])
    assert found[0].dtype == found[1].dtype == torch.float32
    assert found[1].item() == pytest.approx(found[0].item(), rel=0.1)


def test_a_region_that_the_drop_leaves_out_teaches_no_mask() -> None:
    drop = RoiDropConfig(enabled=True, tau_cls=0.0, tau_reg=0.0, start_step=0)  # of every region a loss exceeds 0
    losses = detector(drop=drop).train().training_losses(images(), SIZES_HW, [targets(*DISCS), NONE], 0).losses
    assert losses["mask"].item() == 0


@pytest.mark.parametrize("normaliser", ["sampled", "kept"])
def test_a_drop_of_some_regions_leaves_the_mean_of_the_others(normaliser: str) -> None:
    truth, views = [targets(*DISCS), targets(disc(15, 20, 10), disc(12, 12, 8))], images()
    one = detector(drop=RoiDropConfig(enabled=True, normaliser="kept")).train()
    image_list, features = one._features(views, SIZES_HW)
    of_boxes = [{"boxes": t.boxes_xyxy, "labels": t.class_index} for t in truth]
    proposals, _ = one.rpn(image_list, features, of_boxes)
    regions = one._sample(proposals, truth, one.roi_heads.fg_bg_sampler)
    numbers = regions.foreground.nonzero()[:, 0]
    assert len(numbers) > 2

    def loss(model: MaskRcnn, kept: torch.Tensor) -> float:
        keep = torch.zeros(len(regions.foreground), dtype=torch.bool)
        keep[kept] = True
        return model.more_losses(views, features, regions, truth, keep)["mask"].item()

    alone = [loss(one, n) for n in numbers]
    other = detector(drop=RoiDropConfig(enabled=True, normaliser=normaliser)).train()  # type: ignore[arg-type]
    divisor = len(numbers) if normaliser == "sampled" else len(numbers) - 2
    assert loss(other, numbers[2:]) == pytest.approx(sum(alone[2:]) / divisor, rel=1e-5)


# --- what is found


def test_masks_of_detections_lie_in_their_boxes() -> None:
    model = detector()
    image = (images()[0].permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()
    found = detect_alone(model, image)
    assert found.mask_rle is not None
    assert len(found.mask_rle) == len(found) > 0
    for rle, (x1, y1, x2, y2) in zip(found.mask_rle, found.boxes_xyxy.tolist(), strict=True):
        mask = decode_rle(rle)
        assert mask.shape == image.shape[:2]
        y, x = np.nonzero(mask)
        assert ((x + 0.5 > x1) & (x + 0.5 < x2) & (y + 0.5 > y1) & (y + 0.5 < y2)).all()


@pytest.mark.parametrize("mask", DISCS, ids=["small", "large"])
def test_a_mask_on_a_grid_is_drawn_as_it_was(mask: np.ndarray) -> None:
    box = np.array([box_of(mask)], np.float32)
    grid = torch.nn.functional.avg_pool2d(mask_grids([encode_rle(mask)], box, CELLS).float()[:, None] / 255, 2)[:, 0]
    (drawn,) = paste_masks(grid, torch.from_numpy(box), mask.shape)
    same = decode_rle(drawn)
    assert (same & mask).sum() / (same | mask).sum() > 0.95


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ([0, 0, 8, 4], 32), ([1, 1, 2, 2], 1), ([1.4, 1.4, 2.6, 2.6], 4), ([2.6, 1, 3.4, 2], 0), ([3, 3, 3, 4], 0),
        ([6.5, 0, 8, 1], 1),
    ],
)  # fmt: skip
def test_pixels_whose_centres_lie_in_the_box_are_drawn(box: list[float], pixels: int) -> None:
    (rle,) = paste_masks(torch.ones(1, 28, 28), torch.tensor([box]), (4, 8))
    assert decode_rle(rle).sum() == pixels


def test_a_mirrored_pass_has_its_masks_turned_back() -> None:
    class Left(torch.nn.Module):
        """Finds the left half of one box of the view, whatever it sees."""

        def __init__(self, like: MaskRcnn, flip: bool) -> None:
            super().__init__()
            self.backbone, self.num_classes, self.options = like.backbone, 1, like.options
            self.config = replace(like.config, test=replace(like.config.test, flip=flip, scales=(HEIGHT,)))

        def predict(self, views, sizes_hw):
            from weaksam.detectors.retrained.base import ViewDetections

            masks = torch.zeros(1, 28, 28)
            masks[:, :, :14] = 1
            height, width = sizes_hw[0].tolist()
            score = torch.tensor([0.5 if self.calls else 0.9])
            self.calls += 1
            del views
            return [ViewDetections(torch.tensor([[0.0, 0, width, height]]), torch.tensor([0]), score, masks)]

        calls = 0

    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    plain = decode_rle(detect_alone(Left(detector(), False), image).mask_rle[0])
    assert plain[:, : WIDTH // 2 - 2].all()
    assert not plain[:, WIDTH // 2 + 2 :].any()
    model = Left(detector(), True)
    model.calls = 0
    both = detect_alone(model, image)  # the second pass, which scores less, is suppressed
    assert len(both.mask_rle) == 1
    np.testing.assert_array_equal(decode_rle(both.mask_rle[0]), plain)


# --- views


def truth_of(*masks: np.ndarray) -> PseudoGroundTruth:
    ones = np.ones(len(masks), np.float32)
    return PseudoGroundTruth(
        boxes_xyxy=np.array([box_of(mask) for mask in masks], np.float32).reshape(-1, 4),
        class_index=np.arange(len(masks)),
        score=ones,
        score_normalised=ones,
        mask_rle=[encode_rle(mask) for mask in masks],
    )


def picture(*masks: np.ndarray) -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for n, mask in enumerate(masks):
        image[mask] = 100 + 50 * n
    return image


VIEWS = {
    "plain": {"scales": (HEIGHT,), "flip": False},
    "mirrored": {"scales": (2 * HEIGHT,), "flip": True},
    "cut": {"scales": (HEIGHT,), "flip": True, "crop_scales": (HEIGHT, 2 * HEIGHT), "crop_sides": (40, 60)},
    "jittered": {"jitter": (0.3, 2.0), "jitter_side": WIDTH, "flip": True},
}


@pytest.mark.parametrize("name", VIEWS)
def test_masks_follow_what_is_done_to_their_view(name: str) -> None:
    config = replace(config_of("mask_rcnn"), **VIEWS[name])  # type: ignore[type-var]
    one = disc(40, 30, 20)
    seen = 0
    for seed in range(12):
        view, found = box_sample(picture(one), truth_of(one), config, RAW, seed)
        for box, grid in zip(found.boxes_xyxy.tolist(), found.masks, strict=True):
            (drawn,) = paste_masks(grid[None].float() / 255, torch.tensor([box]), view.shape[1:])
            shown = (view[0] > 50).numpy()
            mask = decode_rle(drawn)
            if shown.sum() > 100:
                assert (mask & shown).sum() / (mask | shown).sum() > 0.85
                seen += 1
    assert seen >= 6


def corner() -> np.ndarray:
    """An L whose box is empty for the most part."""
    drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
    drawn[5:60, 5:8] = drawn[57:60, 5:90] = True
    return drawn


@pytest.mark.parametrize("name", ["cut", "jittered"])
def test_what_a_window_does_not_show_is_not_learnt_and_boxes_fit_what_it_shows(name: str) -> None:
    config = replace(config_of("mask_rcnn"), **VIEWS[name] | {"jitter_side": 40})  # type: ignore[type-var]
    one, gone = corner(), 0
    for seed in range(60):
        view, found = box_sample(picture(one), truth_of(one), config, RAW, seed)
        gone += len(found.class_index) == 0
        for box, grid in zip(found.boxes_xyxy.tolist(), found.masks, strict=True):
            assert grid.max() > 0
            sides = (grid[0].max(), grid[-1].max(), grid[:, 0].max(), grid[:, -1].max())
            assert all(side > 0 for side in sides)  # the mask reaches all sides of its box
            assert box[2] - box[0] > 0 and box[3] - box[1] > 0  # noqa: PT018
        del view
    assert gone > 0


def test_jitter_leaves_out_what_becomes_less_than_a_pixel() -> None:
    config = replace(config_of("mask_rcnn"), jitter=(0.1, 0.3), jitter_side=WIDTH)
    small, large = disc(30.5, 30.5, 0.6), disc(50, 30, 20)
    for seed in range(20):
        _, found = box_sample(picture(small, large), truth_of(small, large), config, RAW, seed)
        assert found.class_index.tolist() == [1]
        assert len(found.masks) == 1


def test_masks_of_another_picture_are_refused_for_this_image_alone() -> None:
    with pytest.raises(ImageError, match=r"64 x 96 pixels \(height x width\), the picture has 32 x 96") as caught:
        box_sample(picture(DISCS[0])[:32], truth_of(DISCS[0]), config_of("mask_rcnn"), RAW, 0)
    assert caught.value.reason == "masks of another size"


def test_passes_are_whole_because_the_loss_of_masks_is_a_mean_over_regions() -> None:
    assert config_of("mask_rcnn").detector.pass_statistics == ("name",)
    assert config_of("faster_rcnn").detector.pass_statistics == ()


def test_nothing_found_has_no_masks() -> None:
    model = detector()
    model.roi_heads.score_thresh = 1.0
    found = detect_alone(model, picture(*DISCS))
    assert (len(found), found.mask_rle) == (0, [])


def test_jitter_makes_views_of_many_sizes_and_never_larger_than_its_square() -> None:
    config = replace(config_of("mask_rcnn"), jitter=(0.1, 2.0), jitter_side=WIDTH)
    one = disc(40, 30, 20)
    sizes = [box_sample(picture(one), truth_of(one), config, RAW, seed)[0].shape[1:] for seed in range(30)]
    assert max(max(size) for size in sizes) == WIDTH
    assert min(max(size) for size in sizes) < WIDTH // 2
    same = [box_sample(picture(one), truth_of(one), config, RAW, 5) for _ in range(2)]
    assert torch.equal(same[0][0], same[1][0])
    assert torch.equal(same[0][1].masks, same[1][1].masks)


def test_boxes_alone_are_refused_with_the_remedy() -> None:
    truth = replace(truth_of(DISCS[0]), mask_rle=None)
    with pytest.raises(DataError, match="let it come from segment"):
        box_sample(picture(DISCS[0]), truth, config_of("mask_rcnn"), RAW, 0)


def test_other_detectors_do_not_look_at_masks() -> None:
    _, found = box_sample(picture(DISCS[0]), truth_of(DISCS[0]), config_of("faster_rcnn"), RAW, 0)
    assert found.masks is None


@pytest.mark.parametrize("jitter", [(0.5,), (2.0, 1.0), (0.0, 1.0)], ids=str)
def test_jitter_is_two_factors(jitter: tuple[float, ...]) -> None:
    from weaksam.errors import ConfigError

    with pytest.raises(ConfigError, match="jitter"):
        replace(config_of("mask_rcnn"), jitter=jitter)


def test_the_head_needs_a_convolution() -> None:
    from weaksam.errors import ConfigError

    with pytest.raises(ConfigError, match="mask_dims"):
        MaskRcnnConfig(mask_dims=())
