"""Options of the masks of everything in an image (``weaksam/sam/everything.py``)."""

from __future__ import annotations

from dataclasses import dataclass

from weaksam.config.checks import require


@dataclass(frozen=True, kw_only=True)
class EverythingConfig:
    """Automatic masks; the defaults are segment-anything's, which it chose for ViT-H."""

    points_per_side: int = 32  # of the grid of points over the image
    min_predicted_iou: float = 0.88  # masks must exceed it; higher is stricter
    whole_iou_bonus: float = 0.0  # added to what is compared with it of wholes, of SAM's three masks the last (FMA: .1)
    min_stability: float = 0.95  # masks must reach it; higher is stricter
    stability_offset: float = 1.0  # logits; the two thresholds that stability compares lie this far from 0
    nms_iou: float = 0.7  # suppress masks whose boxes overlap more, best predicted IoU first; lower is stricter
    wholes_first: bool = False  # in that order wholes come before all others: 1 is added to their predicted IoU (FMA)
    crop_layers: int = 0  # layer n segments 4^n crops of the image too, which finds smaller things
    crop_nms_iou: float = 0.7  # the same suppression between crops, those of smaller crops first
    crop_overlap: float = (
        512 / 1500
    )  # of the first layer's crops, share of the shorter side; halved in each further layer
    crop_points_downscale: int = 1  # divides points_per_side in each further layer
    # Pixels: holes of fewer are filled, islands of fewer dropped, and what overlaps then is suppressed once more; 0 = not.
    min_region_area: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.points_per_side <= 512, "points_per_side", "1..512", self.points_per_side)
        for name in ("min_predicted_iou", "whole_iou_bonus", "min_stability", "nms_iou", "crop_nms_iou"):
            require(0 <= getattr(self, name) <= 1, name, "0..1", getattr(self, name))
        require(self.stability_offset >= 0, "stability_offset", "0 or more logits", self.stability_offset)
        require(0 <= self.crop_layers <= 5, "crop_layers", "0..5", self.crop_layers)
        require(0 <= self.crop_overlap < 1, "crop_overlap", "0 or more and below 1", self.crop_overlap)
        require(self.crop_points_downscale >= 1, "crop_points_downscale", "1 or more", self.crop_points_downscale)
        require(self.min_region_area >= 0, "min_region_area", "0 or more pixels", self.min_region_area)
