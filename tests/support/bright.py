"""A clue source of another package that needs no training, and no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam.config import CluesConfig, ClueSourceConfig
from weaksam.structures import ClassMaps


@dataclass(frozen=True, kw_only=True)
class BrightConfig(ClueSourceConfig):
    """Options of ``Bright``."""

    implementation: ClassVar[str] = f"{__name__}:Bright"
    kinds: ClassVar[tuple[str, ...]] = ("coarse",)

    name: str = "bright"
    gamma: float = 1.0


class Bright:
    """Every class is where the image is bright."""

    def __init__(
        self, config: CluesConfig, *, class_names: Sequence[str], kinds: Sequence[str], device: str | torch.device
    ) -> None:
        assert isinstance(config.source, BrightConfig)
        self.class_names, self.kinds = tuple(class_names), tuple(kinds)
        self.gamma, self.device = config.source.gamma, device

    def logits(self, image: NDArray[np.uint8]) -> torch.Tensor:
        return torch.full((len(self.class_names),), float(image.mean()))

    def class_maps(self, image: NDArray[np.uint8], class_index: Sequence[int]) -> Iterator[ClassMaps]:
        for index in class_index:
            maps = torch.from_numpy(image.max(axis=2) / 255.0).float()[None] ** self.gamma
            yield ClassMaps(class_index=index, maps={kind: maps.to(self.device) for kind in self.kinds})
