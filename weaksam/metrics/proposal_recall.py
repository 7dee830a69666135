"""How many true objects the proposals cover, per source as it is added to those before it (Tables 4 and 11).

Two ways of matching the G objects of an image with its N proposals:

* one-to-one, the published count: take the globally best (object, proposal) pair, remove both, repeat;
* many-to-one, the usual one: each object takes its best proposal, which others may take as well.

The greedy pairs come out in falling order of IoU, so which pairs exist does not depend on the threshold asked
afterwards: an image is matched once, and recall at any threshold is a comparison. Unlike in the published script, an
image without proposals counts as missed objects instead of leaving the denominator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam.boxes_np import iou_float64
from weaksam.structures import TABLE_SOURCES, GroundTruth

CURVE_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))  # IoU .50:.05:.95, .5, .75, .9 among them


def match_one_to_one(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of each object with the proposal it is paired with, greedily by the globally best pair.

    Args:
        iou: [G, N] in [0, 1], objects against proposals. Equal pairs go to the first object, then the first proposal.

    Returns:
        [G], 0 for an object left without a proposal that overlaps it.
    """
    matched = np.zeros(len(iou))
    left = iou.copy()
    for _ in range(min(iou.shape)):
        gt, proposal = divmod(int(left.argmax()), iou.shape[1])
        if left[gt, proposal] <= 0:
            break
        matched[gt] = left[gt, proposal]
        left[gt, :] = 0
        left[:, proposal] = 0
    return matched


def match_many_to_one(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of each object with its best proposal: [G, N] -> [G], 0 where there is no proposal."""
    best: NDArray[np.float64] = iou.max(axis=1, initial=0.0)
    return best


def cumulative(sources: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The rows of Table 4: each of ``TABLE_SOURCES`` together with those before it, then every other source on its own.

    Returns:
        Row name (the source that it adds) -> the sources that it counts; empty for no sources.
    """
    method = [source for source in TABLE_SOURCES if source in sources]
    rows = {source: tuple(method[: n + 1]) for n, source in enumerate(method)}
    return rows | {source: (source,) for source in sorted(set(sources) - set(TABLE_SOURCES))}


@dataclass(frozen=True, kw_only=True)
class RecallRow:
    """Recall of one set of sources over all images that were added."""

    name: str
    sources: tuple[str, ...]
    images: int
    boxes: int
    objects: int
    thresholds: tuple[float, ...]  # IoU
    hits_one_to_one: tuple[int, ...]  # objects matched at each threshold
    hits_many_to_one: tuple[int, ...]

    @property
    def mean_boxes(self) -> float:
        """Proposals per image, exact (the published number is truncated); NaN without images."""
        return self.boxes / self.images if self.images else float("nan")

    def recall(self, threshold: float, *, many_to_one: bool = False) -> float:
        """Share of objects with a match of at least ``threshold``, one of ``thresholds``; NaN without objects."""
        hits = self.hits_many_to_one if many_to_one else self.hits_one_to_one
        return hits[self.thresholds.index(threshold)] / self.objects if self.objects else float("nan")


class ProposalRecall:
    """Counts matches image by image; what it holds does not grow with the images.

    Args:
        rows: row name -> the sources that it counts together, as ``cumulative`` gives them. Proposals of a source that
            no row names are ignored.
        thresholds: IoU in (0, 1] at which matches are counted; an object matched at exactly that IoU is found.
        include_difficult: count objects marked difficult (published). Crowds are never counted.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[str]],
        *,
        thresholds: Sequence[float] = CURVE_THRESHOLDS,
        include_difficult: bool = True,
    ) -> None:
        self._rows = {name: tuple(sources) for name, sources in rows.items()}
        self._thresholds = tuple(thresholds)
        self._include_difficult = include_difficult
        self._images = 0
        self._objects = 0
        self._boxes = dict.fromkeys(self._rows, 0)
        self._one_to_one = {name: np.zeros(len(self._thresholds), np.int64) for name in self._rows}
        self._many_to_one = {name: np.zeros(len(self._thresholds), np.int64) for name in self._rows}

    def add(self, boxes_xyxy: NDArray[np.float32], source: Sequence[str], truth: GroundTruth) -> None:
        """Count one image: its proposals [N, 4] with the source of each, in any order, against its true objects."""
        counted = ~truth.crowd & (self._include_difficult | ~truth.difficult)
        # In float64 the IoU of whole pixels is the nearest number to the true ratio, so 9/10 does reach 0.9.
        iou = iou_float64(truth.boxes_xyxy[counted].reshape(-1, 4), boxes_xyxy.reshape(-1, 4))
        of_box = np.array(source, dtype=np.str_)

        self._images += 1
        self._objects += len(iou)
        for name, sources in self._rows.items():
            inside = np.isin(of_box, sources)
            self._boxes[name] += int(inside.sum())
            self._one_to_one[name] += self._hits(match_one_to_one(iou[:, inside]))
            self._many_to_one[name] += self._hits(match_many_to_one(iou[:, inside]))

    def rows(self) -> list[RecallRow]:
        """The counts so far, in the order in which the rows were named."""
        return [
            RecallRow(
                name=name,
                sources=sources,
                images=self._images,
                boxes=self._boxes[name],
                objects=self._objects,
                thresholds=self._thresholds,
                hits_one_to_one=tuple(self._one_to_one[name].tolist()),
                hits_many_to_one=tuple(self._many_to_one[name].tolist()),
            )
            for name, sources in self._rows.items()
        ]

    def _hits(self, matched: NDArray[np.float64]) -> NDArray[np.int64]:
        hits: NDArray[np.int64] = (matched[:, None] >= np.array(self._thresholds)).sum(axis=0)
        return hits
