"""In which number types a model computes."""

from __future__ import annotations

from typing import Literal

# "exact": float32. "tf32": the same, but a GPU rounds the factors of matrix products and convolutions to ten bits; elsewhere
# it is "exact". "fast": matrix products and convolutions in half precision, what is delicate about a model in float32. All of
# them change results, so that they enter keys.
Precision = Literal["exact", "tf32", "fast"]

# In which a training computes its products: weights, gradients and the optimiser's state stay in float32. "fp32" and "tf32" are
# "exact" and "tf32" of above; the halves are of PyTorch's autocast, which chooses what is delicate itself.
TrainingPrecision = Literal["fp32", "tf32", "bf16", "fp16"]
