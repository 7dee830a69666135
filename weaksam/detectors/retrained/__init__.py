"""Detectors that are retrained on pseudo ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weaksam.registry import Registry

if TYPE_CHECKING:
    from weaksam.detectors.retrained.base import RetrainedDetector

RETRAINED: Registry[type[RetrainedDetector]] = Registry(
    "weaksam.retrained",
    {
        "dino": "weaksam.detectors.retrained.dino.model:Dino",
        "faster_rcnn": "weaksam.detectors.retrained.faster_rcnn:FasterRcnn",
    },
)
