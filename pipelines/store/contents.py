"""What the images of a run folder hold, remembered so that the next ``index`` of any recipe does not read them again.

    RUN/index/_contents/part-0.parquet     of local files: address, size and time of modification, content, when it was read

Only speed depends on it: a file of it that is damaged or gone costs another reading of the images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pyarrow as pa

from pipelines.store.files import DamagedFileError
from pipelines.store.tables import Table
from weaksam.io.contents import ImageContent
from weaksam.io.files import join
from weaksam.io.stamps import Stamp

logger = logging.getLogger(__name__)

_CONTENTS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("read_ns", pa.int64(), nullable=False),
    ]
)


def known_contents(run_uri: str) -> dict[str, ImageContent]:
    """Return what is remembered, by address; nothing of a damaged file, which is said."""
    try:
        columns = _table(run_uri).read().to_pydict().values()
    except DamagedFileError as error:
        logger.warning("%s: damaged: %s; images are read again", error.path, error.reason)
        return {}
    return {
        uri: ImageContent(digest, Stamp(size, version), read_ns)
        for uri, size, version, digest, read_ns in zip(*columns, strict=True)
    }


def remember_contents(run_uri: str, contents: Mapping[str, ImageContent]) -> None:
    """Keep contents in the place of those that are remembered; those of images that are no local files are left out."""
    kept = [(uri, *c.stamp, c.digest, c.read_ns) for uri, c in contents.items() if c.stamp is not None]
    columns = zip(*kept, strict=True) if kept else [[]] * len(_CONTENTS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _CONTENTS, strict=True)]
    _table(run_uri).write_part(pa.Table.from_arrays(arrays, schema=_CONTENTS), "part-0")


def _table(run_uri: str) -> Table:
    return Table(join(run_uri, "index", "_contents"), _CONTENTS)
