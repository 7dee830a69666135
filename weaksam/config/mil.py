"""Options of the weakly-supervised detectors (method 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from weaksam.config.checks import require, require_length, require_milestones
from weaksam.config.choices import Choice, Member
from weaksam.config.precision import TrainingPrecision
from weaksam.config.weights import NO_WEIGHTS, Weights


@dataclass(frozen=True, kw_only=True)
class MilDetectorConfig(Member):
    """What all weakly-supervised detectors share of their options."""

    @property
    def adversary(self) -> DropBlockConfig | None:
        """How what hides parts of proposals while training is trained itself; None without one."""
        return None

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """The options by which a training takes statistics over a pass, so that smaller passes would change it."""
        return ()


@dataclass(frozen=True, kw_only=True)
class OicrConfig(MilDetectorConfig):
    """OICR's refinement (method 4.3)."""

    implementation: ClassVar[str] = "weaksam.detectors.mil.oicr:Oicr"

    name: str = "oicr"
    # Pseudo truth: near the best score (code), or the best alone (paper).
    assign: Literal["near-top", "top1"] = "near-top"
    near_top: float = 0.9  # share of a class's best score that pseudo truth needs; higher is stricter (published code)
    nms_iou: float = 0.5  # suppression among pseudo truth of all classes; lower is stricter (published code)
    # With pseudo truth, to get its class: reached (near-top) or exceeded (top1); higher is stricter.
    min_iou: float = 0.5
    # IoU below which a proposal teaches nothing (PCL: .1); 0 = every one does (published code).
    ignore_below: float = 0.0

    def __post_init__(self) -> None:
        for name in ("near_top", "nms_iou", "min_iou", "ignore_below"):
            require(0 <= getattr(self, name) <= 1, name, "0..1", getattr(self, name))
        band_fits = self.assign == "near-top" or self.ignore_below == 0  # the paper's assignment has no ignored band
        require(band_fits, "ignore_below", "0 with assign=top1", self.ignore_below)


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
        require(self.size >= 1 and self.size % 2 == 1, "size", "an odd number of cells", self.size)
        require(0 <= self.gamma <= self.size**2, "gamma", f"0..{self.size**2} (size squared)", self.gamma)
        require(self.temperature > 0, "temperature", "a positive number", self.temperature)


@dataclass(frozen=True, kw_only=True)
class MistConfig(MilDetectorConfig):
    """MIST's refinement with box regression (method 4.4)."""

    implementation: ClassVar[str] = "weaksam.detectors.mil.mist:Mist"

    name: str = "mist"
    share: float = 0.15  # of an image's proposals that are ranked per class; 0 = the best one alone
    max_overlap: float = 0.2  # IoU with every better-ranked one below which one is pseudo truth; lower is stricter
    min_iou: float = 0.5  # with pseudo truth, to get its class; higher is stricter
    first_branch_weight: float = 3.0  # of the first branch's losses; those of the others weigh 1
    dropblock: DropBlockConfig = field(default_factory=DropBlockConfig)

    @property
    def adversary(self) -> DropBlockConfig | None:
        """See ``MilDetectorConfig``."""
        return self.dropblock if self.dropblock.enabled else None

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """See ``MilDetectorConfig``. The adversary normalises by batch, and scales what it leaves over all proposals."""
        return ("dropblock.enabled",) if self.dropblock.enabled else ()

    def __post_init__(self) -> None:
        for name in ("share", "max_overlap", "min_iou"):
            require(0 <= getattr(self, name) <= 1, name, "0..1", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class MilConfig:
    """A weakly-supervised detector on proposals and its training; the defaults are MIST's on VOC07 (method 4.6, 4.7)."""

    detector: Annotated[MilDetectorConfig, Choice("weaksam.detectors.mil:MIL_DETECTORS", "mist")] = field(
        default_factory=MistConfig
    )
    # Architecture and the way its weights want their input: torchvision's VGG-16 takes normalised RGB, Caffe's BGR in 0..255.
    backbone: Literal[
        "vgg16.torchvision", "vgg16.caffe", "resnet50.torchvision", "efficientnet_lite0", "efficientnet_lite2", "small"
    ] = "vgg16.torchvision"
    # Of the backbone; empty = random. Installed are builtin:stem, of "small", and those of the two EfficientNet-Lites.
    init: Weights = NO_WEIGHTS
    weights: Weights = NO_WEIGHTS  # of a trained detector, ours or published; empty = train-mil of this run
    proposal_sources: tuple[str, ...] = ()  # which sources' boxes are used; empty = all
    # Pixels of the image; proposals with a shorter side are left out (published: VOC 20, COCO 2).
    min_box_side: int = 20
    scales: tuple[int, ...] = (480, 576, 688, 864, 1000, 1200)  # pixels, shorter side, one drawn per view
    max_side: int = 2000  # pixels, the longer side is not scaled beyond it
    flip: bool = True  # mirror half of the views
    # Standard deviation of AlexNet's colour jitter along ImageNet's principal components; 0 = none.
    lighting: float = 0.1
    steps: int = 30_000  # of the optimiser; 0 = ``epochs`` decide
    epochs: int = 0  # passes over the training images, where ``steps`` is 0
    batch_size: int = 8  # images per step over all workers
    optimizer: Literal["adam", "sgd"] = "adam"  # published code: Adam; upstream MIST: SGD with momentum .9
    lr: float = 1e-5
    weight_decay: float = 5e-4  # L2, not on biases
    bias_lr_factor: float = 2.0
    refine_lr_factor: float = 1.0  # of the refinement heads, biases too, which then decay as well (published OICR: 10)
    # When the rate falls to a tenth: below 1 shares of the training, else steps (epochs, where these decide).
    milestones: tuple[float, ...] = (2 / 3, 0.89)  # published: 20,000 and 26,700 of 30,000 steps
    warmup_steps: int = 200
    warmup_factor: float = 1 / 3  # of the learning rate at the first step
    dropout: float = 0.5  # between the fully connected layers
    freeze_stages: int = 2  # first stages of the backbone that do not learn (published MIST: conv1 and conv2)
    max_grad_norm: float = 0.0  # clip the gradient's L2 norm; lower is stricter, 0 = never
    precision: TrainingPrecision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.scales) and all(s >= 1 for s in self.scales), "scales", "pixels", self.scales)
        require_length(steps=self.steps, epochs=self.epochs)
        require(self.batch_size >= 1, "batch_size", "1 or more", self.batch_size)
        require(self.lr > 0, "lr", "a positive number", self.lr)
        require_milestones(self.milestones, steps=self.steps, epochs=self.epochs)
        require(0 <= self.dropout < 1, "dropout", "[0, 1)", self.dropout)
