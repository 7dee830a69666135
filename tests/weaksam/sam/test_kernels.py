import pytest
import torch

from tests.support.sams import in_double, tiny_sam
from tests.support.tolerances import assert_near, roundings_in
from weaksam.sam.kernels import KERNELS, choose_kernels
from weaksam.sam.kernels.exact import ExactKernels
from weaksam.sam.kernels.stock import StockKernels
from weaksam.sam.small import build_small_sam

ALL_KERNELS = [pytest.param(kernels, id=type(kernels).__name__) for kernels in KERNELS]
BUILDERS = [pytest.param(build_small_sam, id="built-in"), pytest.param(tiny_sam, id="linear-patches-of-16")]


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("tokens", [7, 5, 12], ids="{}-tokens".format)
@pytest.mark.parametrize("prompts", [1, 5], ids="{}-prompts".format)
@pytest.mark.parametrize("kernels", ALL_KERNELS)
def test_tokens_and_image_attend_as_in_the_stock_transformer_but_for_rounding(kernels, prompts, tokens, build):
    sam = in_double(build())
    if not kernels.runs(sam):
        pytest.skip("these kernels run other SAMs")
    transformer = sam.mask_decoder.transformer
    channels = transformer.embedding_dim
    of_prompts, image, image_pe = (
        random(prompts, tokens, channels),
        random(1, channels, 6, 5),
        random(1, channels, 5, 6),
    )
    image_pe = image_pe.transpose(2, 3)
    with torch.no_grad():
        expected = transformer(image.expand(prompts, -1, -1, -1), image_pe.expand(prompts, -1, -1, -1), of_prompts)
        found = kernels.attend(
            transformer, of_prompts, image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
        )
    for ours, stock_one in zip(found, expected, strict=True):
        assert_near(ours, stock_one, length=roundings_in(transformer))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("prompts", [0, 1, 3], ids="{}-prompts".format)
@pytest.mark.parametrize("kernels", ALL_KERNELS)
def test_masks_are_upscaled_and_weighed_as_by_the_stock_layers_but_for_rounding(kernels, prompts, build):
    sam = in_double(build())
    if not kernels.runs(sam):
        pytest.skip("these kernels run other SAMs")
    decoder = sam.mask_decoder
    image = random(prompts, 3, 4, decoder.transformer_dim)
    weights = random(prompts, 2, decoder.transformer_dim // 8)
    with torch.no_grad():
        upscaled = decoder.output_upscaling(image.permute(0, 3, 1, 2))
        expected = torch.einsum("pkc,pchw->pkhw", weights, upscaled)
        found = kernels.mask_logits(decoder, image, weights)
    assert found.shape == (prompts, 2, 12, 16)
    length = roundings_in(decoder.output_upscaling) + weights.shape[-1]
    assert_near(found, expected, length=length)


def test_a_sam_on_the_cpu_runs_on_exact_algebra_and_the_stock_calls_run_any():
    sam = build_small_sam()
    assert isinstance(choose_kernels(sam), ExactKernels)
    assert isinstance(KERNELS[-1], StockKernels)
    assert KERNELS[-1].runs(sam)
