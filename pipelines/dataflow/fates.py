"""What becomes of images that a pass left over: how carefully each is tried next, and when it is given up.

The death of a process over an image counts against the image only where its node lives on: nodes of spot markets are taken away
with healthy images in flight. An image that a process on a living node died over is tried in a task of its own, then by itself
and nothing else runs, so that no other image's memory is to blame, and is dropped if it dies again. One that was in
flight when a node was lost is tried again like all others, five times; then by itself, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import pyarrow as pa
import pyarrow.compute as pc

_LOST_WITH_OTHERS = 5  # times that a node was lost with the same image in flight

Reason = Mapping[str, str]  # ``reason`` and ``detail`` of a dropped image


class Care(IntEnum):
    """How an image is tried."""

    TOGETHER = 0  # in tasks of several images
    ALONE = 1  # in a task of its own
    BY_ITSELF = 2  # and nothing else runs


@dataclass
class Fates:
    """Those of the images of one stage. Of most there is nothing to be remembered."""

    _deaths: Counter[str] = field(default_factory=Counter)  # of processes, on nodes that live on
    _losses: Counter[str] = field(default_factory=Counter)  # passes that a node was lost in with the image in flight

    def next(self, left: pa.Table) -> tuple[pa.Table, Care]:
        """Return which of the images that are left are tried next, and how: those that need the least care."""
        cares = [self._care(image_id) for image_id in left["image_id"].to_pylist()]
        least = min(cares, default=Care.TOGETHER)
        chosen = left.filter(pc.equal(pa.array(cares, pa.int32()), int(least)))
        return chosen.slice(0, 1) if least is Care.BY_ITSELF else chosen, least

    def learn(self, died: Collection[str], lost: Collection[str]) -> dict[str, Reason]:
        """Take into account what a pass came to; return the images to drop, with their reasons.

        Args:
            died: images left over that a process on a living node died over.
            lost: images left over that were in flight on a node that was lost.
        """
        self._deaths.update(set(died))
        self._losses.update(set(lost) - set(died))
        dropped: dict[str, Reason] = {}
        for image_id in sorted({*died, *lost}):
            deaths, losses = self._deaths[image_id], self._losses[image_id]
            if deaths > Care.BY_ITSELF:
                detail = f"{deaths} times, the last time with nothing else at work"
                dropped[image_id] = {"reason": "process died", "detail": detail}
            elif losses > _LOST_WITH_OTHERS:
                detail = f"{losses} times, the last time with nothing else at work"
                dropped[image_id] = {"reason": "node lost", "detail": detail}
        return dropped

    def _care(self, image_id: str) -> Care:
        if self._losses[image_id] >= _LOST_WITH_OTHERS:
            return Care.BY_ITSELF
        return Care(min(self._deaths[image_id], Care.BY_ITSELF))
