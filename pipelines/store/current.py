"""The rows of a table that an instance is asked for: what readers see of a table that several sets share."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.store.identities import identities
from pipelines.store.planned import PLANNED_ROWS, digest_of, identity_keys
from pipelines.store.schemas import INPUT
from pipelines.store.tables import Rows, Table, read_ahead

_SPLIT = PLANNED_ROWS.field("split")


class CurrentRows(Rows):
    """Each planned row of a table once, with the split of its image in the place of what it was computed from.

    Whose rows the table has is looked up once, when they are first asked for.
    """

    def __init__(self, table: Table, planned: pa.Table) -> None:
        """See those rows of the ``table`` alone whose identities are among ``planned``, rows of ``PLANNED_ROWS``."""
        self.folder = table.folder
        self.mended_by = table.mended_by
        self.schema = table.schema.set(table.schema.get_field_index(INPUT.name), _SPLIT)
        self.set = digest_of(planned.select(PLANNED_ROWS.names))
        self._table = table
        self._planned = planned

    def stamps(self) -> list[str]:
        """See ``Rows``."""
        return self._table.stamps()

    @cached_property
    def identities(self) -> pa.Table:
        """Which planned rows there are: ``image_id``, ``input``, ``split`` and the ``part`` (file name) that each is in."""
        found = identities(self._table)
        rows, places = _wanted(found, self._planned)
        return found.take(rows).append_column(_SPLIT, self._planned["split"].take(places))

    def ids(self) -> list[str]:
        """See ``Rows``."""
        ids: list[str] = self.identities["image_id"].to_pylist()
        return ids

    def iter_parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """See ``Rows``; files without a planned row are not opened."""
        names = [name for name in self.schema.names if columns is None or name in columns]
        stored = pa.schema([field for field in self._table.schema if field.name in (*names, *PLANNED_ROWS.names)])
        paths = {posixpath.basename(path): path for path in self._table.parts()}

        def read(of_part: tuple[str, pa.Table]) -> pa.Table:
            name, current = of_part
            part = self._table.read_part(paths[name], stored)
            rows, places = _wanted(part, current)
            return part.take(rows).append_column(_SPLIT, current["split"].take(places)).select(names)

        return read_ahead(read, self._by_part(), self.folder)

    def class_names(self) -> tuple[str, ...]:
        """See ``Rows``."""
        return self._table.class_names()

    def _by_part(self) -> Iterator[tuple[str, pa.Table]]:
        begin = 0
        for name, rows in groupby(self.identities["part"].cast(pa.string()).to_pylist()):
            count = len(list(rows))
            yield name, self.identities.slice(begin, count)
            begin += count


def _wanted(rows: pa.Table, wanted: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of wanted rows, each identity once, and where it stands among the wanted."""
    places = pc.index_in(identity_keys(rows), identity_keys(wanted)).fill_null(-1).to_numpy(zero_copy_only=False)
    _, first = np.unique(places, return_index=True)
    kept = np.sort(first[places[first] >= 0])
    return kept.astype(np.int64), places[kept].astype(np.int64)
