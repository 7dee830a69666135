"""Mask2Former: its losses are transformers', its targets the masks' shares of cells, its masks lie where its boxes do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from tests.contracts.test_retrained import SIZES_HW, config_of, images
from tests.weaksam.detectors.retrained.test_mask_rcnn import DISCS, HEIGHT, WIDTH, box_of, disc
from weaksam.config import Mask2FormerConfig, QueryDropConfig, RetrainConfig
from weaksam.detectors.loading import build_retrained
from weaksam.detectors.retrained.base import Targets
from weaksam.detectors.retrained.mask2former import Mask2Former
from weaksam.detectors.retrained.mask_targets import map_masks, mask_grids
from weaksam.losses.mask_queries import Objects
from weaksam.masks import paste_masks
from weaksam.masks_np import decode_rle, encode_rle
from weaksam.networks.mask_queries import NORMS, Predictions
from weaksam.networks.parameter_groups import parameter_groups
from weaksam.networks.pyramids import build_pyramid

CELLS = Mask2FormerConfig.mask_cells
NONE = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, CELLS, CELLS, dtype=torch.uint8))
NO_DROP = QueryDropConfig()


def targets(*masks: np.ndarray, of_class: int = 1) -> Targets:
    boxes = np.array([box_of(mask) for mask in masks], np.float32).reshape(-1, 4)
    grids = mask_grids([encode_rle(mask) for mask in masks], boxes, CELLS)
    return Targets(torch.from_numpy(boxes), torch.full((len(masks),), of_class), grids)


def detector(**options: Any) -> Mask2Former:
    torch.manual_seed(0)
    config = config_of("mask2former")
    built = build_retrained(replace(config, detector=replace(config.detector, **options)), 3)
    assert isinstance(built, Mask2Former)
    return built


def losses(model: Mask2Former, truth: list[Targets], step: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return model.training_losses(images(), SIZES_HW, truth, step).losses


# --- what there is to learn


def test_a_map_has_of_each_cell_the_share_that_is_the_object() -> None:
    full = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    (drawn,) = map_masks(full, torch.tensor([[2.0, 4, 6, 8]]), (3, 4), 4)  # half of two cells of the second row
    assert drawn.tolist() == pytest.approx(np.array([[0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]))
    (pixel,) = map_masks(full, torch.tensor([[15.0, 11, 16, 12]]), (3, 4), 4)
    assert pixel[2, 3].item() == pytest.approx(1 / 16)
    assert pixel.sum().item() == pytest.approx(1 / 16)


def test_a_map_of_a_mask_is_the_mean_of_its_pixels() -> None:
    boxes = np.array([box_of(mask) for mask in DISCS], np.float32)
    grids = mask_grids([encode_rle(mask) for mask in DISCS], boxes, CELLS)
    drawn = map_masks(grids, torch.from_numpy(boxes), (HEIGHT // 4, WIDTH // 4), 4)
    wanted = nn.functional.avg_pool2d(torch.from_numpy(np.stack(DISCS)).float()[:, None], 4)[:, 0]
    assert (drawn - wanted).abs().max() < 0.02


def test_no_masks_draw_no_maps() -> None:
    assert NONE.masks is not None
    assert map_masks(NONE.masks, NONE.boxes_xyxy, (3, 4), 4).shape == (0, 3, 4)


# --- losses


def test_losses_are_transformers() -> None:
    model = detector()
    generator = torch.Generator().manual_seed(0)
    layers = [
        Predictions(torch.randn(2, 10, 4, generator=generator), torch.randn(2, 10, 16, 24, generator=generator))
        for _ in range(3)
    ]
    drawn = torch.from_numpy(np.stack([mask[::4, ::4] for mask in DISCS])).float()
    objects = [Objects(torch.tensor([1, 2]), drawn), Objects(torch.tensor([0]), drawn[:1])]
    torch.manual_seed(3)
    ours = model.criterion.losses(layers, objects, NO_DROP, 0).losses

    stock = Mask2FormerLoss(model.head.config, model.criterion.weights)
    further = [
        {"masks_queries_logits": layer.mask_logits, "class_queries_logits": layer.class_logits} for layer in layers[:-1]
    ]
    torch.manual_seed(3)
    theirs = stock(
        layers[-1].mask_logits, layers[-1].class_logits, [o.masks for o in objects], [o.class_index for o in objects],
        further,
    )  # fmt: skip
    for name, stock_name, weight in (("class", "cross_entropy", 2), ("mask", "mask", 5), ("dice", "dice", 5)):
        wanted = weight * sum(value for key, value in theirs.items() if key.startswith(f"loss_{stock_name}"))
        assert ours[name].item() == pytest.approx(wanted.item(), rel=1e-6)


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
    found = losses(model, truth)
    assert list(found) == ["class", "mask", "dice"]
    assert all(loss.isfinite() for loss in found.values())
    sum(found.values()).backward()
    embedder = model.head.transformer_module.decoder.mask_predictor.mask_embedder
    learns = any(p.grad is not None and bool((p.grad != 0).any()) for p in embedder.parameters())
    assert learns == any(len(of_view.boxes_xyxy) for of_view in truth)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)  # workers wait for all of them


def test_in_half_precision_losses_are_nearly_the_same() -> None:
    found = []
    for enabled in (False, True):
        model = detector().train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(losses(model, [targets(*DISCS), NONE]))
    assert {loss.dtype for of in found for loss in of.values()} == {torch.float32}
    for name, loss in found[0].items():
        assert found[1][name].item() == pytest.approx(loss.item(), rel=0.1)


def test_dropped_queries_teach_neither_class_nor_mask() -> None:
    truth = [targets(*DISCS), targets(disc(15, 20, 10))]
    plain, all_dropped = (
        losses(detector(drop=QueryDropConfig(enabled=enabled, percentile=0)).train(), truth)
        for enabled in (False, True)
    )
    assert all_dropped["mask"].item() == all_dropped["dice"].item() == 0
    assert 0 < all_dropped["class"] < plain["class"]


def test_a_drop_of_one_layer_leaves_the_others() -> None:
    truth = [targets(*DISCS), targets(disc(15, 20, 10))]
    per_layer = [
        losses(detector(drop=QueryDropConfig(enabled=True, percentile=0, layers=layers)).train(), truth)["class"].item()
        for layers in ((), (0,), (1,), (2,), (0, 1, 2))
    ]
    plain = losses(detector().train(), truth)["class"].item()
    saved = [plain - value for value in per_layer]
    assert saved[0] == pytest.approx(saved[4], rel=1e-5)
    assert saved[0] == pytest.approx(sum(saved[1:4]), rel=1e-4)
    assert all(value > 0 for value in saved)


def test_a_percentile_left_to_the_losses_is_chosen_from_them() -> None:
    model = detector(drop=QueryDropConfig(enabled=True, percentile="auto", start_step=1)).train()
    losses(model, [targets(*DISCS), NONE], step=0)
    assert model.chosen_thresholds() == {}
    assert model.loss_history is not None
    assert model.loss_history.seen.item() == 2


# --- what decays, and what is found


def test_norms_and_embeddings_do_not_decay() -> None:
    model = detector()
    decays = {id(p): g["weight_decay"] > 0 for g in model.parameter_groups(model.config) for p in g["params"]}
    assert not decays[id(model.head.transformer_module.queries_embedder.weight)]
    assert not decays[id(model.head.transformer_module.decoder.layernorm.bias)]
    (of_levels,) = (p for name, p in model.named_parameters() if name.endswith("level_embed"))
    assert not decays[id(of_levels)]
    assert decays[id(model.head.class_predictor.weight)]


def test_places_of_swin_do_not_decay() -> None:
    pyramid = build_pyramid("swin_tiny")
    rates = RetrainConfig(weight_decay=0.05)
    decays = {
        id(p): g["weight_decay"] > 0
        for g in parameter_groups(pyramid, pyramid, rates, still=NORMS)
        for p in g["params"]
    }
    tables = [p for name, p in pyramid.named_parameters() if name.endswith("relative_position_bias_table")]
    assert len(tables) == 12
    assert not any(decays[id(p)] for p in tables)
    assert sum(decays.values()) > 12


def test_masks_lie_in_their_boxes_and_touch_their_sides() -> None:
    model = detector()
    found, _ = model.predict(images(), SIZES_HW)
    assert found.masks is not None
    assert len(found.boxes_xyxy)
    assert found.masks.shape[1:] == (CELLS, CELLS)
    for rle, (x1, y1, x2, y2) in zip(
        paste_masks(found.masks, found.boxes_xyxy, (HEIGHT, WIDTH)), found.boxes_xyxy.tolist(), strict=True
    ):
        y, x = np.nonzero(decode_rle(rle))
        assert [x.min(), y.min(), x.max() + 1, y.max() + 1] == pytest.approx([x1, y1, x2, y2], abs=1.01)


def test_queries_that_draw_nothing_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector()
    nothing = Predictions(torch.zeros(2, 10, 4), torch.full((2, 10, 16, 24), -9.0))
    monkeypatch.setattr(model, "forward", lambda _: [nothing])
    found, _ = model.predict(images(), SIZES_HW)
    assert len(found.boxes_xyxy) == 0
    assert found.masks is not None
    assert found.masks.shape == (0, CELLS, CELLS)


def test_a_score_is_the_classs_times_how_certain_the_mask_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector(max_detections=1)
    class_logits, mask_logits = torch.full((2, 10, 4), -9.0), torch.full((2, 10, 16, 24), -20.0)
    class_logits[:, :, 3] = 9  # no object, but for one query
    class_logits[0, 4] = torch.tensor([0.0, 2.0, 0.0, 0.0])
    mask_logits[0, 4, :, :12] = 20
    monkeypatch.setattr(model, "forward", lambda _: [Predictions(class_logits, mask_logits)])
    found, _ = model.predict(images(), SIZES_HW)
    assert found.class_index.tolist() == [1]
    assert found.score.item() == pytest.approx(torch.tensor([0.0, 2.0, 0.0, 0.0]).softmax(0)[1].item(), rel=0.02)
    assert found.boxes_xyxy[0].tolist() == pytest.approx([0, 0, 48, 64], abs=1)
