"""Rows on their way through workers: what is planned, fetching and validating, and setting aside what cannot be used.

Plain functions, columns in and columns out, callable without Ray. An image that cannot be used gets a ``reason`` and passes
through to the last actor, which writes it into ``_dropped``; nothing is raised for a single image.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.engine import logs
from pipelines.store.dropped import write_dropped
from pipelines.store.instances import Instance
from weaksam.errors import ConfigError, ImageError
from weaksam.heap import keep_heap

logger = logging.getLogger(__name__)

T = TypeVar("T")

OUT_OF_MEMORY = "out of GPU memory"  # the reason of an image that does not fit, whatever is halved
_AHEAD = 2  # images that are prepared while another one is computed on
_READERS = 16  # concurrent reads per fetching task: a bucket answers each in tens of milliseconds

PLANNED = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("input", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("labels", pa.list_(pa.int32())),  # what gating may use; null = predict
    ]
)
READ = (
    pa.field("bytes", pa.binary()),
    pa.field("reason", pa.string()),  # null = fine
    pa.field("detail", pa.string()),
)
FETCHED = pa.schema([*PLANNED, *READ])


def planned_images(planned: pa.Table, images: pa.Table, labels: str = "") -> pa.Table:
    """Return planned rows with what working them off needs of their images, as ``PLANNED`` in the order of the index.

    Args:
        planned: identities of the rows (``PLANNED_ROWS``).
        images: the images table.
        labels: its column that gating may use; "" where no labels are looked at.
    """
    at = pc.index_in(images["image_id"], planned["image_id"].combine_chunks())
    images, at = images.filter(at.is_valid()), at.drop_null()
    known = images[labels] if labels else pa.nulls(images.num_rows, PLANNED.field("labels").type)
    return pa.table([images["image_id"], planned["input"].take(at), images["uri"], known], schema=PLANNED)


def beside(images: pa.Table, rows: pa.Table) -> pa.Table:
    """Return the images that have a row, with its columns."""
    at = pc.index_in(images["image_id"], rows["image_id"].combine_chunks())
    images, at = images.filter(at.is_valid()), at.drop_null()
    for name in rows.column_names:
        if name != "image_id":
            images = images.append_column(rows.schema.field(name), rows[name].take(at))
    return images


def among(images: pa.Table, image_ids: Sequence[str]) -> pa.Table:
    """Return the images that are some of those."""
    return images.filter(pc.is_in(images["image_id"], pa.array(image_ids, pa.string())))


def fetch(batch: pa.Table, *, longest_side: int) -> pa.Table:
    """Read and validate images, one thread each; what cannot be used, or is too thin for its longest side, gets a reason.

    ``longest_side`` is in pixels, 0 = images are not scaled.

    Columns PLANNED -> FETCHED; whatever else planned rows have stays with them.
    """
    from weaksam.io.files import read_bytes
    from weaksam.io.images import check_resized, decode_at_least

    def one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            data = read_bytes(row["uri"])
            _, size_hw = decode_at_least(data, 1)
            if longest_side:
                check_resized(size_hw, longest_side)
        except ImageError as error:
            return {**row, "bytes": None, "reason": error.reason, "detail": error.detail}
        return {**row, "bytes": data, "reason": None, "detail": None}

    with ThreadPoolExecutor(_READERS) as pool:
        return pa.Table.from_pylist(
            list(pool.map(logs.of_image(one), batch.to_pylist())), schema=pa.schema([*batch.schema, *READ])
        )


def finish_batch(instance: Instance, rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Set rows with a reason aside into ``_dropped``; return the others as the table that is written."""
    write_dropped(instance, [row for row in rows if row.get("reason")])
    return pa.Table.from_pylist([row for row in rows if not row.get("reason")], schema=schema)


def work_batch(
    batch: pa.Table,
    instance: Instance,
    schema: pa.Schema,
    work: Callable[..., dict[str, Any]],
    prepare: Callable[[dict[str, Any]], Any] | None = None,
    *,
    ahead: bool,
) -> pa.Table:
    """Turn fetched images into rows of the table, one after the other; those with a reason go to ``_dropped`` and not on.

    Args:
        batch: columns FETCHED, and what else ``work`` reads.
        instance: whose table it is.
        schema: of the table.
        work: a row, and as ``ready`` a function that gives what was prepared of it -> its row of the table.
        prepare: of a row; None decodes its image.
        ahead: whether the next images are prepared meanwhile.
    """
    rows = prepared(batch.to_pylist(), prepare or decode_row, ahead=ahead)
    return finish_batch(instance, [guarded(partial(work, ready=ready), row, ()) for row, ready in rows], schema)


def guarded(work: Callable[[dict[str, Any]], dict[str, Any]], row: dict[str, Any], missing: Any) -> dict[str, Any]:
    """Run ``work`` on a row that is fine so far; a failure becomes its reason. A broken GPU ends the process instead.

    An image for which a GPU had too little memory is tried once more: other threads may have held it.
    """
    blank = {f.name: None for f in missing}
    if row["reason"]:
        return {**row, **blank}
    attempt = logs.of_image(partial(_attempt, work))
    done = attempt(row)
    if done.get("reason") == OUT_OF_MEMORY:
        import torch

        torch.cuda.empty_cache()
        done = attempt(row)
    return {**row, **blank, **done} if done.get("reason") else done


def _attempt(work: Callable[[dict[str, Any]], dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """Return what ``work`` makes of a row, or the reason and the detail of its failure."""
    from weaksam.chunks import is_out_of_memory

    try:
        return work(row)
    except ImageError as error:
        return _failure(error.reason, error.detail)
    except (
        OSError,
        ConfigError,
    ):  # of this machine or its network, such as a full disk, or of the recipe: not of the image
        raise
    except Exception as error:  # one image must not cost the job; --max-dropped judges how many may fail
        logger.exception("image %s", row["image_id"])
        if is_out_of_memory(error):
            return _failure(OUT_OF_MEMORY, f"{type(error).__name__}: {error}")
        if "CUDA error" in str(error):
            logger.critical("the GPU context is broken; this actor ends and a fresh one takes over")
            os._exit(1)  # sys.exit can hang the pool (ray#62746), and every later call here would fail as well
        return _failure("internal error", f"{type(error).__name__}: {error}")


def _failure(reason: str, detail: str) -> dict[str, Any]:
    return {"reason": reason, "detail": detail[:500]}


def prepared(
    rows: Sequence[dict[str, Any]], prepare: Callable[[dict[str, Any]], T], *, ahead: bool
) -> Iterator[tuple[dict[str, Any], Callable[[], T]]]:
    """Yield each row with a function that gives what ``prepare`` makes of it, or raises what it raised.

    Called again it prepares anew: of an image that was out of memory once.

    Args:
        rows: of a batch.
        prepare: not called for a row with a reason unless its function is.
        ahead: let threads prepare the next rows meanwhile, so that a GPU does not wait. A CPU has nothing to gain.
    """
    if not ahead:
        yield from ((row, partial(prepare, row)) for row in rows)
        return
    with ThreadPoolExecutor(_AHEAD) as pool:
        started: deque[tuple[dict[str, Any], Callable[[], T]]] = deque()
        for row in rows:
            under_way: list[Callable[[], T]] = (
                [] if row["reason"] else [pool.submit(logs.of_image(prepare), row).result]
            )
            started.append((row, partial(_taken, under_way, partial(prepare, row))))
            if len(started) > _AHEAD:
                yield started.popleft()
        yield from started


def _taken(under_way: list[Callable[[], T]], anew: Callable[[], T]) -> T:
    return under_way.pop()() if under_way else anew()


def decode_row(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the pixels of a fetched row."""
    from weaksam.io.images import decode_image

    return decode_image(row["bytes"])


def use_cpu(threads: int, device: str) -> None:
    """Give torch this many threads in this process, and let it keep its memory, when it computes on the CPU."""
    import torch

    if device == "cpu":
        torch.set_num_threads(threads)
        keep_heap()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work in one thread: a few images gain little by more, which wait for each other where the cores are busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
