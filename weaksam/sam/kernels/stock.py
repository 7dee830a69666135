"""segment-anything's own layers, called as its mask decoder calls them: the reference of the other kernels."""

from __future__ import annotations

from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from torch import Tensor


class StockKernels:
    """``DecoderKernels`` that copy the image for each prompt and compute every layer as it is written."""

    def runs(self, sam: Sam) -> bool:  # noqa: ARG002
        """Any SAM, anywhere."""
        return True

    def attend(
        self, transformer: TwoWayTransformer, tokens: Tensor, image: Tensor, image_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``DecoderKernels``."""
        # The transformer flattens height and width at once, so that a picture of one column is as good as any.
        as_pictures = [part.transpose(1, 2)[..., None].expand(len(tokens), -1, -1, -1) for part in (image, image_pe)]
        attended: tuple[Tensor, Tensor] = transformer(*as_pictures, tokens)
        return attended

    def mask_logits(self, decoder: MaskDecoder, image: Tensor, weights: Tensor) -> Tensor:
        """See ``DecoderKernels``."""
        upscaled: Tensor = decoder.output_upscaling(image.permute(0, 3, 1, 2))
        return (weights @ upscaled.flatten(2)).view(*weights.shape[:2], *upscaled.shape[2:])
