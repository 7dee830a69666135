import copy

import pytest
import torch

from tests.support.sams import in_double, tiny_sam
from tests.support.tolerances import assert_near, roundings_in
from weaksam.sam.kernels import KERNELS, choose_kernels
from weaksam.sam.kernels.exact import ExactKernels
from weaksam.sam.kernels.half import HalfKernels
from weaksam.sam.kernels.stock import StockKernels
from weaksam.sam.precision import halve
from weaksam.sam.small import build_small_sam

ALL_KERNELS = [pytest.param(kernels, id=type(kernels).__name__) for kernels in KERNELS]
BUILDERS = [pytest.param(build_small_sam, id="built-in"), pytest.param(tiny_sam, id="linear-patches-of-16")]
DEVICES = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
# From the finest: where the kernels compute in several, the finest shows mistakes best.
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=BUILDERS)
def sams(request, kernels):
    """A SAM that the kernels run, and the same one in float64 on the CPU, for the stock calls."""
    built = request.param().eval().requires_grad_(False)
    for device in DEVICES:
        for dtype in DTYPES:
            sam = copy.deepcopy(built).to(device, dtype)
            if kernels.runs(sam):
                return sam, in_double(sam).cpu()
    pytest.skip(f"{type(kernels).__name__} runs no SAM of these sizes on {' or '.join(DEVICES)}")


def random(sam, *shape):
    """Numbers of the model's own precision, on its device and as float64 on the CPU."""
    numbers = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))
    numbers = numbers.to(sam.device, next(sam.parameters()).dtype)
    return numbers, numbers.double().cpu()


@pytest.mark.parametrize("tokens", [7, 5, 12], ids="{}-tokens".format)
@pytest.mark.parametrize("prompts", [1, 5], ids="{}-prompts".format)
@pytest.mark.parametrize("kernels", ALL_KERNELS)
def test_tokens_and_image_attend_as_in_the_stock_transformer_but_for_rounding(kernels, sams, prompts, tokens):
    sam, in_float64 = sams
    transformer = in_float64.mask_decoder.transformer
    channels = transformer.embedding_dim
    of_prompts, image, image_pe = (
        random(sam, *shape) for shape in ((prompts, tokens, channels), (1, channels, 6, 5), (1, channels, 6, 5))
    )
    image_pe = [part.flip(-1) for part in image_pe]
    pictures = [part[1].expand(prompts, -1, -1, -1) for part in (image, image_pe)]
    expected = transformer(*pictures, of_prompts[1])
    image_tokens = [part[0].flatten(2).transpose(1, 2) for part in (image, image_pe)]
    found = kernels.attend(sam.mask_decoder.transformer, of_prompts[0], *image_tokens)
    for ours, stock_one in zip(found, expected, strict=True):
        assert_near(ours, stock_one, length=roundings_in(transformer), dtype=of_prompts[0].dtype)


@pytest.mark.parametrize("prompts", [0, 1, 3], ids="{}-prompts".format)
@pytest.mark.parametrize("kernels", ALL_KERNELS)
def test_masks_are_upscaled_and_weighed_as_by_the_stock_layers_but_for_rounding(kernels, sams, prompts):
    sam, in_float64 = sams
    upscaling, channels = in_float64.mask_decoder.output_upscaling, in_float64.mask_decoder.transformer_dim
    image, weights = random(sam, prompts, 3, 4, channels), random(sam, prompts, 2, channels // 8)
    upscaled = upscaling(image[1].permute(0, 3, 1, 2))
    expected = torch.einsum("pkc,pchw->pkhw", weights[1], upscaled)
    found = kernels.mask_logits(sam.mask_decoder, image[0], weights[0])
    assert found.shape == (prompts, 2, 12, 16)
    assert_near(found, expected, length=roundings_in(upscaling) + channels // 8, dtype=image[0].dtype)


def test_a_sam_on_the_cpu_runs_on_exact_algebra_and_the_stock_calls_run_any():
    sam = build_small_sam()
    assert type(choose_kernels(sam)) is ExactKernels
    assert type(choose_kernels(halve(build_small_sam()))) is HalfKernels
    assert isinstance(KERNELS[-1], StockKernels)
    assert KERNELS[-1].runs(sam)
