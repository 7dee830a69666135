"""Options of the prompts that SAM gets (paper 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weaksam.config.checks import require


@dataclass(frozen=True, kw_only=True)
class PeaksConfig:
    """Peaks of one normalised activation map (Algorithm 1); of equal pixels the first in reading order is the peak."""

    kernel_cam: int = 17  # pixels, max-pooling window on coarse and fine maps (published code; paper: 128)
    kernel_cross: int = 129  # pixels, on cross-attention maps; even sizes are rounded up (paper: 128)
    threshold: float = 0.9  # tau in [0, 1]; keep a peak of at least this value, higher is stricter (paper 3.2)
    max_candidates: int = 25  # best pixels that enter the distance filter (published code); 0 = all
    distance: Literal["l1", "l2"] = "l1"  # norm of the distance filter (published code: L1)
    # Peaks lie kernel // 2 apart or more (published code), or more than half a kernel (Algorithm 1, line 19).
    spacing: Literal["at-least", "more-than"] = "at-least"

    def __post_init__(self) -> None:
        for name in ("kernel_cam", "kernel_cross"):
            require(getattr(self, name) >= 1, name, "a positive number of pixels", getattr(self, name))
        require(0 <= self.threshold <= 1, "threshold", "0..1", self.threshold)
        require(self.max_candidates >= 0, "max_candidates", "0 or more", self.max_candidates)


@dataclass(frozen=True, kw_only=True)
class ClustersConfig:
    """How peaks of cross-attention maps, of all classes, become prompts; the published code takes k-means."""

    method: Literal["kmeans", "mean-shift", "dbscan", "none"] = "kmeans"
    points_per_cluster: int = 5  # of k-means: n_clusters = max(1, n // this)
    radius: float = 16.0  # pixels, of mean shift (its flat kernel) and of DBSCAN (how far neighbours are apart)

    def __post_init__(self) -> None:
        require(self.points_per_cluster >= 1, "points_per_cluster", "1 or more", self.points_per_cluster)
        require(self.radius > 0, "radius", "a positive number of pixels", self.radius)


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Which prompts SAM gets (section 3.2)."""

    sources: tuple[Literal["grid", "fine", "coarse", "cross"], ...] = ("grid", "fine", "coarse", "cross")
    points_per_side: int = 32  # S of the S x S grid (segment-anything's own)
    class_joint: bool = True  # also prompt all peaks of a class together (published code)
    clusters: ClustersConfig = field(default_factory=ClustersConfig)
    peaks: PeaksConfig = field(default_factory=PeaksConfig)

    def __post_init__(self) -> None:
        require(bool(self.sources), "sources", "at least one source", self.sources)
        require(len(set(self.sources)) == len(self.sources), "sources", "each source once", self.sources)
        require(1 <= self.points_per_side <= 512, "points_per_side", "1..512", self.points_per_side)
