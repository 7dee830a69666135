"""How many boxes images have, as a section of a page."""

import numpy as np
from pyarrow import Table

from pipelines.stages.propose.sections.counts import Counts
from pipelines.store.schemas import PROPOSALS, proposals_to_row, with_class_names
from tests.support.drawn_run import drawn_proposals
from tests.support.sets import FROM_NOTHING


def test_boxes_and_discards_are_counted_in_one_pass():
    counts = Counts()
    rows = [proposals_to_row(str(n), FROM_NOTHING, drawn_proposals(np.zeros((n, 4)), seed=n)) for n in range(3)]
    table = Table.from_pylist(rows, schema=with_class_names(PROPOSALS, ()))
    counts.add(table.append_column("split", [["train"] * 3]))
    assert counts.boxes == {"train": [1, 3, 5]}
    assert counts.discarded == {("grid", "low predicted IoU"): 15, ("grid", "suppressed"): 6}
