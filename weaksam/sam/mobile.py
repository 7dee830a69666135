"""MobileSAM (Zhang et al., arXiv 2306.14289): SAM whose image encoder is TinyViT-5M, small enough for CPUs.

The encoder is timm's, with what MobileSAM changes: the last stage keeps its resolution, and SAM's neck follows. Prompt encoder
and mask decoder are those of the published SAMs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from weaksam.sam.small import PIXEL_MEAN, PIXEL_STD

IMAGE_SIDE = 1024  # pixels, the longer side after resizing
_ENCODER_DIM = 320
_DIM = 256  # of features, prompts and decoder
_ENCODER = "image_encoder."
# Beginnings of names in the published file -> those of timm's TinyViT, which counts a stage's downsampling to the next one.
_PARTS = {
    "patch_embed.seq.0.": "patch_embed.conv1.",
    "patch_embed.seq.2.": "patch_embed.conv2.",
    **{f"layers.{n}.downsample.": f"stages.{n + 1}.downsample." for n in range(3)},
    **{f"layers.{n}.blocks.": f"stages.{n}.blocks." for n in range(4)},
    "norm_head.": "head.norm.",  # of the classifier: there, and never applied
}
_CLASSIFIER = ("head.weight", "head.bias")


class TinyVitEncoder(nn.Module):
    """TinyViT-5M and SAM's neck: ``[B, 3, 1024, 1024]``, normalised and padded -> features ``[B, dim, 64, 64]``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        import timm  # slow to import

        self.img_size = IMAGE_SIDE
        body: Any = timm.create_model("tiny_vit_5m_224", num_classes=0, global_pool="")
        body.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.body = body
        self.neck = nn.Sequential(
            nn.Conv2d(_ENCODER_DIM, dim, kernel_size=1, bias=False),
            LayerNorm2d(dim),
            nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(dim),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, at a sixteenth of the images' sides."""
        features: Tensor = self.neck(self.body.forward_features(images))
        return features


def build_mobile_sam() -> Sam:
    """Return the network with random weights, in evaluation mode."""
    grid = IMAGE_SIDE // 16
    sam = Sam(
        image_encoder=TinyVitEncoder(_DIM),
        prompt_encoder=PromptEncoder(
            embed_dim=_DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(IMAGE_SIDE, IMAGE_SIDE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=_DIM, mlp_dim=2048, num_heads=8),
            transformer_dim=_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=_DIM,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    return sam.eval()


def from_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the published file under the names of ``build_mobile_sam``, without the encoder's class layer.

    Of two that would get one name the second keeps its own: they are another network's.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix(_ENCODER)
        if name == key or name not in _CLASSIFIER:
            new = key if name == key or name.startswith("neck.") else _own_name(name)
            renamed[key if new in renamed else new] = value
    return renamed


def _own_name(name: str) -> str:
    """Return the name of a tensor of the encoder's body, given without its beginning."""
    part = next((part for part in _PARTS if name.startswith(part)), "")
    rest = name.removeprefix(part).replace(".c.", ".conv.", 1)
    rest = f"conv.{rest.removeprefix('c.')}" if rest.startswith("c.") else rest
    return f"{_ENCODER}body.{_PARTS.get(part, part)}{rest}"
