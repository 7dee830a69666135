"""Object proposals: boxes with their sources, and what they were prompted with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.product import Product
from pipelines.products.heat_maps import read_heat_maps
from pipelines.products.proposal_boxes import ImageBoxes, ProposalBoxes, iter_boxes, met_sources
from pipelines.products.rows import RowFacts
from pipelines.store.schemas import PROPOSALS


@dataclass(frozen=True, kw_only=True)
class ProposalFacts(RowFacts):
    """What ``propose`` says of its table."""

    gallery: tuple[str, ...] = ()  # images whose heat maps are kept


class ProposalTable(Product[ProposalFacts]):
    """The product of ``propose``, and of an import of other people's proposals."""

    schema = PROPOSALS
    facts_type = ProposalFacts
    shown_unfinished = True

    def images(self) -> Iterator[ImageBoxes]:
        """Yield what measuring needs of each image, holding one file in memory."""
        return iter_boxes(self.table)

    def boxes(self, sources: tuple[str, ...] = ()) -> ProposalBoxes:
        """Return the boxes of all images in memory, of some sources or of all; see ``ProposalBoxes``."""
        return ProposalBoxes(self.table, sources)

    def met_sources(self) -> set[str]:
        """Return every source that has a box somewhere."""
        return met_sources(self.table)

    def heat_maps(self, image_id: str) -> Mapping[tuple[int, str], NDArray[np.float32]]:
        """Return the kept maps ``[H, W]`` of an image by (class index, source); empty when none were kept."""
        return read_heat_maps(self.instance, image_id)
