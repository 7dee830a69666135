"""Options of pseudo ground truth (method 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weaksam.config.checks import require


@dataclass(frozen=True, kw_only=True)
class PseudoLabelsConfig:
    """Which detections of a training image become its pseudo ground truth (Algorithm 2; method 5)."""

    mode: Literal["adaptive", "top1"] = "adaptive"  # "top1" is the baseline of Table 5
    top_k: int = 1  # boxes per class of an image with mode "top1"
    # Normalised score that a box must exceed in [0, 1]; higher is stricter; the best box need not. "auto": see ``fill_in``.
    tau_s: float | Literal["auto"] = 0.3
    # Share of its own area that another box may cover; a box goes from there on; lower is stricter. "auto": see ``fill_in``.
    tau_o: float | Literal["auto"] = 0.85
    normalise: Literal["min-max", "range"] = "min-max"  # (s - min) / (max - min), or s / (max - min) (published code)
    covered_by: Literal["larger", "any"] = "larger"  # "any": two boxes may remove each other (paper and published code)

    @property
    def open_thresholds(self) -> tuple[str, ...]:
        """Which thresholds are left to the data."""
        return tuple(name for name in ("tau_s", "tau_o") if getattr(self, name) == "auto")

    def __post_init__(self) -> None:
        for name in ("tau_s", "tau_o"):
            value = getattr(self, name)
            require(value == "auto" or 0 <= value <= 1, name, "0..1, or auto", value)
        require(self.top_k >= 1, "top_k", "1 or more", self.top_k)
