"""In which number types a model computes."""

from __future__ import annotations

from typing import Literal

# "exact": float32. "fast": matrix products and convolutions in half precision, what is delicate about them in float32; each
# section says what that is. It enters keys, because it changes results.
Precision = Literal["exact", "fast"]
