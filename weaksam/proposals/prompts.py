"""Where SAM is asked: a grid over the image, and the peaks of the classifier's activation maps (section 3.2).

Grid points know nothing of classes. Peaks of coarse and fine maps are "semantic": each is one prompt, and all peaks of
one class are one more. Peaks of cross-attention maps are "instance-aware": those of all classes, heads and layers are
pooled and clustered, and each cluster is one prompt. All points are positive.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from weaksam.config import PromptsConfig
from weaksam.grids import grid_points
from weaksam.proposals.clusters import cluster_points
from weaksam.proposals.peaks import find_peaks
from weaksam.structures import MAP_KINDS, ClassMaps, Prompts

_NO_CLASS = -1
_SEMANTIC_SOURCES = ("coarse", "fine")


def grid_prompts(size_hw: tuple[int, int], points_per_side: int) -> Prompts:
    """One prompt per cell of an S x S grid, at the cell's centre, row by row.

    Args:
        size_hw: height and width of the image in pixels.
        points_per_side: S, 1 or more.

    Returns:
        S * S one-point prompts of no class.
    """
    return _alone("grid", "grid", grid_points(size_hw, points_per_side))


def clue_prompts(class_maps: Iterable[ClassMaps], config: PromptsConfig) -> list[Prompts]:
    """Prompts from the activation maps of the classes present.

    Maps are taken one class at a time and let go, so a lazy iterable holds the maps of one class in memory.

    Args:
        class_maps: one per present class. A kind without maps leaves its key out.
        config: which sources, how peaks are found and grouped.

    Returns:
        One ``Prompts`` per kind of map among ``config.sources``, in the order coarse, fine, cross. A kind without a peak
        is there and empty. Fine and coarse: every peak alone, class by class, best first, then (``class_joint``) the
        peaks of each class together, so n peaks of g classes make n + g prompts. Cross: one prompt per cluster.
    """
    sources = [source for source in MAP_KINDS if source in config.sources]
    peaks_xy: dict[str, dict[int, NDArray[np.int64]]] = {source: {} for source in sources}
    for of_class in class_maps:
        for source in sources:
            if source not in of_class.maps:
                continue
            kernel = config.peaks.kernel_cross if source == "cross" else config.peaks.kernel_cam
            peaks = find_peaks(of_class.maps[source], config.peaks, kernel=kernel)
            points_xy = np.concatenate([found.points_xy for found in peaks])
            if len(points_xy):
                peaks_xy[source][of_class.class_index] = points_xy
    return [
        _semantic(source, peaks_xy[source], class_joint=config.class_joint)
        if source in _SEMANTIC_SOURCES
        else _instance(source, peaks_xy[source], config)
        for source in sources
    ]


def _semantic(source: str, peaks_xy: dict[int, NDArray[np.int64]], *, class_joint: bool) -> Prompts:
    """Every peak alone, then the peaks of each class together; also of a class that has only one."""
    alone = [
        (point, class_index) for class_index, points in peaks_xy.items() for point in np.split(points, len(points))
    ]
    joint = [(points, class_index) for class_index, points in peaks_xy.items()] if class_joint else []
    return Prompts(
        source=source,
        points_xy=[points.astype(np.float32) for points, _ in alone + joint],
        kind=["semantic"] * len(alone) + ["class-joint"] * len(joint),
        class_index=[class_index for _, class_index in alone + joint],
    )


def _instance(source: str, peaks_xy: dict[int, NDArray[np.int64]], config: PromptsConfig) -> Prompts:
    """One prompt per cluster (or per peak) of the peaks of all classes together; which class is forgotten."""
    pooled = np.concatenate([np.empty((0, 2), dtype=np.int64), *peaks_xy.values()])
    return _alone(source, "instance", cluster_points(pooled, config.clusters).astype(np.float32))


def _alone(source: str, kind: str, points_xy: NDArray[np.float32]) -> Prompts:
    """Each of ``[n, 2]`` points as a prompt of its own, of no class."""
    n = len(points_xy)
    return Prompts(source=source, points_xy=list(points_xy[:, None]), kind=[kind] * n, class_index=[_NO_CLASS] * n)
