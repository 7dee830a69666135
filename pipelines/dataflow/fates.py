"""What becomes of images that a pass left over: how carefully each is tried next, and when it is given up.

The death of a process over an image counts against the image only where its node lives on: nodes of spot markets are taken away
with healthy images in flight. An image that a process on a living node died over is tried in a task of its own, then by itself
in the only actor that there is, so that no other image's memory is to blame, and is dropped if it dies again. One that was in
flight when a node was lost is tried again like all others, five times; then by itself, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import pyarrow as pa
import pyarrow.compute as pc

_LOST_WITH_OTHERS = 5  # nodes, with the same image in flight

Reason = Mapping[str, str]  # ``reason`` and ``detail`` of a dropped image


class Care(IntEnum):
    """How an image is tried."""

    TOGETHER = 0  # in tasks of several images
    ALONE = 1  # in a task of its own
    BY_ITSELF = 2  # and nothing else runs


@dataclass
class Fates:
    """Those of the images of one stage. Of most there is nothing to be remembered."""

    _care: dict[str, Care] = field(default_factory=dict)
    _losses: Counter[str] = field(default_factory=Counter)  # nodes that were lost with the image in flight

    def next(self, left: pa.Table) -> tuple[pa.Table, Care]:
        """Return which of the images that are left are tried next, and how: those that need the least care."""
        cares = [self._care.get(image_id, Care.TOGETHER) for image_id in left["image_id"].to_pylist()]
        least = min(cares, default=Care.TOGETHER)
        return left.filter(pc.equal(pa.array(cares, pa.int32()), int(least))), least

    def learn(self, died: Collection[str], lost: Collection[str]) -> dict[str, Reason]:
        """Take into account what a pass came to; return the images to drop, with their reasons.

        Args:
            died: images left over that a process on a living node died over.
            lost: images left over that were in flight on a node that was lost.
        """
        dropped: dict[str, Reason] = {}
        for image_id in sorted(set(died)):
            care = self._care.get(image_id, Care.TOGETHER)
            if care is Care.BY_ITSELF:
                dropped[image_id] = {
                    "reason": "process died",
                    "detail": "each time, the last time with nothing else at work",
                }
            else:
                self._care[image_id] = Care(care + 1)
        for image_id in sorted(set(lost) - set(died)):
            self._losses[image_id] += 1
            times = self._losses[image_id]
            if times > _LOST_WITH_OTHERS:
                detail = f"{times} nodes, the last time with nothing else at work"
                dropped[image_id] = {"reason": "node lost", "detail": detail}
            elif times == _LOST_WITH_OTHERS:
                self._care[image_id] = Care.BY_ITSELF
        return dropped
