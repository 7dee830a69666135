"""Object proposals: boxes with their sources, and what they were prompted with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.engine.product import Product
from pipelines.engine.stage import Job
from pipelines.products.proposal_boxes import ImageBoxes, iter_boxes, met_sources
from pipelines.products.rows import RowFacts
from pipelines.recipe.keys import Inputs
from pipelines.store.schemas import PROPOSALS
from pipelines.store.tables import Rows


class ProposalTable(Product[RowFacts]):
    """The product of ``propose``, and of an import of other people's proposals."""

    schema = PROPOSALS
    facts_type = RowFacts
    shown_unfinished = True

    def images(self, *, masks: bool = False) -> Iterator[ImageBoxes]:
        """Yield what measuring needs of each image, with masks if asked for, holding one file in memory."""
        return iter_boxes(self.table, masks=masks)

    def met_sources(self) -> set[str]:
        """Return every source that has a box somewhere."""
        return met_sources(self.table)


def proposal_tables(job: Job[Any], names: Inputs) -> tuple[Rows, ...]:
    """Return the tables of proposals that a job reads under these names."""
    return tuple(job.input(name, ProposalTable).table for name in names)
