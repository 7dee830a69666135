"""A number for each object, as its best IoU: means and histograms of each class."""

from __future__ import annotations

import math
from array import array

import numpy as np
from numpy.typing import NDArray


class PerClass:
    """Values of objects, 8 bytes each; in whatever order they come, their mean is the same to the last bit.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self._values = [array("d") for _ in range(num_classes)]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self._values)

    def add(self, class_index: NDArray[np.int64], value: NDArray[np.float64]) -> None:
        """Keep the values [G] of objects of these classes [G]."""
        for c, of_object in zip(class_index.tolist(), value.tolist(), strict=True):
            self._values[c].append(of_object)

    def count(self) -> NDArray[np.int64]:
        """Objects of each class, [C]."""
        return np.array([len(values) for values in self._values], np.int64)

    def mean(self) -> NDArray[np.float64]:
        """Mean of each class, [C]; NaN without an object."""
        means = [math.fsum(values) / len(values) if values else math.nan for values in self._values]
        return np.array(means, np.float64)

    def histogram(self, bins: int) -> NDArray[np.int64]:
        """How many values of each class, all in [0, 1], lie in each of as many equal bins: [C, bins].

        A value at the border of two bins is in the upper one, 1 in the last. In float64 the border of 3 of 20 bins is the
        number nearest to 3/20, and so is an IoU of 3 pixels of 20.
        """
        borders = np.arange(1, bins) / bins
        of_values = [np.searchsorted(borders, np.array(values), side="right") for values in self._values]
        return np.array([np.bincount(bin_index, minlength=bins) for bin_index in of_values], np.int64)
