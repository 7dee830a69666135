"""A SAM: the small one that ships, under another name."""

from __future__ import annotations

from weaksam.config.weights import Weights
from weaksam.sam.models import SamModel

MODEL = SamModel(builder="weaksam.sam.small:build_small_sam", input_side=128, weights=Weights("builtin:sam"))
