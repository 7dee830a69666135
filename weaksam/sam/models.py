"""The models that ship or are published; all are classes of the ``segment_anything`` package with other image encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weaksam.config.weights import NO_WEIGHTS, Weights
from weaksam.registry import load

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


@dataclass(frozen=True, kw_only=True)
class SamModel:
    """A member of ``SAMS``; says without torch what a recipe must know of it."""

    builder: str  # "module:function" that builds it with random weights
    input_side: int  # pixels, longest side to which it scales an image before it pads it to a square
    weights: Weights = NO_WEIGHTS  # empty = those published under its name

    def build(self) -> Sam:
        """Build it with random weights."""
        sam: Sam = load(self.builder)()
        return sam


BUILTIN = SamModel(builder="weaksam.sam.small:build_small_sam", input_side=128, weights=Weights("builtin:sam"))
VIT_B = SamModel(builder="segment_anything.build_sam:build_sam_vit_b", input_side=1024)
VIT_L = SamModel(builder="segment_anything.build_sam:build_sam_vit_l", input_side=1024)
VIT_H = SamModel(builder="segment_anything.build_sam:build_sam_vit_h", input_side=1024)
