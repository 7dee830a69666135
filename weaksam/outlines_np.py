"""Outlines of masks, for formats that hold polygons.

There are two conventions of where a polygon's corners lie, and a mask comes back whole only from the one that a reader has:

    ``polygons_along_edges``      corners of pixels: COCO's, whose rasteriser fills what lies inside
    ``polygon_through_centres``   centres of pixels: those of OpenCV, which draws the outline itself, too
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int64]  # [P, 2] XY, closed: the last corner is followed by the first

# From a corner on, with the object on the right hand: east, south, west, north.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def polygons_along_edges(mask: NDArray[np.bool_]) -> list[Ring]:
    """Outline the parts of a mask, each by one polygon along the edges of its pixels.

    Args:
        mask: ``[H, W]``; may be empty.

    Returns:
        one polygon of four or more corners for each part, pixels that touch at a corner being of two. A hole hangs on its
        part's outline by a way there and back, which has no area.
    """
    from scipy.ndimage import find_objects, label

    parts, _ = label(mask)
    polygons = []
    for number, (rows, columns) in enumerate(find_objects(parts), start=1):
        rings = _rings(parts[rows, columns] == number)
        polygons.append(_joined(rings) + np.array([columns.start, rows.start]))
    return polygons


def polygon_through_centres(mask: NDArray[np.bool_]) -> Ring:
    """Outline a mask by one polygon through its outermost pixels, as ``cv2.fillPoly`` draws it.

    Holes stay free, but for a line of pixels that leads to each; so do gaps between parts, which are joined by lines.

    Args:
        mask: ``[H, W]``, not empty.

    Returns:
        columns and rows of three or more pixels; of a single one, three times the same.
    """
    import cv2

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    ring = _joined([contour[:, 0].astype(np.int64) for contour in contours])
    return np.concatenate([ring, ring[:1].repeat(max(0, 3 - len(ring)), axis=0)])


def filled_through_centres(ring: Ring, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw the mask of a polygon through the centres of its outermost pixels, which belong to it.

    Args:
        ring: columns and rows of three or more pixels of the image, ``[P, 2]``.
        size_hw: of the image.

    Returns:
        ``[H, W]``.
    """
    import cv2

    canvas: NDArray[np.uint8] = np.zeros(size_hw, np.uint8)
    cv2.fillPoly(canvas, [ring.astype(np.int32)], 1)
    return canvas.astype(np.bool_)


def _rings(part: NDArray[np.bool_]) -> list[Ring]:
    """Follow the edges between a connected part and what is around it: its outer ring first, then its holes."""
    inside = np.pad(part, 1)
    # Of each corner, the directions in which an edge leaves it that has the part on its right and none on its left.
    at = {
        0: inside[1:, 1:] & ~inside[:-1, 1:],
        1: inside[1:, :-1] & ~inside[1:, 1:],
        2: inside[:-1, :-1] & ~inside[1:, :-1],
        3: inside[:-1, 1:] & ~inside[:-1, :-1],
    }
    edges: dict[tuple[int, int], list[int]] = {}
    for direction, leaves in at.items():
        for y, x in np.argwhere(leaves).tolist():
            edges.setdefault((x, y), []).append(direction)
    rings: list[Ring] = []
    for y, x in np.argwhere(at[0]).tolist():  # the first is the outer ring's: the highest, and of these the leftmost
        while 0 in edges.get((x, y), ()):
            rings.append(_follow(edges, (x, y)))
    return rings


def _follow(edges: dict[tuple[int, int], list[int]], start: tuple[int, int]) -> Ring:
    """Take the edges of one ring, eastwards first, out of ``edges``, and return where it turns."""
    corners: list[tuple[int, int]] = []
    place, direction = start, 0
    while True:
        edges[place].remove(direction)
        if not edges[place]:
            del edges[place]
        place = (place[0] + _STEPS[direction][0], place[1] + _STEPS[direction][1])
        # Where two pixels touch at a corner, around the one at hand: to the right.
        turns = [turn for turn in (1, 0, 3) if (direction + turn) % 4 in edges.get(place, ())]
        if not turns or turns[0]:
            corners.append(place)
        if not turns:  # back where it began
            return np.array(corners, np.int64)
        direction = (direction + turns[0]) % 4


def _joined(rings: Sequence[Ring]) -> Ring:
    """Hang rings on the first, each by a way from its first corner to the first one's and back."""
    if len(rings) == 1:
        return rings[0]
    first = rings[0]
    ways = [np.concatenate([ring, ring[:1], first[:1]]) for ring in rings[1:]]
    return np.concatenate([first, first[:1], *ways])
