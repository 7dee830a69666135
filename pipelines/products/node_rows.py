"""Rows of a table by image, which many processes of a node look up: loaders of a training, actors of a stage.

They share one file on the node's disk (``node_files``). No process holds the table: of a data set of COCO's size, masks alone
are gigabytes, and more than one Arrow array holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import pyarrow as pa

from pipelines.products.node_files import on_this_node
from pipelines.store.tables import Rows


class _Place(NamedTuple):
    batch: int
    row: int


class NodeRows(Mapping[str, dict[str, Any]]):
    """Image id -> some columns of its row; all images of a table, whichever of its files they are in."""

    def __init__(self, table: Rows, columns: Sequence[str], *, kind: str, what: str) -> None:
        """Open the node's file, or make it.

        Args:
            table: with a row for each image.
            columns: of it, beside ``image_id``.
            kind: of files, the name of their folder; one for each choice of columns.
            what: they hold, for messages.
        """
        schema = pa.schema([table.schema.field(name) for name in ("image_id", *columns)])  # and no metadata

        def batches() -> Iterator[pa.RecordBatch]:
            for part in table.iter_parts(schema.names):
                yield from part.select(schema.names).cast(schema).to_batches()

        def write(file: IO[bytes]) -> None:
            with pa.ipc.new_file(file, schema) as writer:
                for batch in batches():
                    writer.write_batch(batch)

        reader = on_this_node(table, write, kind=kind, what=what)
        found = batches() if reader is None else map(reader.get_batch, range(reader.num_record_batches))
        self._batches = list(found)
        self._places = {
            image_id: _Place(n, row)
            for n, batch in enumerate(self._batches)
            for row, image_id in enumerate(batch["image_id"].to_pylist())
        }

    def __getitem__(self, image_id: str) -> dict[str, Any]:
        """Return the columns of one image's row; an image without a row is a KeyError."""
        place = self._places[image_id]
        (row,) = self._batches[place.batch].slice(place.row, 1).drop_columns(["image_id"]).to_pylist()
        found: dict[str, Any] = row
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
