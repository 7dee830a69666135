"""Options of ``Centre``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from weaksam.config.retrain import RetrainedDetectorConfig


@dataclass(frozen=True, kw_only=True)
class CentreConfig(RetrainedDetectorConfig):
    """Where the one box lies."""

    implementation: ClassVar[str] = "elsewhere.centre.network:Centre"

    name: str = "centre"
    fraction: float = 0.5  # of the view's sides that the box takes
