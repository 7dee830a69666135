"""The index stage: list a data set's images once, with the labels that the recipe grants, into the ``images`` table.

Labels are granted to the training split only and are null everywhere else, so that no test label can leak into gating or
training. Boxes are not read here. ``--limit N`` keeps the first N ids of each split in hash order, a sample that does not
depend on how the data set sorts its files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.recipe import Recipe
from pipelines.schemas import IMAGES, with_class_names
from pipelines.stage import Content, Job, Stage
from weaksam.config import DataConfig
from weaksam.errors import DataError
from weaksam.structures import ImageRecord


def execute(job: Job) -> dict[str, Any]:
    """Write the ``images`` table and return the counts per split."""
    from weaksam.datasets import open_dataset, train_split

    config = job.recipe.data
    dataset = open_dataset(config)
    labelled = train_split(dataset, config)
    available = {split: dataset.records(split) for split in dataset.splits}
    records = [r for split in dataset.splits for r in first_in_hash_order(available[split], config.limit)]
    _require_unique_ids(records, config.uri)
    rows = [
        {
            "image_id": r.image_id,
            "uri": r.uri,
            "split": r.split,
            "labels": r.labels if r.split == labelled else None,
            "labels_difficult": r.labels_difficult if r.split == labelled else None,
        }
        for r in records
    ]
    job.instance.table(with_class_names(IMAGES, dataset.class_names)).write_rows(rows, "part-0")
    counts = Counter(r.split for r in records)
    parts = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    return {
        "text": f"images {len(rows):,} ({parts}) · classes {len(dataset.class_names)} · labels granted to {labelled}",
        "splits": dict(counts),
        "available": {split: len(all_records) for split, all_records in available.items()},
        "classes": len(dataset.class_names),
        "labels_granted_to": labelled,
        "kind": dataset.kind,
    }


def first_in_hash_order(records: list[ImageRecord], limit: int) -> list[ImageRecord]:
    """Return the ``limit`` records whose hashed ids come first, in the data set's own order; 0 keeps all."""
    if not limit or limit >= len(records):
        return records
    chosen = set(in_hash_order([r.image_id for r in records])[:limit])
    return [r for r in records if r.image_id in chosen]


def in_hash_order(image_ids: list[str]) -> list[str]:
    """Return ids in an order that is fixed, but unrelated to their names: the head is a fair sample of the whole."""
    return sorted(image_ids, key=lambda image_id: hashlib.sha1(image_id.encode()).digest())


def _require_unique_ids(records: list[ImageRecord], uri: str) -> None:
    first: dict[str, ImageRecord] = {}
    for record in records:
        other = first.setdefault(record.image_id, record)
        if other is not record:
            raise DataError(
                f"{uri}: image id {record.image_id!r} stands in split {other.split} and in split {record.split}; "
                f"ids must be unique, name the splits you want in data.splits"
            )


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    return {"data": recipe.data}


def _fingerprint(config: DataConfig) -> str:
    from weaksam.datasets import open_dataset

    return open_dataset(config).fingerprint()


STAGE = Stage(
    verb="index",
    help="list a data set's images and the labels that the recipe grants",
    reads=lambda _recipe, _name: (),
    method=_method,
    execute=execute,
    contents=lambda recipe, _name: {"data": Content(recipe.data, _fingerprint)},
)
