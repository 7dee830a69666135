"""Options of Selective Search, the classical source of proposals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weaksam.config.checks import require


@dataclass(frozen=True, kw_only=True)
class SelectiveSearchConfig:
    """Selective Search (Uijlings et al.) through opencv-contrib, the classical proposal source."""

    mode: Literal["fast", "quality"] = "fast"
    max_boxes: int = 2000  # first boxes kept; the published VOC07 files hold 2,001 a picture
    min_side: int = 20  # pixels of the scaled image; boxes with a shorter side are discarded
    resize_width: int = 500  # pixels; images are scaled to it before the search, 0 = as they are

    def __post_init__(self) -> None:
        require(self.max_boxes >= 1, "max_boxes", "1 or more", self.max_boxes)
        require(self.min_side >= 1, "min_side", "1 or more pixels", self.min_side)
