"""In which number types a model computes."""

from __future__ import annotations

from typing import Literal

# "exact": float32. "tf32": the same, but a GPU rounds the factors of matrix products and convolutions to ten bits; elsewhere
# it is "exact". "fast": matrix products and convolutions in half precision, what is delicate about a model in float32. All of
# them change results, so that they enter keys.
Precision = Literal["exact", "tf32", "fast"]
