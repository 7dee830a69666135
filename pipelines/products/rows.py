"""What is said of tables that were made image by image."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.engine.product import Facts


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """How fast the last run of a stage worked."""

    images_per_s: float
    seconds: float
    images: int = 0  # rows made


@dataclass(frozen=True, kw_only=True)
class RowFacts(Facts):
    """What a stage that computes rows on pools of actors says of them."""

    throughput: Throughput | None = None
    actors: str = ""  # how many, of which kind, for people
