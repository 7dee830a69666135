"""Options from boxes to masks (method 8.1)."""

from __future__ import annotations

from dataclasses import dataclass

from weaksam.config.checks import require


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How SAM makes a mask of a box; by default the box alone prompts it, for its one mask."""

    best_of_three: bool = (
        False  # of the three masks for prompts that may mean several things, that of best predicted IoU
    )
    refine: bool = False  # prompt once more, with the mask that came out beside the box
    max_points: int = 5  # of the peaks inside a box that prompt beside it, the first ones; see ``peaks``
    clip: bool = False  # cut each mask to its box
    min_area: int = 1  # pixels; a smaller mask is rejected, an empty one always
    stability_offset: float = 1.0  # logits; the two thresholds that stability compares lie this far from 0

    def __post_init__(self) -> None:
        require(self.max_points >= 1, "max_points", "1 or more", self.max_points)
        require(self.min_area >= 1, "min_area", "pixels, 1 or more", self.min_area)
        require(self.stability_offset > 0, "stability_offset", "logits above 0", self.stability_offset)
