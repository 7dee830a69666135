"""The models that ship or are published: classes of the ``segment_anything`` package, some with other image encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weaksam.config.weights import NO_WEIGHTS, Weights
from weaksam.registry import load

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SamModel:
    """A member of ``SAMS``; says without torch what a recipe must know of it."""

    builder: str  # "module:function" that builds it with random weights
    input_side: int  # pixels, longest side to which it scales an image before it pads it to a square
    weights: Weights = NO_WEIGHTS  # empty = those published under its name
    # "module:function" that gives the tensors of its weights the names of what is built; "" = they have them
    names: str = ""

    def build(self) -> Sam:
        """Build it with random weights."""
        sam: Sam = load(self.builder)()
        return sam

    def named(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors of its weights under the names of what is built."""
        return load(self.names)(state) if self.names else state


BUILTIN = SamModel(builder="weaksam.sam.small:build_small_sam", input_side=128, weights=Weights("builtin:sam"))
LITE = SamModel(
    builder="weaksam.sam.lite:build_lite_sam",
    input_side=192,
    weights=Weights("builtin:sam_lite"),
    names="weaksam.sam.lite:with_trunk",
)
VIT_T = SamModel(
    builder="weaksam.sam.mobile:build_mobile_sam", input_side=1024, names="weaksam.sam.mobile:from_published_names"
)
VIT_B = SamModel(builder="segment_anything.build_sam:build_sam_vit_b", input_side=1024)
VIT_L = SamModel(builder="segment_anything.build_sam:build_sam_vit_l", input_side=1024)
VIT_H = SamModel(builder="segment_anything.build_sam:build_sam_vit_h", input_side=1024)
