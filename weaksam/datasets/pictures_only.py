"""The pictures of a data set and nothing of what is said of them: what a trained detector is shown."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from weaksam.datasets.label_maps import NO_MAPS, TrueLabelMaps
from weaksam.structures import GroundTruth, ImageRecord

if TYPE_CHECKING:
    from weaksam.datasets import Dataset
    from weaksam.datasets.passed_over import PassedOver


class PicturesOnly:
    """Another data set without its classes, labels and true boxes; see ``Dataset``."""

    class_names: tuple[str, ...] = ()

    def __init__(self, of: Dataset) -> None:
        self._of = of

    @property
    def kind(self) -> str:
        """That of the other."""
        return self._of.kind

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of the other."""
        return self._of.splits

    def records(self, split: str) -> list[ImageRecord]:
        """The images of a split; their labels are unknown."""
        return [replace(record, labels=None, labels_difficult=None) for record in self._of.records(split)]

    def ground_truth(self, split: str, *, masks: bool = False) -> dict[str, GroundTruth]:  # noqa: ARG002
        """Empty: nothing is known of boxes."""
        return {}

    def true_label_maps(self, split: str) -> TrueLabelMaps:  # noqa: ARG002
        """None are known."""
        return NO_MAPS

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """What the other passes over."""
        return self._of.passed_over

    def fingerprint(self) -> str:
        """Changes when the other's does."""
        return hashlib.sha256(f"pictures of {self._of.fingerprint()}".encode()).hexdigest()[:16]
