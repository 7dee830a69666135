"""A SAM: the small one that ships, under another name."""

from __future__ import annotations

from weaksam.config.weights import Weights
from weaksam.sam.models import BUILTIN_SAM, SamModel

MODEL = SamModel(builder="weaksam.sam.small:build_small_sam", input_side=128, weights=Weights(str(BUILTIN_SAM)))
