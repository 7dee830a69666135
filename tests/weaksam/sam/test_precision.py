import copy

import numpy as np
import pytest
import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

from tests.support.sams import drawn_image, lively_sam, noise, tiny_sam, trained_sam
from weaksam.boxes_np import iou_float64
from weaksam.config import PromptsConfig, SamConfig
from weaksam.datasets.shapes import data_set_seed, draw
from weaksam.errors import ConfigError
from weaksam.proposals.proposer import Proposer
from weaksam.sam import precision
from weaksam.sam.encode import encode_image
from weaksam.sam.load import load_sam
from weaksam.sam.measure import measure_prompts
from weaksam.sam.precision import halve
from weaksam.sam.prompt import SINGLE_MASK, Prompt, decode_prompts

HALVES = [torch.bfloat16, torch.float16]  # of a CPU, of a GPU


def published_shape():
    """An untrained SAM of linear patches with relative positions, as ViT-B, L and H are."""
    torch.manual_seed(0)
    return tiny_sam().eval().requires_grad_(False)


def built_in():
    return copy.deepcopy(trained_sam())


def of_photographs():
    return load_sam(SamConfig(name="lite"))


def test_products_are_halved_and_heads_and_norms_of_the_encoder_are_not():
    sam = load_sam(SamConfig(name="builtin", precision="fast"))
    for module in sam.image_encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.dtype == torch.bfloat16
        elif isinstance(module, nn.LayerNorm | LayerNorm2d):
            assert module.weight.dtype == torch.float32
    decoder = sam.mask_decoder
    assert {p.dtype for p in decoder.transformer.parameters()} == {torch.bfloat16}
    single = (decoder.iou_prediction_head, decoder.output_hypernetworks_mlps, sam.prompt_encoder)
    assert {p.dtype for part in single for p in part.parameters()} == {torch.float32}


def test_exact_is_what_it_was():
    sam = load_sam(SamConfig(name="builtin"))
    assert {p.dtype for p in sam.parameters()} == {torch.float32}
    assert type(sam.image_encoder) is type(trained_sam().image_encoder)


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("build", [published_shape, built_in, of_photographs])
def test_what_leaves_a_halved_sam_is_float32_and_near_to_the_exact_answer(monkeypatch, build, half):
    monkeypatch.setattr(precision, "half_type", lambda _device: half)
    image, prompts = drawn_image(75, 100), [Prompt(points_xy=np.array([[20, 30]], np.float32))]
    exact = build()
    fast = halve(build())
    of_exact, of_fast = encode_image(exact, image), encode_image(fast, image)
    assert of_fast.features.dtype == torch.float32
    assert torch.cosine_similarity(of_fast.features.flatten(), of_exact.features.flatten(), dim=0) > 0.999
    (one,), (other,) = decode_prompts(exact, of_exact, prompts), decode_prompts(fast, of_fast, prompts)
    assert (other.low_res_logits.dtype, other.predicted_iou.dtype) == (torch.float32, torch.float32)
    assert other.low_res_logits.shape == one.low_res_logits.shape
    assert torch.cosine_similarity(other.low_res_logits.flatten(), one.low_res_logits.flatten(), dim=0) > 0.98
    measured = measure_prompts(fast, of_fast, prompts, stability_offset=1.0)
    assert (measured.boxes_xyxy.dtype, measured.stability.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_a_halved_sam_finds_the_proposals_of_the_exact_one(monkeypatch, half):
    monkeypatch.setattr(precision, "half_type", lambda _device: half)
    assert share_found("cpu") >= 0.7


@pytest.mark.gpu
def test_a_gpu_in_half_precision_finds_what_it_finds_in_single():
    assert share_found("cuda") >= 0.7


def share_found(device):
    """Share of the proposals of drawings that the SAM in half precision has too: near-ties may fall otherwise."""
    prompts = PromptsConfig(sources=("grid",), points_per_side=8)
    exact, fast = (
        Proposer(None, load_sam(SamConfig(name="builtin", precision=wanted), device), prompts=prompts)
        for wanted in ("exact", "fast")
    )
    found = []
    for number in range(6):
        image = draw(data_set_seed(0, "test", number), 128).image
        overlaps = iou_float64(exact(image).boxes_xyxy, fast(image).boxes_xyxy)
        found += (overlaps.max(axis=1) > 0.8).tolist()
    assert len(found) > 12
    return np.mean(found)


def test_a_box_is_segmented_alike():
    image = np.full((128, 128, 3), 230, np.uint8)
    image[40:90, 30:80] = (200, 30, 30)
    sam = load_sam(SamConfig(name="builtin", precision="fast"))
    prompt = Prompt(box_xyxy=np.array([30, 40, 80, 90], np.float32))
    (decoded,) = decode_prompts(sam, encode_image(sam, image), [prompt], mask_indices=(SINGLE_MASK,))
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[20:45, 15:40] = True
    mask = decoded.low_res_logits[0] > sam.mask_threshold
    assert (mask & inside).sum() / (mask | inside).sum() > 0.8


def test_numbers_too_large_for_half_precision_are_refused_and_not_made_masks_of():
    sam = halve(lively_sam())
    sam.mask_decoder.iou_token.weight.mul_(1e38)
    encoded = encode_image(sam, noise(60, 80))
    with pytest.raises(ConfigError, match=r"larger ones with these weights; set sam\.precision=exact"):
        list(decode_prompts(sam, encoded, [Prompt(points_xy=np.array([[20, 30]], np.float32))]))
