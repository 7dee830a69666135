"""The options of the method, one frozen dataclass per component, each field with its unit and source.

They stand here, apart from the components, because a recipe must be readable without importing torch. A component gets
its own dataclass and never the whole recipe. Sections and tables are those of the WeakSAM paper (arXiv 2402.14812);
"published code" is its repository. A field without a source is our decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weaksam.errors import ConfigError

# Longest side, in pixels, to which each SAM scales an image before it pads it to a square.
SAM_INPUT_SIDE = {"builtin": 128, "vit_b": 1024, "vit_l": 1024, "vit_h": 1024}


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Drawn images with exact boxes and masks (``datasets/shapes``)."""

    size: int = 128  # pixels, width and height
    train: int = 300  # images per split; the three splits draw from disjoint seeds
    val: int = 100
    test: int = 100
    seed: int = 0  # another seed draws another data set of the same kind

    def __post_init__(self) -> None:
        require(32 <= self.size <= 4096, "data.shapes.size", "32..4096 pixels", self.size)
        for name in ("train", "val", "test"):
            require(0 <= getattr(self, name) <= 1_000_000, f"data.shapes.{name}", "0..1,000,000", getattr(self, name))
        require(0 <= self.seed < 1000, "data.shapes.seed", "0..999", self.seed)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images are and which splits play which part."""

    uri: str = ""  # folder, s3://… or "shapes:"; usually given on the command line as --data
    kind: Literal["auto", "voc", "coco", "folder", "shapes"] = "auto"
    train_split: str = "auto"  # labels are granted to this split only; "auto" asks the data set, "none" grants none
    splits: tuple[str, ...] = ()  # splits to index; empty = all that the data set has
    include_difficult: bool = False  # labels for training count objects marked difficult (method 0.2)
    limit: int = 0  # first images of each split in hash order, for previews (--limit); 0 = all
    shapes: ShapesConfig = field(default_factory=ShapesConfig)

    def __post_init__(self) -> None:
        require(self.limit >= 0, "data.limit", "0 or more", self.limit)


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
    autocast_fp16: bool = False  # the published runs' half precision; inflates peak counts by exact ties

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
    weights: str = ""  # path, URL or s3:// of a checkpoint; empty = the one that train-classifier of this run made
    sha256: str = ""  # expected checksum of ``weights``; empty = printed on first load and pinned in the manifest
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
    pretrained: str = ""  # path, URL or s3:// of backbone weights (a state dict); empty = random


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Training of the classifier on image-level labels (WeakTr's VOC12 recipe, method 1.5)."""

    weaktr: WeakTrConfig = field(default_factory=WeakTrConfig)
    resnet_cam: ResNetCamConfig = field(default_factory=ResNetCamConfig)
    init: str = ""  # path, URL or s3:// of DeiT-S weights; "builtin" = the shipped CNN stem; empty = random
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
    """Peaks of one normalised activation map (Algorithm 1)."""

    kernel_cam: int = 17  # pixels, max-pooling window on coarse and fine maps (published code; paper: 128)
    kernel_cross: int = 129  # pixels, on cross-attention maps; even sizes are rounded up (paper: 128)
    threshold: float = 0.9  # tau in [0, 1]; keep a peak of at least this value, higher is stricter (paper 3.2)
    max_candidates: int = 25  # best pixels that enter the distance filter (published code); 0 = all
    distance: Literal["l1", "l2"] = "l1"  # norm of the distance filter (published code: L1)

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
    cluster_cross: bool = True  # k-means over the cross-attention peaks (published code)
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
    weights: str = ""  # path, URL or s3://…; empty = the built-in file, or the published address of the named model
    sha256: str = ""  # expected checksum; empty = the known one, else printed on first load and pinned in the manifest


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """From masks to boxes: filters and suppression (sections 3.2, 3.3 of the published pipeline)."""

    min_predicted_iou: float = 0.3  # grid masks must exceed it; higher is stricter (published code; stock .88)
    min_stability: float = 0.3  # grid masks must reach it; higher is stricter (published code; stock .95)
    stability_offset: float = 1.0  # logits; the two thresholds that stability compares lie this far from 0
    grid_nms_iou: float = 0.3  # suppress grid boxes above it, best predicted IoU first; lower is stricter (stock .7)
    cross_nms_iou: float = 0.9  # score-less suppression of cross-attention boxes, first box stays
    clue_mask_indices: tuple[int, ...] = (1, 2)  # of SAM's three masks; 0, the sub-part, is dropped (published code)
    keep_empty: bool = False  # keep a zero box for an empty mask (published code)
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


@dataclass(frozen=True, kw_only=True)
class OicrConfig:
    """OICR's refinement (method 4.3)."""

    assign: Literal["near-top", "top1"] = (
        "near-top"  # pseudo truth: near the best score (code), or the best alone (paper)
    )
    near_top: float = 0.9  # share of a class's best score that pseudo truth needs; higher is stricter (published code)
    nms_iou: float = 0.5  # suppression among pseudo truth of all classes; lower is stricter (published code)
    min_iou: float = 0.5  # with pseudo truth, to get its class; higher is stricter
    ignore_below: float = (
        0.0  # IoU below which a proposal teaches nothing (PCL: .1); 0 = every one does (published code)
    )

    def __post_init__(self) -> None:
        for name in ("near_top", "nms_iou", "min_iou", "ignore_below"):
            require(0 <= getattr(self, name) <= 1, f"mil.oicr.{name}", "0..1", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class DropBlockConfig:
    """Concrete DropBlock: a small adversary that hides the cells of a proposal which decide (method 4.5)."""

    enabled: bool = True  # published: on for VOC, off for COCO
    gamma: float = 0.3  # largest probability that a cell is hidden, times size squared
    size: int = 3  # cells, side of the hidden block around a drawn cell
    temperature: float = 0.01  # of the Gumbel-softmax
    loss_weight: float = 0.01  # the adversary descends on minus this times the detector's loss
    lr: float = 1e-5
    lr_growth: float = 3.0  # factor at every milestone of the detector's schedule
    warmup_steps: int = 500

    def __post_init__(self) -> None:
        require(self.size >= 1 and self.size % 2 == 1, "mil.mist.dropblock.size", "an odd number of cells", self.size)
        require(
            0 <= self.gamma <= self.size**2, "mil.mist.dropblock.gamma", f"0..{self.size**2} (size squared)", self.gamma
        )
        require(self.temperature > 0, "mil.mist.dropblock.temperature", "a positive number", self.temperature)


@dataclass(frozen=True, kw_only=True)
class MistConfig:
    """MIST's refinement with box regression (method 4.4)."""

    share: float = 0.15  # of an image's proposals that are ranked per class; 0 = the best one alone
    max_overlap: float = 0.2  # IoU with every better-ranked one below which one is pseudo truth; lower is stricter
    min_iou: float = 0.5  # with pseudo truth, to get its class; higher is stricter
    first_branch_weight: float = 3.0  # of the first branch's losses; those of the others weigh 1
    dropblock: DropBlockConfig = field(default_factory=DropBlockConfig)

    def __post_init__(self) -> None:
        for name in ("share", "max_overlap", "min_iou"):
            require(0 <= getattr(self, name) <= 1, f"mil.mist.{name}", "0..1", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class MilConfig:
    """A weakly-supervised detector on proposals and its training; the defaults are MIST's on VOC07 (method 4.6, 4.7)."""

    detector: Literal["mist", "oicr"] = "mist"
    # Architecture and the way its weights want their input: torchvision's VGG-16 takes normalised RGB, Caffe's BGR in 0..255.
    backbone: Literal["vgg16.torchvision", "vgg16.caffe", "resnet50.torchvision", "small"] = "vgg16.torchvision"
    init: str = (
        ""  # path, URL or s3:// of the backbone's weights; "builtin" = the shipped stem of "small"; empty = random
    )
    weights: str = ""  # path, URL or s3:// of a trained detector, ours or published; empty = train-mil of this run
    oicr: OicrConfig = field(default_factory=OicrConfig)
    mist: MistConfig = field(default_factory=MistConfig)
    proposal_sources: tuple[str, ...] = ()  # which sources' boxes are used; empty = all
    min_box_side: int = (
        20  # pixels of the image; proposals with a shorter side are left out (published: VOC 20, COCO 2)
    )
    scales: tuple[int, ...] = (480, 576, 688, 864, 1000, 1200)  # pixels, shorter side, one drawn per view
    max_side: int = 2000  # pixels, the longer side is not scaled beyond it
    flip: bool = True  # mirror half of the views
    lighting: float = (
        0.1  # standard deviation of AlexNet's colour jitter along ImageNet's principal components; 0 = none
    )
    steps: int = 30_000  # of the optimiser; 0 = ``epochs`` decide
    epochs: int = 0  # passes over the training images, where ``steps`` is 0
    batch_size: int = 8  # images per step over all workers
    optimizer: Literal["adam", "sgd"] = "adam"  # published code: Adam; upstream MIST: SGD with momentum .9
    lr: float = 1e-5
    weight_decay: float = 5e-4  # L2, not on biases
    bias_lr_factor: float = 2.0
    refine_lr_factor: float = 1.0  # of the refinement heads, biases too, which then decay as well (published OICR: 10)
    milestones: tuple[float, ...] = (0.667, 0.89)  # shares of the training after which the rate falls to a tenth
    warmup_steps: int = 200
    warmup_factor: float = 1 / 3  # of the learning rate at the first step
    dropout: float = 0.5  # between the fully connected layers
    freeze_stages: int = 2  # first stages of the backbone that do not learn (published MIST: conv1 and conv2)
    max_grad_norm: float = 0.0  # clip the gradient's L2 norm; lower is stricter, 0 = never
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.scales) and all(s >= 1 for s in self.scales), "mil.scales", "pixels", self.scales)
        require(self.steps >= 1 or self.epochs >= 1, "mil.steps", "steps or epochs of 1 or more", self.steps)
        require(self.batch_size >= 1, "mil.batch_size", "1 or more", self.batch_size)
        require(self.lr > 0, "mil.lr", "a positive number", self.lr)
        require(all(0 < m < 1 for m in self.milestones), "mil.milestones", "shares in (0, 1)", self.milestones)
        require(0 <= self.dropout < 1, "mil.dropout", "[0, 1)", self.dropout)


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """How a detector is run over images: test-time augmentation, suppression, cap (method 4.7)."""

    splits: tuple[str, ...] = ()  # empty = every split that has proposals
    scales: tuple[int, ...] = (
        800,
        480,
        576,
        688,
        864,
        1000,
        1200,
    )  # pixels, shorter side; scores and boxes are averaged
    max_side: int = 2000  # pixels, the longer side is not scaled beyond it
    flip: bool = True  # every scale also mirrored (published: MIST yes, OICR no)
    score_threshold: float = 0.0  # a detection scores more; higher is stricter
    nms_iou: float = 0.3  # per class; lower is stricter
    max_detections: int = 100  # best of an image, over all classes

    def __post_init__(self) -> None:
        require(bool(self.scales) and all(s >= 1 for s in self.scales), "detect.scales", "pixels", self.scales)
        require(0 <= self.nms_iou <= 1, "detect.nms_iou", "0..1", self.nms_iou)
        require(self.max_detections >= 1, "detect.max_detections", "1 or more", self.max_detections)


def require(holds: bool, where: str, expected: str, got: object) -> None:
    """Raise ConfigError, naming the option, what it takes and what came, unless ``holds``."""
    if not holds:
        raise ConfigError(f"{where}: expected {expected}, got {got!r}")
