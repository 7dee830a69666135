"""Masks of one image as runs down its columns: what they hold of values, and painting with them, without drawing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from weaksam.masks_np import Rle, read_runs


@dataclass(frozen=True, eq=False)
class MaskRuns:
    """S masks of an image; a run is what a mask has of a column, from its top to before its bottom."""

    size_hw: tuple[int, int]
    count: int  # S
    mask: NDArray[np.int64]  # [K], which of the masks each run is of, ascending
    column: NDArray[np.int64]  # [K]
    top: NDArray[np.int64]  # [K]
    bottom: NDArray[np.int64]  # [K], more than ``top``

    @classmethod
    def of(cls, masks_rle: Sequence[Rle], size_hw: tuple[int, int]) -> Self:
        """Read the runs of masks of one image of this size; there may be none. Raises DataError as ``read_runs``."""
        height, width = size_hw
        runs = read_runs(masks_rle, size_hw)
        inside = np.flatnonzero((runs.place % 2 == 1) & (runs.length > 0))
        mask = runs.mask[inside]
        ends = runs.length.cumsum()[inside] - mask * (height * width)  # earlier masks fill as many pixels each
        starts = ends - runs.length[inside]
        # A run of COCO's goes on at the top of the next column: cut it there.
        first, last = starts // height, (ends - 1) // height
        columns = last - first + 1
        piece = np.arange(columns.sum()) - np.repeat(columns.cumsum() - columns, columns)
        column = np.repeat(first, columns) + piece
        return cls(
            size_hw=size_hw,
            count=len(masks_rle),
            mask=np.repeat(mask, columns),
            column=column,
            top=np.maximum(np.repeat(starts, columns) - column * height, 0),
            bottom=np.minimum(np.repeat(ends, columns) - column * height, height),
        )

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask, ``[S]``."""
        return np.bincount(self.mask, self.bottom - self.top, self.count).astype(np.int64)

    def sums(self, values: NDArray[np.float32], first_row: int = 0) -> NDArray[np.float64]:
        """Return what each mask holds of each of N values of a pixel, summed in float64: ``[N, S]``.

        Args:
            values: ``[N, rows, W]``, of all rows of the image or of some that follow one another.
            first_row: of the image, that ``values`` begin with; masks count no other rows.
        """
        rows, width = values.shape[1:]
        top, bottom = (np.clip(ends - first_row, 0, rows) for ends in (self.top, self.bottom))
        sums: NDArray[np.float64] = np.zeros((len(values), self.count))
        if not self.count:
            return sums
        above: NDArray[np.float64] = np.zeros((rows + 1, width))  # of each pixel, the sum of those over it
        for of_value, sum_of_masks in zip(values, sums, strict=True):
            np.cumsum(of_value, axis=0, dtype=np.float64, out=above[1:])
            of_runs = above[bottom, self.column] - above[top, self.column]
            sum_of_masks[:] = np.bincount(self.mask, of_runs, self.count)
        return sums

    def painted(self, label_map: NDArray[np.uint8], order: Sequence[int], numbers: Sequence[int]) -> NDArray[np.uint8]:
        """Return a label map ``[H, W]`` with masks painted over it.

        Args:
            label_map: is left as it is.
            order: which masks are painted, the last one on top.
            numbers: S, what each mask gives its pixels.
        """
        height, width = self.size_hw
        canvas = bytearray(np.ascontiguousarray(label_map.T))  # column by column
        pixels, colours = memoryview(canvas), [memoryview(bytes([number]) * height) for number in numbers]
        first = np.searchsorted(self.mask, np.arange(self.count + 1)).tolist()
        start = self.column * height + self.top
        starts, ends, lengths = (
            start.tolist(),
            (start + self.bottom - self.top).tolist(),
            (self.bottom - self.top).tolist(),
        )
        for n in order:
            runs, colour = slice(first[n], first[n + 1]), colours[n]
            # Slices of memory: arrays take three times as long.
            for begin, end, length in zip(starts[runs], ends[runs], lengths[runs], strict=True):
                pixels[begin:end] = colour[:length]
        return np.ascontiguousarray(np.frombuffer(canvas, np.uint8).reshape(width, height).T)

    def coverage(self) -> float:
        """Return the share of the image that is in any mask, in [0, 1]."""
        everywhere = self.painted(np.zeros(self.size_hw, np.uint8), range(self.count), [1] * self.count)
        return float(everywhere.mean())
