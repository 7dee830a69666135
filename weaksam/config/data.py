"""Options of the data sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from weaksam.config.checks import require
from weaksam.config.choices import Name
from weaksam.config.weights import NotInKey


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Drawn images with exact boxes and masks (``datasets/shapes``)."""

    size: int = 128  # pixels, width and height
    train: int = 300  # images per split; the three splits draw from disjoint seeds
    val: int = 100
    test: int = 100
    seed: int = 0  # another seed draws another data set of the same kind

    def __post_init__(self) -> None:
        require(32 <= self.size <= 4096, "size", "32..4096 pixels", self.size)
        for name in ("train", "val", "test"):
            require(0 <= getattr(self, name) <= 1_000_000, name, "0..1,000,000", getattr(self, name))
        require(0 <= self.seed < 1000, "seed", "0..999", self.seed)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images are and which splits play which part."""

    uri: str = ""  # folder, s3://… or "shapes:"; usually given on the command line as --data
    kind: Annotated[str, Name("weaksam.datasets:DATASETS", ("auto",))] = "auto"
    train_split: str = "auto"  # labels are granted to this split only; "auto" asks the data set, "none" grants none
    splits: tuple[str, ...] = ()  # splits to index; empty = all that the data set has
    pictures_only: bool = False  # neither classes nor labels nor true boxes are taken of the data set, of whatever kind
    include_difficult: bool = False  # labels for training count objects marked difficult (method 0.2)
    # Where a picture has another size than its annotation states.
    stated_size: NotInKey[Literal["check", "scale", "ignore"]] = "check"
    limit: int = 0  # first images of each split in hash order, for previews (--limit); 0 = all
    shapes: ShapesConfig = field(default_factory=ShapesConfig)

    def __post_init__(self) -> None:
        require(self.limit >= 0, "limit", "0 or more", self.limit)
