"""Detectors that learn from image-level labels alone, over given proposals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weaksam.registry import Registry

if TYPE_CHECKING:
    from weaksam.config import MilDetectorConfig

# Options, which name their ``WeakDetector``.
MIL_DETECTORS: Registry[type[MilDetectorConfig]] = Registry(
    "weaksam.mil_detectors",
    {
        "mist": "weaksam.config.mil:MistConfig",
        "oicr": "weaksam.config.mil:OicrConfig",
    },
)
