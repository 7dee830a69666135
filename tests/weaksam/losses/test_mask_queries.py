"""Losses of masks where some of an image is undecided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weaksam.config import MaskQueriesConfig, QueryDropConfig
from weaksam.losses.mask_queries import Criterion, Objects
from weaksam.networks.mask_queries import Predictions, architecture_of

CLASSES, QUERIES, CELLS = 3, 4, 8
OPTIONS = MaskQueriesConfig(dim=32, heads=4, queries=QUERIES, points=64)


def layers(seed: int = 0) -> list[Predictions]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Predictions(
            torch.randn(2, QUERIES, CLASSES + 1, generator=generator).requires_grad_(),
            torch.randn(2, QUERIES, CELLS, CELLS, generator=generator).requires_grad_(),
        )
        for _ in range(2)
    ]


def objects(decided: Tensor | None) -> list[Objects]:
    left = torch.zeros(CELLS, CELLS)
    left[:, :4] = 1
    return [
        Objects(torch.tensor([0, 2]), torch.stack([left, 1 - left]), decided),
        Objects(torch.tensor([1]), left[None], decided),
    ]


def losses(said: list[Predictions], truth: list[Objects]) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return Criterion(architecture_of(OPTIONS, CLASSES)).losses(said, truth, QueryDropConfig(), 0).losses


def test_where_all_is_decided_they_are_transformers() -> None:
    said = layers()
    expected = losses(said, objects(None))
    found = losses(said, objects(torch.ones(CELLS, CELLS)))
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )


def test_what_is_undecided_teaches_no_mask_and_matches_nothing() -> None:
    upper = torch.zeros(CELLS, CELLS)
    upper[:4] = 1
    said = layers()
    torch.stack(list(losses(said, objects(upper)).values())).sum().backward()
    for layer in said:
        assert layer.mask_logits.grad is not None
        assert layer.mask_logits.grad[:, :, :3].any()
        assert not layer.mask_logits.grad[:, :, 5:].any()  # a point between two rows is of both
    # Masks that say the opposite there are matched as before.
    other = [Predictions(layer.class_logits.detach(), layer.mask_logits.detach().clone()) for layer in said]
    for layer in other:
        layer.mask_logits[:, :, 5:] *= -7
    before, after = (losses(these, objects(upper)) for these in (said, other))
    assert after["class"].item() == pytest.approx(before["class"].item(), rel=1e-4)


def test_an_image_of_which_nothing_is_decided_teaches_nothing() -> None:
    said = layers()
    first, _ = objects(torch.ones(CELLS, CELLS))
    nothing = Objects(torch.zeros(0, dtype=torch.int64), torch.zeros(0, CELLS, CELLS), torch.zeros(CELLS, CELLS))
    torch.stack(list(losses(said, [first, nothing]).values())).sum().backward()
    for layer in said:
        for logits in layer:
            assert logits.grad is not None
            assert logits.grad[0].any()
            assert not logits.grad[1].any()
    assert [value.item() for value in losses(said, [nothing, nothing]).values()] == [0, 0, 0]
