"""The built-in small SAM: segment-anything's own classes at a size that runs and trains on two CPU cores.

It takes 128 x 128 pixels instead of 1024 and splits them into 16 x 16 tokens. One thing differs from the published
models: a small convolutional stem in place of the linear patch embedding, without which so little training does not get
far. The prompt encoder and the mask decoder are the published ones, so everything that prompts a SAM
(``SamPredictor``, ``SamAutomaticMaskGenerator``, ``weaksam.sam.prompt``) works on it unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

IMAGE_SIZE = 128  # pixels, the longer side after resizing
PATCH_SIZE = 8  # pixels per token
GRID_SIZE = IMAGE_SIZE // PATCH_SIZE
STEM_CHANNELS = (32, 64)  # at 1/2 and 1/4 of the image
ENCODER_DIM = 160
ENCODER_DEPTH = 5
ENCODER_HEADS = 5
WINDOW_SIZE = 8  # tokens
GLOBAL_ATTENTION = (2, 4)  # blocks that attend over all tokens; the others within windows
PROMPT_DIM = 96
DECODER_MLP_DIM = 256
DECODER_HEADS = 6
PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, as published
PIXEL_STD = (58.395, 57.12, 57.375)


class ConvStem(nn.Module):
    """Three strided convolutions and one more: image ``[B, 3, H, W]`` to tokens ``[B, H / 8, W / 8, ENCODER_DIM]``."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (3, *STEM_CHANNELS, ENCODER_DIM)
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), LayerNorm2d(after), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(ENCODER_DIM, ENCODER_DIM, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Tokens with channels last, as ``ImageEncoderViT`` expects of its patch embedding."""
        tokens: Tensor = self.layers(image)
        return tokens.permute(0, 2, 3, 1)


def build_small_sam() -> Sam:
    """The network with random weights, in evaluation mode; ``builtin:sam`` are the trained ones."""
    encoder = ImageEncoderViT(
        img_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        embed_dim=ENCODER_DIM,
        depth=ENCODER_DEPTH,
        num_heads=ENCODER_HEADS,
        out_chans=PROMPT_DIM,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=False,
        window_size=WINDOW_SIZE,
        global_attn_indexes=GLOBAL_ATTENTION,
    )
    encoder.patch_embed = ConvStem()
    nn.init.normal_(encoder.pos_embed, std=0.02)
    return around(encoder, grid_size=GRID_SIZE, image_size=IMAGE_SIZE, pixel_mean=PIXEL_MEAN, pixel_std=PIXEL_STD)


def around(
    encoder: nn.Module, *, grid_size: int, image_size: int, pixel_mean: Sequence[float], pixel_std: Sequence[float]
) -> Sam:
    """Return an image encoder with the prompt encoder and the mask decoder of small SAMs, in evaluation mode.

    Args:
        encoder: images ``[B, 3, image_size, image_size]`` -> ``[B, PROMPT_DIM, grid_size, grid_size]``.
        grid_size: tokens of a side.
        image_size: pixels of a side.
        pixel_mean: what is taken off pixels of 0..255 before the encoder sees them, of R, G and B.
        pixel_std: what they are then divided by.
    """
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=PROMPT_DIM,
            image_embedding_size=(grid_size, grid_size),
            input_image_size=(image_size, image_size),
            mask_in_chans=8,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=PROMPT_DIM, mlp_dim=DECODER_MLP_DIM, num_heads=DECODER_HEADS
            ),
            transformer_dim=PROMPT_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=PROMPT_DIM,
        ),
        pixel_mean=list(pixel_mean),
        pixel_std=list(pixel_std),
    )
    return sam.eval()
