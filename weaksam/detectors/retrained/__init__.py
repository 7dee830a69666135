"""Detectors that are retrained on pseudo ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weaksam.registry import Registry

if TYPE_CHECKING:
    from weaksam.config import RetrainedDetectorConfig

# Options, which name their ``RetrainedDetector``.
RETRAINED: Registry[type[RetrainedDetectorConfig]] = Registry(
    "weaksam.retrained",
    {
        "dino": "weaksam.config.retrain:DinoConfig",
        "faster_rcnn": "weaksam.config.retrain:FasterRcnnConfig",
        "mask2former": "weaksam.config.retrain:Mask2FormerConfig",
        "mask_rcnn": "weaksam.config.retrain:MaskRcnnConfig",
    },
)
