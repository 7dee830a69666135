"""What an instance of ``evaluate`` depends on, beside what it measures."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.recipe.config import EvaluateConfig, LabelConfig
from pipelines.recipe.keys import INDEX, NOTHING, Input, Inputs
from weaksam.config import DataConfig
from weaksam.config.weights import NotInKey
from weaksam.datasets.ground_truth import StatedSize


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is measured against the true boxes, and how."""

    of: Input
    beside: Inputs = ()  # beside detections: the proposals of which one by chance is measured, too
    how: EvaluateConfig | None  # of proposals and detections
    named_sources: tuple[str, ...] = ()  # of proposals, that get a row even if they never made a box
    proposal_sources: tuple[str, ...] = ()  # of those beside detections that count; empty = all
    masks: bool = False  # whether detections or proposals have masks, which are measured as well
    index: Input = NOTHING  # of detected masks alone: images that GrabCut is measured on
    stated_size: StatedSize  # how true boxes are read
    data: NotInKey[DataConfig]


@dataclass(frozen=True, kw_only=True)
class AgreementOptions:
    """Which detections are compared with each other, without a true box."""

    index: Input = INDEX
    of: Input
    views: Inputs
    teacher: Input
    pseudo_labels: LabelConfig | None  # how ``of`` was made, where it is of ``label``
    data: NotInKey[DataConfig]


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Which classifier is measured by image labels, and how it sees an image."""

    index: Input = INDEX
    of: Input
    crop_size: int  # pixels
    data: NotInKey[DataConfig]


@dataclass(frozen=True, kw_only=True)
class PseudoMaskOptions:
    """Which pseudo masks are measured against the true ones, and beside what."""

    index: Input = INDEX
    of: Input
    grabcut_images: int  # that GrabCut is measured on
    stated_size: StatedSize  # how true masks are read
    data: NotInKey[DataConfig]


@dataclass(frozen=True, kw_only=True)
class LabelMapOptions:
    """Which label maps are measured against the true ones, and of which superpixels they were painted."""

    of: Input
    superpixels: Input = NOTHING  # of seeds alone; "" = none
    max_inside: float  # which of SAM's masks those are, see ``SeedConfig``
    stated_size: StatedSize  # how true maps are read
    data: NotInKey[DataConfig]
