"""Options of a detector that is retrained on pseudo ground truth (method 6, 7)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, Self

from weaksam.config.checks import require, require_length, require_milestones
from weaksam.config.choices import Choice, Member
from weaksam.config.detect import RetrainedDetectConfig
from weaksam.config.mask_queries import MaskQueriesConfig
from weaksam.config.precision import TrainingPrecision
from weaksam.config.weights import NO_WEIGHTS, NotInKey, Weights


@dataclass(frozen=True, kw_only=True)
class RoiDropConfig:
    """RoI drop: sampled regions whose losses say that their pseudo label is wrong teach nothing (eq. 1, 2; method 6.2).

    ``tau_reg`` is in the unit of a box loss that is the *sum* over the four coordinates of the absolute differences of
    encoded deltas, multiplied by the coder weights (10, 10, 5, 5): 1.0 is a tenth of a side. The thresholds are those of a
    detector that starts from ImageNet; a small one from scratch is less exact, and 1.0 drops most of its positives.
    """

    enabled: bool = False
    # A loss above its threshold is enough (paper), or both must be (published code).
    rule: Literal["any", "all"] = "any"
    variant: Literal["fixed", "normalised", "percentile"] = "fixed"  # what a threshold is: see ``losses/drop.py``
    # Classification loss above which a region goes; lower is stricter (Table 7; COCO: 5). "auto" = the knee of those so far.
    tau_cls: float | Literal["auto"] = 4.0
    # Box loss above which a region goes; lower is stricter (Table 7; COCO: 4). "auto" = those so far have it as an outlier.
    tau_reg: float | Literal["auto"] = 1.0
    # Background, whose box loss is 0, too (paper), or not (published code).
    droppable: Literal["all", "foreground"] = "all"
    # The losses are divided by all sampled regions, or by those kept.
    normaliser: Literal["sampled", "kept"] = "sampled"
    start_step: int = 2000  # first step that drops; published: 2,000 of 9,000 (VOC07)

    def __post_init__(self) -> None:
        for name in ("tau_cls", "tau_reg"):
            value = getattr(self, name)
            if value == "auto":
                require(self.variant == "fixed", name, f"a number with variant={self.variant}", value)
                continue
            require(value >= 0, name, "0 or more, or auto", value)
            if self.variant == "percentile":
                require(value <= 100, name, "0..100 with variant=percentile", value)
        require(self.start_step >= 0, "start_step", "0 or more", self.start_step)


@dataclass(frozen=True, kw_only=True)
class QueryDropConfig:
    """Query drop: of the matched queries those with the highest classification losses teach nothing (eq. 3, 4; method 7.2)."""

    enabled: bool = False
    # Of the losses; floor((100 - percentile)% of n) queries go; lower is stricter (Table 9). "auto" = that of the losses' knee.
    percentile: float | Literal["auto"] = 90.0
    scope: Literal["foreground", "all"] = "foreground"  # only matched queries, or the background's, too (Table 8)
    layers: tuple[int, ...] = ()  # decoder layers from 1, 0 = the encoder's output; empty = all of them
    start_step: int = 0  # first step that drops (published code)

    def __post_init__(self) -> None:
        ok = self.percentile == "auto" or 0 <= self.percentile <= 100
        require(ok, "percentile", "0..100, or auto", self.percentile)
        require(all(n >= 0 for n in self.layers), "layers", "0 or more", self.layers)
        require(self.start_step >= 0, "start_step", "0 or more", self.start_step)


@dataclass(frozen=True, kw_only=True)
class RetrainedDetectorConfig(Member):
    """What all retrained detectors share of their options."""

    halves: ClassVar[bool] = True  # whether it finds the same in half precision
    # Cells along each side of the grid over a box on which its mask is learnt; 0: it learns from boxes, and finds no masks.
    mask_cells: ClassVar[int] = 0
    masks_suppress: ClassVar[bool] = (
        False  # what several passes find is suppressed by the overlap of masks, not of boxes
    )

    @property
    def learns_masks(self) -> bool:
        """Whether it learns from masks, and finds some."""
        return self.mask_cells > 0

    @property
    def settled(self) -> Self:
        """The same options, of which each that says nothing has its default: those of a drop that is off."""
        return self

    @property
    def judged_at(self) -> int:
        """Step from which on a drop goes by the size of losses; 0 = there is none such, or always."""
        return 0

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """The options by which a training takes statistics over a pass, so that smaller passes would change it."""
        return ()


@dataclass(frozen=True, kw_only=True)
class FasterRcnnConfig(RetrainedDetectorConfig):
    """Faster R-CNN with a feature pyramid (method 6.1)."""

    implementation: ClassVar[str] = "weaksam.detectors.retrained.faster_rcnn:FasterRcnn"

    name: str = "faster_rcnn"
    anchor_sides: tuple[int, ...] = (32, 64, 128, 256, 512)  # pixels of the view, one per pyramid level, finest first
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    pyramid_dim: int = 256  # channels of every pyramid level
    head_dim: int = 1024  # of the two fully connected layers
    proposals_before_nms: tuple[int, int] = (2000, 1000)  # per level, in training and at test time
    proposals: int = 1000  # per image after suppression
    rois: int = 512  # sampled per image
    foreground_share: float = 0.25  # of the sampled regions, at most
    beta: float = 0.0  # of the smooth-L1 box loss; 0 = L1 (published), 1/9 = torchvision's
    drop: RoiDropConfig = field(default_factory=RoiDropConfig)

    @property
    def settled(self) -> Self:
        """See ``RetrainedDetectorConfig``."""
        return self if self.drop.enabled else replace(self, drop=RoiDropConfig())

    @property
    def judged_at(self) -> int:
        """See ``RetrainedDetectorConfig``."""
        return self.drop.start_step if self.drop.enabled else 0

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """See ``RetrainedDetectorConfig``.

        The means over sampled anchors and regions are none: each image has as many of them, but one too small for so many.
        """
        variant = ("drop.variant",) if self.drop.enabled and self.drop.variant != "fixed" else ()
        return (*variant, *(("drop.normaliser",) if self.drop.enabled and self.drop.normaliser == "kept" else ()))

    def __post_init__(self) -> None:
        require(bool(self.anchor_sides), "anchor_sides", "pixels for every level", self.anchor_sides)
        require(0 < self.foreground_share <= 1, "foreground_share", "(0, 1]", self.foreground_share)
        require(self.beta >= 0, "beta", "0 or more", self.beta)


@dataclass(frozen=True, kw_only=True)
class MaskRcnnConfig(FasterRcnnConfig):
    """Mask R-CNN: Faster R-CNN with masks (method 8.2); published without a drop."""

    implementation: ClassVar[str] = "weaksam.detectors.retrained.mask_rcnn:MaskRcnn"
    mask_cells: ClassVar[int] = 56  # twice as fine as what is learnt

    name: str = "mask_rcnn"
    mask_dims: tuple[int, ...] = (256, 256, 256, 256)  # channels of the convolutions of the mask head

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """See ``RetrainedDetectorConfig``. The loss of masks is a mean over foreground regions, of which images have unequally
        many.
        """
        return ("name", *super().pass_statistics)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.mask_dims) and min(self.mask_dims) >= 1, "mask_dims", "channels, one or more", self.mask_dims)


@dataclass(frozen=True, kw_only=True)
class DinoConfig(RetrainedDetectorConfig):
    """DINO, 4-scale, two-stage with mixed query selection, denoising, look-forward-twice (method 7.1)."""

    implementation: ClassVar[str] = "weaksam.detectors.retrained.dino.model:Dino"
    halves: ClassVar[bool] = (
        False  # which cells become queries, and layer by layer their boxes, follow from rounded scores
    )

    name: str = "dino"
    levels: int = 4  # feature maps; those that the backbone lacks are made by convolutions of stride 2
    # Pixels per cell; finer maps of the backbone are not used (published: 8, of its stages 3 to 5).
    finest_stride: int = 8
    dim: int = 256
    heads: int = 8
    points: int = 4  # sampled per head and level
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward_dim: int = 2048
    dropout: float = 0.0
    queries: int = 900
    denoising_queries: int = 100  # pairs per image, shared out among groups; 0 = no denoising
    label_noise: float = 0.5  # half of it is the share of denoising queries with another class
    box_noise: float = 1.0  # corners of the negatives' boxes are moved by up to twice this share of half the side
    max_detections: int = 300  # best (query, class) pairs of a pass
    drop: QueryDropConfig = field(default_factory=QueryDropConfig)

    @property
    def settled(self) -> Self:
        """See ``RetrainedDetectorConfig``."""
        return self if self.drop.enabled else replace(self, drop=QueryDropConfig())

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """See ``RetrainedDetectorConfig``. Its losses are divided by the number of boxes, those of the fullest image say how
        many groups repair disturbed ones, and a percentile is one of all matched queries.
        """
        denoising = ("denoising_queries",) if self.denoising_queries else ()
        return ("name", *denoising, *(("drop.percentile",) if self.drop.enabled else ()))

    def __post_init__(self) -> None:
        require(self.levels >= 1, "levels", "1 or more", self.levels)
        require(self.heads >= 1, "heads", "1 or more", self.heads)
        require(self.dim % self.heads == 0, "dim", f"a multiple of heads = {self.heads}", self.dim)
        require(self.decoder_layers >= 1, "decoder_layers", "1 or more", self.decoder_layers)
        require(self.queries >= 1, "queries", "1 or more", self.queries)
        require(self.denoising_queries >= 0, "denoising_queries", "0 or more", self.denoising_queries)
        known = all(n <= self.decoder_layers for n in self.drop.layers)
        require(known, "drop.layers", f"0..{self.decoder_layers} (decoder_layers)", self.drop.layers)


@dataclass(frozen=True, kw_only=True)
class Mask2FormerConfig(MaskQueriesConfig, RetrainedDetectorConfig):
    """Mask2Former: queries that are each a class and a mask (method 8.2); published without a drop."""

    implementation: ClassVar[str] = "weaksam.detectors.retrained.mask2former:Mask2Former"
    halves: ClassVar[bool] = False  # where a query looks follows, layer by layer, from its rounded mask
    mask_cells: ClassVar[int] = 128
    masks_suppress: ClassVar[bool] = True  # a query finds a mask; boxes are only drawn around it

    name: str = "mask2former"
    max_detections: int = 100  # best (query, class) pairs of a pass
    drop: QueryDropConfig = field(default_factory=QueryDropConfig)  # layer 0: the queries before the first layer

    @property
    def settled(self) -> Self:
        """See ``RetrainedDetectorConfig``."""
        return self if self.drop.enabled else replace(self, drop=QueryDropConfig())

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """See ``RetrainedDetectorConfig``. Its losses are divided by the number of masks, and a percentile is one of all
        matched queries.
        """
        return ("name", *(("drop.percentile",) if self.drop.enabled else ()))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.max_detections >= 1, "max_detections", "1 or more", self.max_detections)
        known = all(n <= self.decoder_layers for n in self.drop.layers)
        require(known, "drop.layers", f"0..{self.decoder_layers} (decoder_layers)", self.drop.layers)


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """A detector trained on pseudo ground truth; the defaults are Faster R-CNN's on VOC07 (method 6.3)."""

    detector: Annotated[RetrainedDetectorConfig, Choice("weaksam.detectors.retrained:RETRAINED", "faster_rcnn")] = (
        field(default_factory=FasterRcnnConfig)
    )
    backbone: Literal["resnet50.torchvision", "efficientnet_lite0", "efficientnet_lite2", "small"] = (
        "resnet50.torchvision"
    )
    init: Weights = NO_WEIGHTS  # of the backbone by ImageNet; installed are those of ``MilConfig.init``; empty = random
    weights: Weights = NO_WEIGHTS  # of a detector trained here; empty = retrain of this run
    scales: tuple[int, ...] = tuple(range(480, 1217, 32))  # pixels, shorter side, one drawn per view
    max_side: int = 2000  # pixels, the longer side is not scaled beyond it
    flip: bool = True  # mirror half of the views
    # Half of the views are first scaled to one of ``crop_scales`` and cut to a random window (DINO's augmentation).
    crop_scales: tuple[int, ...] = ()  # pixels, shorter side; empty = no cutting (published DINO on VOC: 400, 500, 600)
    crop_sides: tuple[int, int] = (384, 600)  # pixels, smallest and largest side of the window
    # Large-scale jitter: each view is scaled by a factor drawn between these two, times what makes it fit a square of
    # ``jitter_side``, and cut to that square at random where it is larger; in the place of ``scales``. Empty = none (published
    # Mask2Former: .1, 2).
    jitter: tuple[float, ...] = ()
    jitter_side: int = 1024  # pixels
    min_box_side: int = 1  # pixels of the image; pseudo boxes with a shorter side are left out (published DINO: 32)
    steps: int = 9000  # of the optimiser; 0 = ``epochs`` decide
    epochs: int = 0  # passes over the training images, where ``steps`` is 0
    batch_size: int = 16  # images per step over all workers
    optimizer: Literal["sgd", "adamw"] = "sgd"  # published: SGD with momentum .9; DINO: AdamW
    lr: float = 0.02
    weight_decay: float = 1e-4
    backbone_lr_factor: float = 1.0  # of the backbone's learning rate (published DINO: .1)
    # When the rate falls to a tenth: below 1 shares of the training, else steps (epochs, where these decide).
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)  # published: 6,000 and 8,000 of 9,000 steps
    warmup_steps: int = 30
    warmup_factor: float = 0.001  # of the learning rate at the first step
    freeze_stages: int = 2  # first stages of the backbone that do not learn (published: stem and the first stage)
    max_grad_norm: float = 0.0  # clip the gradient's L2 norm; lower is stricter, 0 = never (published DINO: .1)
    precision: TrainingPrecision = "fp32"
    seed: int = 0
    test: NotInKey[RetrainedDetectConfig] = field(default_factory=RetrainedDetectConfig)

    @property
    def settled(self) -> Self:
        """The same options, of which each that says nothing has its default."""
        return replace(self, detector=self.detector.settled)

    def __post_init__(self) -> None:
        require(bool(self.scales) and all(s >= 1 for s in self.scales), "scales", "pixels", self.scales)
        low, high = self.crop_sides
        require(1 <= low <= high, "crop_sides", "the smallest side, then the largest", self.crop_sides)
        between = len(self.jitter) == 2 and 0 < self.jitter[0] <= self.jitter[1]
        require(between or not self.jitter, "jitter", "the least factor, then the most, or none", self.jitter)
        require(not self.jitter or not self.crop_scales, "jitter", "none beside crop_scales", self.jitter)
        require(self.jitter_side >= 1, "jitter_side", "pixels, 1 or more", self.jitter_side)
        require_length(steps=self.steps, epochs=self.epochs)
        require(self.batch_size >= 1, "batch_size", "1 or more", self.batch_size)
        require(self.lr > 0, "lr", "a positive number", self.lr)
        require_milestones(self.milestones, steps=self.steps, epochs=self.epochs)
        safe = self.detector.halves or self.test.precision != "fast"
        wanted = f"exact or tf32 with {self.detector.name}, which does not find the same boxes in half precision"
        require(safe, "test.precision", wanted, self.test.precision)
