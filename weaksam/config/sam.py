"""Options of the Segment Anything model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from weaksam.config.choices import Name
from weaksam.config.precision import Precision
from weaksam.config.weights import NO_WEIGHTS, Weights


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """Which Segment Anything model."""

    name: Annotated[str, Name("weaksam.sam:SAMS")] = "vit_h"  # vit_h is the paper's; builtin ships here
    weights: Weights = NO_WEIGHTS  # empty = the built-in file, or the published one of the named model
    # "fast": encoder in bfloat16, mask decoder in float16 (on a CPU bfloat16), heads in float32; see ``sam/precision.py``
    precision: Precision = "exact"
