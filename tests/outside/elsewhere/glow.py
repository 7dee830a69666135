"""A clue source without training: every class is where the image is bright."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam.config.clues import CluesConfig, ClueSourceConfig
from weaksam.structures import ClassMaps


@dataclass(frozen=True, kw_only=True)
class GlowConfig(ClueSourceConfig):
    """Options of ``Glow``."""

    implementation: ClassVar[str] = f"{__name__}:Glow"
    kinds: ClassVar[tuple[str, ...]] = ("coarse",)

    name: str = "glow"


class Glow:
    """A ``ClueSource``."""

    def __init__(
        self, _config: CluesConfig, *, class_names: Sequence[str], kinds: Sequence[str], device: str | torch.device
    ) -> None:
        self.class_names, self.kinds, self._device = tuple(class_names), tuple(kinds), device

    def logits(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Bright images have everything."""
        return torch.full((len(self.class_names),), float(image.mean()))

    def class_maps(self, image: NDArray[np.uint8], class_index: Sequence[int]) -> Iterator[ClassMaps]:
        """The same map for every class."""
        maps = torch.from_numpy(image.max(axis=2) / 255.0).float()[None].to(self._device)
        for index in class_index:
            yield ClassMaps(class_index=index, maps=dict.fromkeys(self.kinds, maps))
