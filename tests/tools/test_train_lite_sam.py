"""How the small SAM for photographs is trained and measured, on pictures made here."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tools.paste_shapes import paste_shapes
from tools.train_lite_sam import (
    Recipe,
    Source,
    begun_sam,
    compose,
    draw_source,
    measure,
    train,
    training_loss,
)
from weaksam.config import SamConfig
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.sam.lite import IMAGE_SIZE
from weaksam.sam.load import load_sam

TINY = Recipe(steps=2, images=3, batch_size=2, warmup_steps=1)
PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def source() -> Source:
    return draw_source(TINY, [PHOTOGRAPH])


def test_a_picture_is_of_one_drawing_or_of_four_with_numbers_of_their_own(source: Source) -> None:
    rng = np.random.default_rng(0)
    image, regions, _ = compose(source, replace(TINY, four_drawings=1.0), rng)
    assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert regions.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    half = IMAGE_SIZE // 2
    for corner in range(4):
        rows, columns = (
            slice(corner // 2 * half, corner // 2 * half + half),
            slice(corner % 2 * half, corner % 2 * half + half),
        )
        numbers = np.unique(regions[0, rows, columns])
        assert set(numbers[1:].tolist()) <= set(range(40 * corner + 1, 40 * corner + 41))
        assert len(numbers) > 1
    _, one, _ = compose(source, replace(TINY, four_drawings=0.0), rng)
    assert any(np.array_equal(one, drawn) for drawn in source.whole.regions)


def test_grounds_are_photographs_and_objects_keep_their_colours_where_the_recipe_says_so(source: Source) -> None:
    recipe = replace(TINY, four_drawings=0.0, filled=0.0)
    white = replace(source, photographs=[np.full((90, 120, 3), 255, np.uint8)])
    for share in (0.0, 1.0):
        image, regions, on_photograph = compose(white, replace(recipe, on_photograph=share), np.random.default_rng(3))
        assert on_photograph == bool(share)
        colours = image[(regions[0] == 0) & (regions[2] == 0)].astype(int)
        of_one_colour = (np.abs(colours - np.median(colours, axis=0)).max(axis=1) <= 2).mean()
        assert (of_one_colour > 0.8) == bool(share)


def test_a_batch_is_decided_by_its_step_and_the_trunk_does_not_learn(source: Source) -> None:
    sam = begun_sam().train()
    (loss, parts), (again, _) = training_loss(sam, source, TINY, 1), training_loss(sam, source, TINY, 1)
    assert torch.equal(loss, again)
    assert not torch.equal(loss, training_loss(sam, source, TINY, 2)[0])
    assert 0 <= parts["iou"] <= 1
    loss.backward()
    learning = {name for name, parameter in sam.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith("image_encoder.trunk.") for name in learning)
    assert any(name.startswith("image_encoder.laterals.") for name in learning)
    assert any(name.startswith("mask_decoder.") for name in learning)


def test_it_begins_with_the_small_sams_decoder() -> None:
    small = load_file(BUILTIN_WEIGHTS["sam"].path)
    begun = begun_sam().state_dict()
    for name in ("mask_decoder.iou_token.weight", "prompt_encoder.not_a_point_embed.weight"):
        assert torch.equal(begun[name], small[name].float())


def test_what_is_written_loads_as_the_installed_one_does(tmp_path: Path, source: Source) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "photos" / "a.png")
    train(TINY, tmp_path / "photos", tmp_path / "out.safetensors")
    written, shipped = load_file(tmp_path / "out.safetensors"), load_file(BUILTIN_WEIGHTS["sam_lite"].path)
    assert {name: value.shape for name, value in written.items()} == {
        name: value.shape for name, value in shipped.items()
    }


def test_recall_is_of_the_first_boxes_of_each_image(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "photos" / "a.png")
    paste_shapes(tmp_path / "photos", tmp_path / "pasted", {"train": 2}, size=192, seed=0)
    recall = measure(load_sam(SamConfig(name="lite")), str(tmp_path / "pasted"), "train")
    assert all(0 <= share <= 1 for of_count in recall.values() for share in of_count)
    for fewer, more in pairwise(recall.values()):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))
    assert all(a >= b for of_count in recall.values() for a, b in pairwise(of_count))
    assert recall[200][0] > 0
