"""Which images of a split are measured worst."""

from __future__ import annotations

import bisect
from typing import Any

MOST = 24  # images of a split that are remembered


class WorstImages:
    """The images of least mean IoU, fed one by one in any order; of equals, those whose ids come first."""

    def __init__(self) -> None:
        self._worst: list[tuple[float, str]] = []

    def add(self, image_id: str, mean_iou: float) -> None:
        """Remember an image if it is among the worst."""
        bisect.insort(self._worst, (mean_iou, image_id))
        del self._worst[MOST:]

    def to_plain(self) -> list[dict[str, Any]]:
        """Return ``image_id`` and ``mean_iou`` of each, worst first."""
        return [{"image_id": image_id, "mean_iou": mean_iou} for mean_iou, image_id in self._worst]
