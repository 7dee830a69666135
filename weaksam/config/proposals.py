"""Options from masks to boxes (sections 3.2, 3.3 of the published pipeline)."""

from __future__ import annotations

from dataclasses import dataclass

from weaksam.config.checks import require


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """From masks to boxes: filters and suppression (sections 3.2, 3.3 of the published pipeline)."""

    min_predicted_iou: float = 0.3  # grid masks must exceed it; higher is stricter (published code; stock .88)
    min_stability: float = 0.3  # grid masks must reach it; higher is stricter (published code; stock .95)
    stability_offset: float = 1.0  # logits; the two thresholds that stability compares lie this far from 0
    grid_nms_iou: float = 0.3  # suppress grid boxes above it, best predicted IoU first; lower is stricter (stock .7)
    cross_nms_iou: float = 0.9  # score-less suppression of cross-attention boxes, first box stays
    clue_mask_indices: tuple[int, ...] = (1, 2)  # of SAM's three masks; 0, the sub-part, is dropped (published code)
    keep_empty: bool = False  # keep a zero box for an empty mask, of cross-attention one an image (published code)
    whole_image_if_empty: bool = True  # an image without any box gets one of its own size, source "whole-image"
    keep_masks: bool = False  # also keep each box's mask as COCO RLE

    def __post_init__(self) -> None:
        for name in ("min_predicted_iou", "min_stability", "grid_nms_iou", "cross_nms_iou"):
            require(0 <= getattr(self, name) <= 1, name, "0..1", getattr(self, name))
        ok = bool(self.clue_mask_indices) and set(self.clue_mask_indices) <= {0, 1, 2}
        require(ok, "clue_mask_indices", "some of 0, 1, 2", self.clue_mask_indices)
