"""Options of CLIP."""

from __future__ import annotations

from dataclasses import dataclass

from weaksam.config.weights import NO_WEIGHTS, Weights


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which CLIP: a vision transformer and a text transformer in open_clip's layout, of any size."""

    weights: Weights = NO_WEIGHTS  # empty = OpenAI's ViT-B/16, as open_clip publishes it
    # Whether other weights than those were trained with QuickGELU: tensors do not tell, and with GELU the maps would be wrong.
    quick_gelu: bool = False
