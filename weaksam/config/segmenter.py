"""Options of a segmenter that learns from label maps, and of running it over images (FMA method 7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from weaksam.config.checks import require, require_length
from weaksam.config.choices import Choice, Member
from weaksam.config.mask_queries import MaskQueriesConfig
from weaksam.config.precision import Precision, TrainingPrecision
from weaksam.config.weights import NO_WEIGHTS, NotInKey, Weights

_OF_SMALL = Weights("builtin:stem")


@dataclass(frozen=True, kw_only=True)
class SegmenterNetworkConfig(Member):
    """What all segmenters share of their options."""

    halves: ClassVar[bool] = True  # whether it finds the same in half precision

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """The options by which a training takes statistics over a pass, so that smaller passes would change it."""
        return ()


@dataclass(frozen=True, kw_only=True)
class DeepLabConfig(SegmenterNetworkConfig):
    """DeepLab v3+: atrous spatial pyramid pooling, and a decoder of stride 4; the defaults are for drawings on a CPU."""

    implementation: ClassVar[str] = "weaksam.segmentation.segmenters.deeplab:DeepLab"

    name: str = "deeplab"
    dim: int = 64  # channels of the pooling and of the decoder (published: 256); a multiple of 16
    fine_dim: int = 32  # channels that the finest map is brought to (published: 48); a multiple of 16
    rates: tuple[int, ...] = (2, 4, 6)  # dilations of the pooling, in cells (published: 6, 12, 18 at stride 16)
    dropout: float = 0.1  # of channels before the last layer
    # "balanced": an image's objects teach as much as its background, which most pixels are; "pixels": each pixel as much.
    loss: Literal["balanced", "pixels"] = "balanced"

    def __post_init__(self) -> None:
        for option in ("dim", "fine_dim"):
            value = getattr(self, option)
            require(value >= 16 and value % 16 == 0, option, "a multiple of 16", value)
        require(all(rate >= 1 for rate in self.rates), "rates", "cells, 1 or more", self.rates)
        require(0 <= self.dropout < 1, "dropout", "a share in [0, 1)", self.dropout)


@dataclass(frozen=True, kw_only=True)
class Mask2FormerSegmenterConfig(MaskQueriesConfig, SegmenterNetworkConfig):
    """Mask2Former whose queries are each a class and all its pixels."""

    implementation: ClassVar[str] = "weaksam.segmentation.segmenters.mask2former:Mask2FormerSegmenter"
    halves: ClassVar[bool] = False  # where a query looks follows, layer by layer, from its rounded mask

    name: str = "mask2former"

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """See ``SegmenterNetworkConfig``. Its losses are divided by the number of masks."""
        return ("name",)


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """A segmenter that learns from label maps; the defaults are for drawings of 128 to 200 pixels on two cores.

    Published (Mask2Former, mmsegmentation): side and crop_side 512, resize .5 to 2, colours changed, batch 4, 80,000 steps
    (VOC), AdamW at 1e-4 with decay .05, the backbone at a tenth, poly .9, gradients clipped to .01.
    """

    network: Annotated[SegmenterNetworkConfig, Choice("weaksam.segmentation.segmenters:SEGMENTERS", "deeplab")] = field(
        default_factory=DeepLabConfig
    )
    backbone: Literal[
        "resnet50.torchvision", "efficientnet_lite0", "efficientnet_lite2", "swin_tiny", "swin_large", "small"
    ] = "small"
    # Of the backbone by image labels, as ``RetrainConfig.init``; empty = random.
    init: Weights = _OF_SMALL
    weights: Weights = NO_WEIGHTS  # of a segmenter trained here; empty = train-segmenter of this run
    side: int = 128  # pixels, shorter side of an image as it is looked at, in training times a factor of ``resize``
    max_side: int = 2048  # pixels, the longer side is not scaled beyond it
    resize: tuple[float, float] = (0.75, 1.5)  # least and largest factor
    crop_side: int = 128  # pixels of the square window that is learnt from; a multiple of 32
    flip: bool = True  # mirror half of the views
    colour_jitter: bool = False  # change brightness, contrast, saturation and hue of the views at random
    steps: int = 0  # of the optimiser; 0 = ``epochs`` decide
    epochs: int = 30  # passes over the training images, where ``steps`` is 0
    batch_size: int = 8  # images per step over all workers
    optimizer: Literal["sgd", "adamw"] = "adamw"  # SGD with momentum .9
    lr: float = 1e-3
    weight_decay: float = 1e-4
    backbone_lr_factor: float = 0.3  # of the backbone's learning rate
    power: float = 0.9  # of the share of the training that is left, which the rate falls with; 0 = it stays
    warmup_steps: int = 20
    warmup_factor: float = 0.001  # of the learning rate at the first step
    freeze_stages: int = 0  # first stages of the backbone that do not learn
    max_grad_norm: float = 0.0  # clip the gradient's L2 norm; lower is stricter, 0 = never
    precision: TrainingPrecision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.side >= 1, "side", "pixels, 1 or more", self.side)
        require(self.max_side >= self.side, "max_side", f"{self.side} pixels (side) or more", self.max_side)
        require(0 < self.resize[0] <= self.resize[1], "resize", "the least factor, then the largest", self.resize)
        whole = self.crop_side >= 32 and self.crop_side % 32 == 0
        require(whole, "crop_side", "pixels, a multiple of 32", self.crop_side)
        require_length(steps=self.steps, epochs=self.epochs)
        require(self.batch_size >= 1, "batch_size", "1 or more", self.batch_size)
        require(self.lr > 0, "lr", "a positive number", self.lr)
        require(self.power >= 0, "power", "0 or more", self.power)


@dataclass(frozen=True, kw_only=True)
class PredictMapsConfig:
    """How a segmenter is run over images (published: one scale, not mirrored)."""

    splits: NotInKey[tuple[str, ...]] = ()  # empty = every indexed split
    scales: tuple[float, ...] = (1.0,)  # of the segmenter's ``side``; what it finds in several is averaged
    flip: bool = False  # every scale also mirrored
    precision: Precision = "exact"  # "fast": the network in float16 (on a CPU bfloat16)
    max_inside: float = 0.3  # where superpixels are used, which of SAM's masks they are; see ``SeedConfig``

    def __post_init__(self) -> None:
        require(0 < self.max_inside <= 1, "max_inside", "above 0, up to 1", self.max_inside)
        require(bool(self.scales) and all(s > 0 for s in self.scales), "scales", "factors above 0", self.scales)
