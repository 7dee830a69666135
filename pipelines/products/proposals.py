"""Object proposals: boxes with their sources, and what they were prompted with."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.engine.product import Product
from pipelines.products.proposal_boxes import ImageBoxes, ProposalBoxes, iter_boxes, met_sources
from pipelines.products.rows import RowFacts
from pipelines.store.schemas import PROPOSALS


class ProposalTable(Product[RowFacts]):
    """The product of ``propose``, and of an import of other people's proposals."""

    schema = PROPOSALS
    facts_type = RowFacts
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
