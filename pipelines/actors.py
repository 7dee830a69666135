"""What runs inside Ray: plain functions and classes, columns in and columns out, callable in a test without Ray.

    fetch (tasks)  uri -> encoded bytes, checked        PromptActor  bytes -> prompts        SegmentActor  prompts -> boxes

Encoded bytes and points travel between them; pixels and activation maps never do. An image that cannot be used gets a
``reason`` and passes through to the last actor, which writes it into ``_dropped``; nothing is raised for a single image.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.store.instances import Instance
from pipelines.store.schemas import (
    PROMPT_COLUMNS,
    PROPOSALS,
    prompts_from_columns,
    prompts_to_columns,
    proposals_to_row,
)
from pipelines.store.tables import part_name
from weaksam.config import CluesConfig, PromptsConfig, ProposalsConfig, SamConfig, SelectiveSearchConfig
from weaksam.errors import ImageError
from weaksam.structures import CLUE_SOURCES, ClassMaps

logger = logging.getLogger(__name__)

_READERS = 16  # concurrent reads per fetching task: a bucket answers each in tens of milliseconds

TODO = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("labels", pa.list_(pa.int32())),  # what gating may use; null = predict
    ]
)
FETCHED = pa.schema(
    [
        *TODO,
        pa.field("bytes", pa.binary()),
        pa.field("reason", pa.string()),  # null = fine
        pa.field("detail", pa.string()),
    ]
)
PROMPTED = pa.schema([*FETCHED, *PROMPT_COLUMNS])


@dataclass(frozen=True, kw_only=True)
class ActorSpec:
    """What an actor must know to build itself; small and picklable."""

    instance: Instance
    clues: CluesConfig
    clue_weights: str  # resolved: a path or URI, never empty unless there are no clues
    prompts: PromptsConfig
    sam: SamConfig
    proposals: ProposalsConfig
    class_names: tuple[str, ...]
    gallery: frozenset[str]  # ids of the images whose heat maps the report will show
    threads: int
    device: str  # "cpu" or "cuda"


def fetch(batch: pa.Table, *, longest_side: int) -> pa.Table:
    """Read and validate images, one thread each; what cannot be used gets a reason. Columns TODO -> FETCHED."""
    from weaksam.files import read_bytes
    from weaksam.images import check_resized, decode_image

    def one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            data = read_bytes(row["uri"])
            image = decode_image(data)
            check_resized(image.shape[:2], longest_side)
        except ImageError as error:
            return {**row, "bytes": None, "reason": error.reason, "detail": error.detail}
        return {**row, "bytes": data, "reason": None, "detail": None}

    with ThreadPoolExecutor(_READERS) as pool:
        return pa.Table.from_pylist(list(pool.map(one, batch.to_pylist())), schema=FETCHED)


class PromptActor:
    """Holds the clue network; turns images and labels into prompts. Columns FETCHED -> PROMPTED."""

    def __init__(self, spec: ActorSpec) -> None:
        from weaksam.clues import load_clues
        from weaksam.proposer import Proposer

        use_threads(spec.threads, spec.device)
        clues = load_clues(
            spec.clues,
            weights=spec.clue_weights,
            class_names=spec.class_names,
            kinds=[source for source in spec.prompts.sources if source in CLUE_SOURCES],
            device=spec.device,
        )
        self._spec = spec
        self._proposer = Proposer(clues, None, prompts=spec.prompts, gating=spec.clues)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Find the prompts of each image of a batch."""
        return pa.Table.from_pylist([guarded(self._prompt, row, PROMPT_COLUMNS) for row in batch.to_pylist()], PROMPTED)

    def _prompt(self, row: dict[str, Any]) -> dict[str, Any]:
        keep = _heat_map_writer(self._spec.instance, row["image_id"]) if row["image_id"] in self._spec.gallery else None
        prompts = self._proposer.prompt(decode_row(row), row["labels"], on_maps=keep)
        return {**row, **prompts_to_columns(prompts)}


class SegmentActor:
    """Holds SAM; turns images and prompts into proposals. Columns FETCHED or PROMPTED -> PROPOSALS, bad rows set aside."""

    def __init__(self, spec: ActorSpec, schema: pa.Schema = PROPOSALS) -> None:
        from weaksam.proposer import Proposer
        from weaksam.sam.model import load_sam

        use_threads(spec.threads, spec.device)
        self._spec = spec
        self._schema = schema  # with the class names in its metadata
        self._proposer = Proposer(None, load_sam(spec.sam, spec.device), prompts=spec.prompts, proposals=spec.proposals)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Segment each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        return finish_batch(
            self._spec.instance, [guarded(self._segment, row, ()) for row in batch.to_pylist()], self._schema
        )

    def _segment(self, row: dict[str, Any]) -> dict[str, Any]:
        prompts = prompts_from_columns(row) if "prompt_source" in row else []
        return proposals_to_row(row["image_id"], row["split"], self._proposer.segment(decode_row(row), prompts))


class SearchActor:
    """Selective Search in the place of SAM. Columns FETCHED -> PROPOSALS, bad rows set aside."""

    def __init__(self, instance: Instance, config: SelectiveSearchConfig, schema: pa.Schema) -> None:
        self._instance = instance
        self._config = config
        self._schema = schema

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Search each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        return finish_batch(self._instance, [guarded(self._search, row, ()) for row in batch.to_pylist()], self._schema)

    def _search(self, row: dict[str, Any]) -> dict[str, Any]:
        from weaksam.selective_search import selective_search

        return proposals_to_row(row["image_id"], row["split"], selective_search(decode_row(row), self._config))


def finish_batch(instance: Instance, rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Set rows with a reason aside into ``_dropped``; return the others as the table that is written."""
    write_dropped(instance, [row for row in rows if row.get("reason")])
    return pa.Table.from_pylist([row for row in rows if not row.get("reason")], schema=schema)


def write_dropped(instance: Instance, rows: list[Mapping[str, Any]]) -> None:
    """Write images that cannot be used into ``_dropped``, under a name that a retried task writes again."""
    if not rows:
        return
    verb = instance.name.partition(".")[0]
    columns = ("image_id", "split", "uri", "reason")
    instance.dropped.write_rows(
        [{**{c: row[c] for c in columns}, "stage": verb, "detail": row["detail"] or ""} for row in rows],
        part_name(row["image_id"] for row in rows),
    )


def guarded(work: Callable[[dict[str, Any]], dict[str, Any]], row: dict[str, Any], missing: Any) -> dict[str, Any]:
    """Run ``work`` on a row that is fine so far; a failure becomes its reason. A broken GPU ends the process instead."""
    blank = {f.name: None for f in missing}
    if row["reason"]:
        return {**row, **blank}
    try:
        return work(row)
    except ImageError as error:
        reason, detail = error.reason, error.detail
    except OSError:  # of the storage that heat maps are written to; images are read in ``fetch``
        raise
    except Exception as error:  # one image must not cost the job; --max-dropped judges how many may fail
        if "CUDA error" in str(error):
            logger.exception("the GPU context is broken; this actor ends and a fresh one takes over")
            os._exit(1)  # sys.exit can hang the pool (ray#62746), and every later call here would fail as well
        reason, detail = _failure_reason(error), f"{type(error).__name__}: {error}"
        logger.exception("image %s", row["image_id"])
    return {**row, **blank, "reason": reason, "detail": detail[:500]}


def _failure_reason(error: Exception) -> str:
    import torch

    return "out of GPU memory" if isinstance(error, torch.cuda.OutOfMemoryError) else "internal error"


def decode_row(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the pixels of a fetched row."""
    from weaksam.images import decode_image

    return decode_image(row["bytes"])


def use_threads(threads: int, device: str) -> None:
    """Give torch this many threads in this process when it computes on the CPU."""
    import torch

    if device == "cpu":
        torch.set_num_threads(threads)


def _heat_map_writer(instance: Instance, image_id: str) -> Callable[[ClassMaps], None]:
    """Return what keeps the maps of one gallery image as small grey pictures; many maps of one source by their mean."""
    from pipelines.store.heat_maps import write_heat_map

    def keep(of_class: ClassMaps) -> None:
        for source, maps in of_class.maps.items():
            write_heat_map(instance, image_id, of_class.class_index, source, maps.mean(dim=0).cpu().numpy())

    return keep
