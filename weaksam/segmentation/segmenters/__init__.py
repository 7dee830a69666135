"""Segmenters: networks that learn from label maps which class each pixel belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weaksam.registry import Registry

if TYPE_CHECKING:
    from weaksam.config import SegmenterNetworkConfig

# Options, which name their ``Segmenter``.
SEGMENTERS: Registry[type[SegmenterNetworkConfig]] = Registry(
    "weaksam.segmenters",
    {
        "deeplab": "weaksam.config.segmenter:DeepLabConfig",
        "mask2former": "weaksam.config.segmenter:Mask2FormerSegmenterConfig",
    },
)
