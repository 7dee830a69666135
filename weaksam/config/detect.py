"""Options of running a detector over images (method 4.7, 6.3)."""

from __future__ import annotations

from dataclasses import dataclass

from weaksam.config.checks import require
from weaksam.config.precision import Precision
from weaksam.config.weights import NotInKey


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """How a detector is run over images: test-time augmentation, suppression, cap (method 4.7)."""

    splits: NotInKey[tuple[str, ...]] = ()  # empty = every split that has proposals
    scales: tuple[int, ...] = (
        800,
        480,
        576,
        688,
        864,
        1000,
        1200,
    )  # pixels, shorter side; scores and boxes are averaged
    max_side: int = 2000  # pixels, the longer side is not scaled beyond it
    flip: bool = True  # every scale also mirrored (published: MIST yes, OICR no)
    score_threshold: float = 0.0  # a detection scores more; higher is stricter
    nms_iou: float = 0.3  # per class; lower is stricter
    max_detections: int = 100  # best of an image, over all classes
    # "fast": the network in float16 (on a CPU bfloat16); scores, boxes and suppression are float32
    precision: Precision = "exact"

    def __post_init__(self) -> None:
        require(bool(self.scales) and all(s >= 1 for s in self.scales), "scales", "pixels", self.scales)
        require(0 <= self.nms_iou <= 1, "nms_iou", "0..1", self.nms_iou)
        require(self.max_detections >= 1, "max_detections", "1 or more", self.max_detections)


@dataclass(frozen=True, kw_only=True)
class RetrainedDetectConfig(DetectConfig):
    """How a retrained detector is run over images; the defaults are Faster R-CNN's on VOC07 (method 6.3)."""

    scales: tuple[int, ...] = (480, 576, 688, 864, 1000, 1800)  # pixels, shorter side; what they find is joined
    score_threshold: float = 0.05  # a detection of a pass scores more; higher is stricter
    nms_iou: float = 0.5  # per class, in a pass and over all of them; lower is stricter
