"""Options from the classifier to the proposals (paper 3.1, 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weaksam.config.checks import require
from weaksam.config.weights import NO_WEIGHTS, Weights

# Longest side, in pixels, to which each SAM scales an image before it pads it to a square.
SAM_INPUT_SIDE = {"builtin": 128, "vit_b": 1024, "vit_l": 1024, "vit_h": 1024}


@dataclass(frozen=True, kw_only=True)
class CamConfig:
    """Multi-scale class activation maps (WeakTr's inference)."""

    scales: tuple[float, ...] = (1.0, 0.8, 1.2)  # of the image's own size; each also mirrored
    max_side: int = (
        640  # pixels; a longer image is first brought to it, memory grows as its 4th power (VOC, COCO: never)
    )
    cross_layers: tuple[int, ...] = (5, 6, 7, 8, 9, 10, 11, 12)  # 1-based; () = every layer of the network
    gate_logit: float = -0.5  # a class counts as present above it where labels are unknown (published code)
    include_difficult: bool = True  # gate by labels that count difficult objects (published code)
    # The published runs' half precision: each map of a scale and a mirror is made and enlarged in it, then added in single
    # precision. Exact ties inflate peak counts.
    autocast_fp16: bool = False

    def __post_init__(self) -> None:
        require(
            bool(self.scales) and all(0 < s <= 4 for s in self.scales), "cam.scales", "numbers in (0, 4]", self.scales
        )
        require(self.max_side >= 1, "cam.max_side", "1 or more pixels", self.max_side)
        require(all(layer >= 1 for layer in self.cross_layers), "cam.cross_layers", "1-based layers", self.cross_layers)


@dataclass(frozen=True, kw_only=True)
class CluesConfig:
    """The classifier whose activation maps say where to prompt."""

    name: Literal["none", "weaktr", "resnet_cam"] = "weaktr"
    weights: Weights = NO_WEIGHTS  # of a trained network; empty = the one that train-classifier of this run made
    gating: Literal["labels", "predicted"] = "labels"  # "labels" falls back to prediction where labels are unknown
    cam: CamConfig = field(default_factory=CamConfig)


@dataclass(frozen=True, kw_only=True)
class WeakTrConfig:
    """The WeakTr network; the defaults are DeiT-S/16, which the published checkpoints are (method 1.1)."""

    stem: Literal["patch", "cnn"] = "patch"  # "patch": one strided convolution; "cnn": the small built-in CNN
    patch_size: int = 16  # pixels per token
    dim: int = 384
    depth: int = 12
    heads: int = 6
    position_grid: int = 14  # learned positional embedding is position_grid x position_grid, resized to the image
    fusion: Literal["uniform", "se", "feat"] = "feat"  # adaptive attention fusion (method 1.2)
    fusion_reduction: int = 8  # published: 4 with se, 8 with feat
    fusion_pool: Literal["avg", "max"] = "max"  # published: avg with se, max with feat
    drop_path: float = 0.1  # stochastic depth of the last block, linear from 0

    def __post_init__(self) -> None:
        require(self.dim % self.heads == 0, "weaktr.dim", f"a multiple of heads = {self.heads}", self.dim)


@dataclass(frozen=True, kw_only=True)
class ResNetCamConfig:
    """A plain classifier of torchvision or timm whose class activation maps are the clues."""

    backbone: str = "resnet50"  # torchvision name, or "timm:<name>"
    pretrained: Weights = NO_WEIGHTS  # of the backbone (a state dict); empty = random


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Training of the classifier on image-level labels (WeakTr's VOC12 recipe, method 1.5)."""

    weaktr: WeakTrConfig = field(default_factory=WeakTrConfig)
    resnet_cam: ResNetCamConfig = field(default_factory=ResNetCamConfig)
    init: Weights = NO_WEIGHTS  # of DeiT-S; "builtin" = the shipped CNN stem; empty = random
    epochs: int = 60
    batch_size: int = 64  # images per step over all workers
    base_lr: float = 6e-4  # learning rate = base_lr * batch_size / 512
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: int = 5
    weight_decay: float = 0.03
    crop_size: int = 224  # pixels, square training crop
    min_crop_scale: float = 0.08  # smallest share of the image's area in a random resized crop
    augmentation: Literal["none", "flip", "deit"] = (
        "deit"  # "flip": resized crop + mirror; "deit": + RandAugment, erasing
    )
    select: Literal["last", "best-map"] = "last"  # weights handed on; best-map judges by a held-out tenth of the images
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast
    seed: int = 504  # published

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "crop_size"):
            require(getattr(self, name) >= 1, f"classifier.{name}", "1 or more", getattr(self, name))
        require(self.base_lr > 0, "classifier.base_lr", "a positive number", self.base_lr)
        require(0 < self.min_crop_scale <= 1, "classifier.min_crop_scale", "(0, 1]", self.min_crop_scale)


@dataclass(frozen=True, kw_only=True)
class PeaksConfig:
    """Peaks of one normalised activation map (Algorithm 1); of equal pixels the first in reading order is the peak."""

    kernel_cam: int = 17  # pixels, max-pooling window on coarse and fine maps (published code; paper: 128)
    kernel_cross: int = 129  # pixels, on cross-attention maps; even sizes are rounded up (paper: 128)
    threshold: float = 0.9  # tau in [0, 1]; keep a peak of at least this value, higher is stricter (paper 3.2)
    max_candidates: int = 25  # best pixels that enter the distance filter (published code); 0 = all
    distance: Literal["l1", "l2"] = "l1"  # norm of the distance filter (published code: L1)
    # Peaks lie (kernel - 1) // 2 apart or more (published code), or more than half a kernel (Algorithm 1, line 19).
    spacing: Literal["at-least", "more-than"] = "at-least"

    def __post_init__(self) -> None:
        for name in ("kernel_cam", "kernel_cross"):
            require(getattr(self, name) >= 1, f"peaks.{name}", "a positive number of pixels", getattr(self, name))
        require(0 <= self.threshold <= 1, "peaks.threshold", "0..1", self.threshold)
        require(self.max_candidates >= 0, "peaks.max_candidates", "0 or more", self.max_candidates)


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Which prompts SAM gets (section 3.2)."""

    sources: tuple[Literal["grid", "fine", "coarse", "cross"], ...] = ("grid", "fine", "coarse", "cross")
    points_per_side: int = 32  # S of the S x S grid (segment-anything's own)
    class_joint: bool = True  # also prompt all peaks of a class together (published code)
    # k-means over the cross-attention peaks, by the published rule and start with another stream of random numbers.
    cluster_cross: bool = True
    points_per_cluster: int = 5  # n_clusters = max(1, n // this)
    peaks: PeaksConfig = field(default_factory=PeaksConfig)

    def __post_init__(self) -> None:
        require(bool(self.sources), "prompts.sources", "at least one source", self.sources)
        require(len(set(self.sources)) == len(self.sources), "prompts.sources", "each source once", self.sources)
        require(1 <= self.points_per_side <= 512, "prompts.points_per_side", "1..512", self.points_per_side)
        require(self.points_per_cluster >= 1, "prompts.points_per_cluster", "1 or more", self.points_per_cluster)


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """Which Segment Anything model."""

    name: Literal["builtin", "vit_b", "vit_l", "vit_h"] = "vit_h"  # vit_h is the paper's; builtin ships here
    weights: Weights = NO_WEIGHTS  # empty = the built-in file, or the published one of the named model


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """From masks to boxes: filters and suppression (sections 3.2, 3.3 of the published pipeline)."""

    min_predicted_iou: float = 0.3  # grid masks must exceed it; higher is stricter (published code; stock .88)
    min_stability: float = 0.3  # grid masks must reach it; higher is stricter (published code; stock .95)
    stability_offset: float = 1.0  # logits; the two thresholds that stability compares lie this far from 0
    grid_nms_iou: float = 0.3  # suppress grid boxes above it, best predicted IoU first; lower is stricter (stock .7)
    cross_nms_iou: float = 0.9  # score-less suppression of cross-attention boxes, first box stays
    clue_mask_indices: tuple[int, ...] = (1, 2)  # of SAM's three masks; 0, the sub-part, is dropped (published code)
    keep_empty: bool = False  # keep a zero box for an empty mask, of cross-attention one an image (published code)
    whole_image_if_empty: bool = True  # an image without any box gets one of its own size, source "whole-image"
    keep_masks: bool = False  # also keep each box's mask as COCO RLE

    def __post_init__(self) -> None:
        for name in ("min_predicted_iou", "min_stability", "grid_nms_iou", "cross_nms_iou"):
            require(0 <= getattr(self, name) <= 1, f"proposals.{name}", "0..1", getattr(self, name))
        ok = bool(self.clue_mask_indices) and set(self.clue_mask_indices) <= {0, 1, 2}
        require(ok, "proposals.clue_mask_indices", "some of 0, 1, 2", self.clue_mask_indices)


@dataclass(frozen=True, kw_only=True)
class SelectiveSearchConfig:
    """Selective Search (Uijlings et al.) through opencv-contrib, the classical proposal source."""

    mode: Literal["fast", "quality"] = "fast"
    max_boxes: int = 2000  # first boxes kept; the published VOC07 files hold 2,001 a picture
    min_side: int = 20  # pixels of the scaled image; boxes with a shorter side are discarded
    resize_width: int = 500  # pixels; images are scaled to it before the search, 0 = as they are

    def __post_init__(self) -> None:
        require(self.max_boxes >= 1, "selective_search.max_boxes", "1 or more", self.max_boxes)
        require(self.min_side >= 1, "selective_search.min_side", "1 or more pixels", self.min_side)
