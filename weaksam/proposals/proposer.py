"""The front door of the method: an image and its image-level labels in, object proposals out (WeakSAM section 3).

    clues = load_clues(CluesConfig(source=WeakTrConfig(), weights=Weights("…")))
    sam = load_sam(SamConfig(name="vit_h"))
    proposals = Proposer(clues, sam)(image, labels=[14])

It is two halves that may run in different processes: ``prompt`` needs the clue network alone, ``segment`` needs SAM alone,
and between them go points, not maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
from numpy.typing import NDArray
from segment_anything.modeling import Sam

from weaksam.clues.base import ClueSource
from weaksam.clues.gating import present_classes
from weaksam.config import CluesConfig, PromptsConfig, ProposalsConfig
from weaksam.errors import ConfigError
from weaksam.proposals.filters import propose
from weaksam.proposals.prompts import clue_prompts, grid_prompts
from weaksam.sam.encode import ResizedImage, encode_image, resize_image
from weaksam.structures import MAP_KINDS, ClassMaps, Prompts, Proposals


@dataclass(frozen=True)
class Proposer:
    """Clue network, prompts, SAM and filters in a row; one image at a time."""

    clues: ClueSource | None  # None: prompt with the grid alone
    sam: Sam | None  # None: for ``prompt`` alone
    _: KW_ONLY
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    proposals: ProposalsConfig = field(default_factory=ProposalsConfig)
    clues_config: CluesConfig = field(default_factory=CluesConfig)  # decides which classes count as present

    def __call__(self, image: NDArray[np.uint8], labels: Sequence[int] | None = None) -> Proposals:
        """Object proposals of one image: ``segment`` of ``prompt``.

        Args:
            image: ``[H, W, 3]`` RGB, upright.
            labels: class indices present; () = none of the classes, None = unknown, to be predicted.

        Returns:
            All sources in the order of ``structures.SOURCES``.
        """
        return self.segment(image, self.prompt(image, labels))

    def prompt(
        self,
        image: NDArray[np.uint8],
        labels: Sequence[int] | None = None,
        *,
        on_maps: Callable[[ClassMaps], None] | None = None,
    ) -> list[Prompts]:
        """Prompts from the peaks of the activation maps of the classes present.

        Args:
            image: ``[H, W, 3]`` RGB, upright.
            labels: as above.
            on_maps: called with the maps of each class before they are let go, to draw or keep them.

        Returns:
            One ``Prompts`` per wanted kind of map, also where it is empty; no list entry at all, and no look at the
            image, where there is no clue source or no kind is wanted.
        """
        if self.clues is None or not set(self.prompts.sources) & set(MAP_KINDS):
            return []
        present = present_classes(self.clues, image, labels, self.clues_config)
        class_maps = self.clues.class_maps(image, present)
        return clue_prompts(class_maps if on_maps is None else _shown(class_maps, on_maps), self.prompts)

    def resize(self, image: NDArray[np.uint8]) -> ResizedImage:
        """Resize an image for ``segment``, which does it itself otherwise: for another thread to prepare it.

        Raises:
            ConfigError: this proposer was made without a SAM.
        """
        return resize_image(self._sam, image)

    def segment(self, image: NDArray[np.uint8] | ResizedImage, prompts: Sequence[Prompts]) -> Proposals:
        """Proposals from clue prompts and, if wanted, the grid, which needs no clues and is added here.

        Args:
            image: ``[H, W, 3]`` RGB, upright, or what ``resize`` made of it.
            prompts: from ``prompt``, in pixels of the image itself.

        Raises:
            ConfigError: this proposer was made without a SAM.
        """
        encoded = encode_image(self._sam, image)
        wanted = "grid" in self.prompts.sources
        grid = [grid_prompts(encoded.size_hw, self.prompts.points_per_side)] if wanted else []
        return propose(self._sam, encoded, [*grid, *prompts], self.proposals)

    @property
    def _sam(self) -> Sam:
        if self.sam is None:
            raise ConfigError("Proposer: expected a SAM, got None; make the Proposer with load_sam(SamConfig(…))")
        return self.sam


def _shown(class_maps: Iterator[ClassMaps], on_maps: Callable[[ClassMaps], None]) -> Iterator[ClassMaps]:
    for of_class in class_maps:
        on_maps(of_class)
        yield of_class
