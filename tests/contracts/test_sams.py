"""What every model of SAMS owes its callers; those that do not ship are built without numbers, to look at their shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from weaksam.config import SamConfig
from weaksam.io.weights import PUBLISHED
from weaksam.masks_np import decode_rle
from weaksam.sam import SAMS
from weaksam.sam.encode import encode_image
from weaksam.sam.load import load_sam
from weaksam.sam.measure import kept_masks, measure_prompts
from weaksam.sam.prompt import Prompt

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
POINTS = np.array([[45, 30], [10, 50]], dtype=np.float32)
PROMPTS = [
    Prompt(points_xy=POINTS[:1]),
    Prompt(points_xy=POINTS),
    Prompt(box_xyxy=np.array([20, 10, 80, 50], dtype=np.float32)),
]
every_sam = pytest.mark.parametrize("name", SAMS)


@every_sam
def test_it_is_built_with_the_input_side_that_is_said(name: str) -> None:
    with torch.device("meta"):
        sam = SAMS[name].build()
    assert isinstance(sam, Sam)
    assert sam.image_encoder.img_size == SAMS[name].input_side


@every_sam
def test_its_weights_are_known(name: str) -> None:
    assert bool(SAMS[name].weights) != (name in PUBLISHED)


@pytest.mark.parametrize("name", [name for name in SAMS if SAMS[name].weights])
def test_a_model_that_ships_answers_every_form_of_prompt(name: str) -> None:
    sam = load_sam(SamConfig(name=name))
    assert not sam.training
    assert not any(parameter.requires_grad for parameter in sam.parameters())
    encoded = encode_image(sam, IMAGE)
    assert encoded.input_hw == (round(60 * SAMS[name].input_side / 90), SAMS[name].input_side)
    assert encoded.features.shape == (1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    found = measure_prompts(sam, encoded, PROMPTS, stability_offset=1.0, keep_logits=True)
    assert (found.prompt_index.tolist(), found.mask_index.tolist()) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2] * 3)
    assert found.boxes_xyxy.shape == (9, 4)
    assert all(numbers.shape == (9,) for numbers in (found.empty, found.predicted_iou, found.stability))
    assert found.low_res_logits is not None
    masks = [decode_rle(rle) for rle in kept_masks(sam, encoded, found.low_res_logits)]
    assert [mask.shape for mask in masks] == [(60, 90)] * 9
    assert [not mask.any() for mask in masks] == found.empty.tolist()
