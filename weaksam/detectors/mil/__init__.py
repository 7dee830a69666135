"""Detectors that learn from image-level labels alone, over given proposals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weaksam.registry import Registry

if TYPE_CHECKING:
    from weaksam.detectors.mil.base import WeakDetector

MIL_DETECTORS: Registry[type[WeakDetector]] = Registry(
    "weaksam.mil_detectors",
    {
        "mist": "weaksam.detectors.mil.mist:Mist",
        "oicr": "weaksam.detectors.mil.oicr:Oicr",
    },
)
