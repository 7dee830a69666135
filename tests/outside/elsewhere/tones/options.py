"""Options of ``Tones``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from weaksam.config.segmenter import SegmenterNetworkConfig


@dataclass(frozen=True, kw_only=True)
class TonesConfig(SegmenterNetworkConfig):
    """How strongly tones are told apart."""

    implementation: ClassVar[str] = "elsewhere.tones.network:Tones"

    name: str = "tones"
    contrast: float = 1.0  # what the tones are multiplied with
