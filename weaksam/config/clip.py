"""Options of CLIP, and of the prompts that are taught to it (FMA method 1, 2, 3, 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weaksam.config.checks import require
from weaksam.config.weights import NO_WEIGHTS, Weights


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which CLIP, and how it is told of classes; a vision and a text transformer in open_clip's layout, of any size."""

    weights: Weights = NO_WEIGHTS  # empty = OpenAI's ViT-B/16, as open_clip publishes it
    # Whether other weights than those were trained with QuickGELU: tensors do not tell, and with GELU the maps would be wrong.
    quick_gelu: bool = False
    names: dict[str, str] = field(default_factory=dict)  # of a class, where CLIP knows another name better than its own
    background: tuple[str, ...] = ("ground", "sky", "wall")  # what else there is in images; one or more

    def __post_init__(self) -> None:
        require(bool(self.background), "background", "one name or more", self.background)


@dataclass(frozen=True, kw_only=True)
class PromptLayoutConfig:
    """How the prompts of a set are laid out: a context that learns, and a name that is fixed (FMA method 2.1)."""

    length: int = 16  # vectors of a context
    specific: bool = False  # each prompt has a context of its own, or all share one
    name: Literal["end", "front"] = "end"  # behind the context, or before it
    named_background: bool = True  # no: the background's prompts are a context alone, one for each of its names
    std: float = 0.015  # of the first values, around 0

    def __post_init__(self) -> None:
        require(1 <= self.length <= 64, "length", "1..64 vectors", self.length)
        require(self.std >= 0, "std", "0 or more", self.std)
        require(
            self.specific or self.named_background,
            "specific",
            "true without named_background: the background's prompts would all be the same",
            self.specific,
        )


@dataclass(frozen=True, kw_only=True)
class PromptTrainingConfig:
    """How a set of prompts is taught; the defaults are those of classes on VOC (FMA method 3, 6)."""

    # Of image labels: "contrastive", each present class against the image's absent ones, or "bce", each class against the
    # background. Of seeds: "activation", a class's map reaches its peak all over the class's seed and nothing beside it, or
    # "pixel-cross-entropy", at each pixel the map of the seed's class is the highest, beside 0 for the background.
    objective: Literal["contrastive", "bce", "activation", "pixel-cross-entropy"] = "contrastive"
    layout: PromptLayoutConfig = field(default_factory=PromptLayoutConfig)
    tuned_blocks: int = 0  # last blocks of the image tower that learn of image labels, too; 0 = none (published)
    tower_lr_factor: float = 0.1  # of their learning rate
    # Whose maps the objectives of seeds ask for: of the classes of a view's seed (VOC), or of its whole image (COCO).
    pairs: Literal["view", "image"] = "view"
    steps: int = 1800
    schedule_steps: int = 0  # of the cosine, which may end later than the training; 0 = steps
    batch_size: int = 16
    lr: float = 0.001
    warmup_steps: int = 500
    warmup_lr: float = 0.00001
    momentum: float = 0.9
    weight_decay: float = 0.0005
    long_side: tuple[int, int] = (288, 480)  # pixels, of the image that a view is cut of, at random
    crop_size: int = 224  # pixels, side of a view; a multiple of CLIP's patch
    colour_jitter: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.long_side
        require(1 <= low <= high, "long_side", "pixels in ascending order", self.long_side)
        for name in ("steps", "batch_size", "crop_size"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        for name in ("schedule_steps", "warmup_steps", "tuned_blocks"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("lr", "tower_lr_factor"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        require(0 <= self.momentum < 1, "momentum", "0 or more, below 1", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "0 or more", self.weight_decay)
        frozen = not (self.tuned_blocks and self.learns_seeds)
        wanted = f"0 with the objective {self.objective}, whose maps are of a frozen tower"
        require(frozen, "tuned_blocks", wanted, self.tuned_blocks)
        fits = not self.schedule_steps or self.schedule_steps >= self.steps
        require(fits, "schedule_steps", f"0, or {self.steps} steps or more", self.schedule_steps)

    @property
    def learns_seeds(self) -> bool:
        """Whether label maps are learnt, and not image labels alone."""
        return self.objective in ("activation", "pixel-cross-entropy")


@dataclass(frozen=True, kw_only=True)
class AffinityConfig:
    """How a class's map is spread over patches that attend to each other (FMA method 4)."""

    enabled: bool = True
    layers: int = 8  # the last ones whose attention is averaged; all of a CLIP that has fewer
    rounds: int = 1  # of Sinkhorn's normalisation
    threshold: float = 0.4  # share of a map's maximum above which its parts have boxes; lower spreads more of it
    power: int = 2  # how often it is spread
    of_scores: bool = True  # the map cut at 0 and stretched to [0, 1] is spread, or as it is

    def __post_init__(self) -> None:
        for name, least in (("layers", 1), ("rounds", 0), ("power", 1)):
            require(getattr(self, name) >= least, name, f"{least} or more", getattr(self, name))
        require(0 <= self.threshold <= 1, "threshold", "0..1", self.threshold)


@dataclass(frozen=True, kw_only=True)
class SeedConfig:
    """How label maps are made of maps and superpixels; the defaults are those of VOC's coarse seeds."""

    # Of maps of prompts; those of a classifier are as ``clues.cam`` says.
    affinity: AffinityConfig = field(default_factory=AffinityConfig)
    scale: float = 1.0  # of the image that CLIP sees; its sides are rounded up to patches
    max_side: int = 1024  # pixels of that; larger images are shown smaller
    max_inside: float = 0.3  # share of a part that lies in a chosen mask, from which on it is no superpixel (RSW)
    background_power: float = 0.6  # p; lower makes more background
    grabcut: bool = False  # afterwards each class is cut out along the colours of the image
    # Whether each seed is compared with those of two other views of its image, and each of its classes shown to CLIP alone.
    measure_agreement: bool = False

    def __post_init__(self) -> None:
        require(self.scale > 0, "scale", "above 0", self.scale)
        require(self.max_side >= 1, "max_side", "1 or more pixels", self.max_side)
        require(0 < self.max_inside <= 1, "max_inside", "above 0, up to 1", self.max_inside)
        require(self.background_power > 0, "background_power", "above 0", self.background_power)
