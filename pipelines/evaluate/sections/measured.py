"""What evaluations have measured, by what they measured, and the rows of single images of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.page.shown_run import ShownRun
from pipelines.products.measured import Evaluation
from pipelines.store.tables import Rows


def evaluations(run: ShownRun, key: str) -> dict[str, dict[str, Any]]:
    """Return the figures of the evaluations whose results stand under ``key``, by instance name."""
    found = {name: evaluation.read() for name, evaluation in run.of_kind(Evaluation).items()}
    return {name: figures for name, figures in found.items() if key in figures}


def rows_of(table: Rows, image_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of some images by id, holding one file in memory; an image that has none is left out."""
    wanted = pa.array(image_ids, pa.string())
    parts = (part.filter(pc.is_in(part["image_id"], wanted)) for part in table.iter_parts())
    return {row["image_id"]: row for part in parts for row in part.to_pylist()}
