"""The proof that a stage of rows ends with: what became of the images that were planned, counted from files."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipelines.store.identities import identities
from pipelines.store.planned import also_in, first_of_each, without
from pipelines.store.tables import Table
from weaksam.errors import RunError


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What became of the planned images."""

    images: int  # planned
    done: int
    dropped: int
    before: int = 0  # of the done ones, those that were there when the work began
    duplicates: int = 0

    def __str__(self) -> str:
        """The line that a stage ends with."""
        done = f"done {self.done:,}{f' ({self.before:,} from before)' if self.before else ''}"
        return f"images {self.images:,} = {done} + dropped {self.dropped:,} · duplicates {self.duplicates:,}"


def left(planned: pa.Table, *tables: Table) -> pa.Table:
    """Return the planned rows that are in none of some tables, such as those of done and of dropped rows."""
    return without(planned, *map(identities, tables))


def prove(planned: pa.Table, table: Table, dropped: Table, before: int = 0) -> Proof:
    """Compute what became of planned images.

    Args:
        planned: identities, each image once.
        table: of the rows that are done; those of other sets count for nothing.
        dropped: of images that cannot be used; one that is done as well counts as done.
        before: how many were done when the work began.

    Raises:
        RunError: an image is neither done nor dropped, or done twice.
    """
    found, gone = identities(table), identities(dropped)
    done, undone = also_in(planned, found), without(planned, found)
    lost, missing = also_in(undone, gone), without(undone, gone)
    copies = int((~first_of_each(found)).sum())
    proof = Proof(images=planned.num_rows, done=done.num_rows, dropped=lost.num_rows, before=before, duplicates=copies)
    if missing.num_rows or copies:
        some = ", ".join(missing["image_id"].to_pylist()[:5])
        raise RunError(
            f"{table.folder}: the proof does not hold: {proof}, missing {missing.num_rows:,} ({some}). Run the same command "
            f"again; if it persists, delete {table.folder} and run it once more"
        )
    return proof
