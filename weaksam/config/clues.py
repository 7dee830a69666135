"""Options of the clues: what makes activation maps, and how they are taken of an image (paper 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, Self

from weaksam.config.checks import require
from weaksam.config.choices import Choice, Member
from weaksam.config.clip import AffinityConfig, ClipConfig
from weaksam.config.precision import Precision
from weaksam.config.weights import NO_WEIGHTS, Weights


@dataclass(frozen=True, kw_only=True)
class ClueSourceConfig(Member):
    """What all clue sources share of their options.

    ``implementation`` is a ``ClueNetwork`` where the source is trained, else what makes a ``ClueSource`` (``MakeSource``).
    """

    trained: ClassVar[bool] = False  # on image-level labels, by ``train-classifier``
    kinds: ClassVar[tuple[str, ...]] = ()  # of "fine", "coarse", "cross": the maps that it can make


@dataclass(frozen=True, kw_only=True)
class NoCluesConfig(ClueSourceConfig):
    """Grids alone prompt SAM."""

    name: str = "none"


@dataclass(frozen=True, kw_only=True)
class ClueNetworkConfig(ClueSourceConfig):
    """What all classifiers share whose activation maps are the clues."""

    trained: ClassVar[bool] = True

    init: Weights = NO_WEIGHTS  # that its training starts from; empty = random

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """The options by which a training takes statistics over a pass, so that smaller passes would change it."""
        return ()


@dataclass(frozen=True, kw_only=True)
class WeakTrConfig(ClueNetworkConfig):
    """The WeakTr network; the defaults are DeiT-S/16, which the published checkpoints are (method 1.1).

    ``init`` is of a DeiT-S, or "builtin:stem" for the shipped CNN.
    """

    implementation: ClassVar[str] = "weaksam.clues.weaktr:WeakTr"
    kinds: ClassVar[tuple[str, ...]] = ("fine", "coarse", "cross")

    name: str = "weaktr"
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

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """See ``ClueNetworkConfig``. The small CNN normalises by batch."""
        return ("stem",) if self.stem == "cnn" else ()

    def __post_init__(self) -> None:
        require(self.heads >= 1, "heads", "1 or more", self.heads)
        require(self.dim % self.heads == 0, "dim", f"a multiple of heads = {self.heads}", self.dim)


@dataclass(frozen=True, kw_only=True)
class ResNetCamConfig(ClueNetworkConfig):
    """A plain classifier of torchvision or timm whose class activation maps are the clues; ``init`` is of its backbone."""

    implementation: ClassVar[str] = "weaksam.clues.resnet_cam:ResNetCam"
    kinds: ClassVar[tuple[str, ...]] = ("coarse",)

    name: str = "resnet_cam"
    backbone: str = "resnet50"  # torchvision name, or "timm:<name>"

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """See ``ClueNetworkConfig``. Convolutional networks normalise by batch."""
        return ("backbone",)


@dataclass(frozen=True, kw_only=True)
class LiteCamConfig(ClueNetworkConfig):
    """EfficientNet-Lite whose class activation maps are the clues; ``init`` is its classifier of ImageNet.

    Those are installed: builtin:efficientnet_lite0 and builtin:efficientnet_lite2.
    """

    implementation: ClassVar[str] = "weaksam.clues.lite_cam:LiteCam"
    kinds: ClassVar[tuple[str, ...]] = ("fine", "coarse")

    name: str = "lite_cam"
    backbone: Literal["efficientnet_lite0", "efficientnet_lite2"] = "efficientnet_lite2"


@dataclass(frozen=True, kw_only=True)
class ClipEsNamesConfig(ClipConfig):
    """Which CLIP, and what CLIP-ES tells it of the background of photographs; a name that a class has, too, is left out."""

    background: tuple[str, ...] = (
        "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway", "railroad",
        "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley", "bridge", "sign",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClipEsAffinityConfig(AffinityConfig):
    """How CLIP-ES spreads maps; its threshold on COCO is 0.7."""

    rounds: int = 3


@dataclass(frozen=True, kw_only=True)
class ClipEsConfig(ClueSourceConfig):
    """CLIP's maps by the names of classes alone, without a training (CLIP-ES; Lin et al., CVPR 2023).

    Of ``clues.cam`` only ``max_side``, ``gate_logit`` and ``include_difficult`` are heeded.
    """

    implementation: ClassVar[str] = "weaksam.clues.clip_es:make_clip_es"
    kinds: ClassVar[tuple[str, ...]] = ("fine", "coarse")

    name: str = "clip_es"
    clip: ClipEsNamesConfig = field(default_factory=ClipEsNamesConfig)
    template: str = "a clean origami {}."  # of what CLIP is told; {} stands for a name
    affinity: ClipEsAffinityConfig = field(default_factory=ClipEsAffinityConfig)

    def __post_init__(self) -> None:
        require("{}" in self.template, "template", "a text with {} where the name stands", self.template)


@dataclass(frozen=True, kw_only=True)
class CamConfig:
    """Multi-scale class activation maps (WeakTr's inference)."""

    scales: tuple[float, ...] = (1.0, 0.8, 1.2)  # of the image's own size; each also mirrored
    # Pixels; a longer image is first brought to it, memory grows as its 4th power (VOC, COCO: never).
    max_side: int = 640
    cross_layers: tuple[int, ...] = (5, 6, 7, 8, 9, 10, 11, 12)  # 1-based; () = every layer of the network
    gate_logit: float = -0.5  # a class counts as present above it where labels are unknown (published code)
    include_difficult: bool = True  # gate by labels that count difficult objects (published code)
    # The published runs' half precision: each map of a scale and a mirror is made and enlarged in it, then added in single
    # precision. Exact ties inflate peak counts.
    autocast_fp16: bool = False
    # "fast": the network in float16 (on a CPU bfloat16); its maps are enlarged, added and normalised in float32
    precision: Precision = "exact"

    def __post_init__(self) -> None:
        require(bool(self.scales) and all(0 < s <= 4 for s in self.scales), "scales", "numbers in (0, 4]", self.scales)
        require(self.max_side >= 1, "max_side", "1 or more pixels", self.max_side)
        require(
            not self.autocast_fp16 or self.precision == "exact",
            "precision",
            "exact beside autocast_fp16, which is a precision of its own",
            self.precision,
        )
        require(all(layer >= 1 for layer in self.cross_layers), "cross_layers", "1-based layers", self.cross_layers)


@dataclass(frozen=True, kw_only=True)
class CluesConfig:
    """What says where to prompt."""

    source: Annotated[ClueSourceConfig, Choice("weaksam.clues:CLUES", "weaktr")] = field(default_factory=WeakTrConfig)
    weights: Weights = (
        NO_WEIGHTS  # of the source; empty = those that train-classifier of this run made, if it is trained
    )
    gating: Literal["labels", "predicted"] = "labels"  # "labels" falls back to prediction where labels are unknown
    cam: CamConfig = field(default_factory=CamConfig)

    @property
    def once_trained(self) -> Self:
        """The same options, of which those of a network that its weights decide have their defaults."""
        return replace(self, source=type(self.source)()) if self.source.trained else self
