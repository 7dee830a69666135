"""Points that cover an image evenly; without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def grid_points(size_hw: tuple[int, int], points_per_side: int) -> NDArray[np.float32]:
    """Return the centres ``[n², 2]``, x and y in pixels, of n by n equal cells of an image, row by row."""
    height, width = size_hw
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(centres * width, centres * height)
    return np.stack((x.ravel(), y.ravel()), axis=1).astype(np.float32)
