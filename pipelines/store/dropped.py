"""Which images a stage instance could not use, and why: for messages, `weaksam dropped` and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines.recipe.model import verb_of
from pipelines.store.instances import Instance
from pipelines.store.schemas import DROPPED, IMAGE_ID, INPUT
from pipelines.store.tables import part_name


@dataclass(frozen=True, kw_only=True)
class DroppedImage:
    """One image that could not be used."""

    image_id: str
    split: str
    uri: str
    detail: str  # beyond the reason; may be empty

    def __str__(self) -> str:
        where = f"{self.image_id} of {self.split}: {self.uri}"
        return f"{where} ({self.detail})" if self.detail not in ("", self.uri) else where


@dataclass(frozen=True, kw_only=True)
class DroppedReason:
    """The images that one instance dropped for one reason."""

    instance: str  # name
    reason: str
    images: tuple[DroppedImage, ...]  # one or more, by id

    def __str__(self) -> str:
        return f"{self.reason} {len(self.images):,} (such as {self.images[0].uri or self.images[0].image_id})"


def write_dropped(instance: Instance, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write images that cannot be used into ``_dropped``, under a name that a task which is tried again writes again.

    Args:
        instance: that they were dropped by.
        rows: with ``image_id``, ``input``, ``uri``, ``reason`` and ``detail``.
    """
    if not rows:
        return
    columns = ("image_id", "input", "uri", "reason")
    stage = {"stage": verb_of(instance.name)}
    plain = [{**{name: row[name] for name in columns}, **stage, "detail": row["detail"] or ""} for row in rows]
    dropped = pa.Table.from_pylist(plain, schema=DROPPED)
    instance.dropped.write_part(dropped, part_name(dropped))


def dropped_by_reason(instance: Instance) -> list[DroppedReason]:
    """Return what an instance has dropped so far, the most frequent reason first, without images that were done after all.

    Raises:
        RunError: a file of ``_dropped`` is damaged.
    """
    done = set(instance.current(instance.table(pa.schema([IMAGE_ID, INPUT]))).ids())
    current = instance.current(instance.dropped).iter_rows()
    rows = {row["image_id"]: row for row in current if row["image_id"] not in done}
    by_reason: dict[str, list[DroppedImage]] = {}
    for image_id, row in sorted(rows.items()):
        image = DroppedImage(image_id=image_id, split=row["split"], uri=row["uri"], detail=row["detail"])
        by_reason.setdefault(row["reason"], []).append(image)
    found = (DroppedReason(instance=instance.name, reason=r, images=tuple(images)) for r, images in by_reason.items())
    return sorted(found, key=lambda group: (-len(group.images), group.reason))


def to_lines(reasons: Sequence[DroppedReason], *, every: bool) -> list[str]:
    """Lay dropped images out for people: by instance and reason, with the first image or every one."""
    if not reasons:
        return ["no image was dropped"]
    lines: list[str] = []
    for name in dict.fromkeys(reason.instance for reason in reasons):
        of_instance = [reason for reason in reasons if reason.instance == name]
        lines.append(f"{name} dropped {sum(len(reason.images) for reason in of_instance):,}:")
        for reason in of_instance:
            lines.append(f"  {reason.reason}: {len(reason.images):,}")
            shown = reason.images if every else reason.images[:1]
            lines += [f"    {image}" for image in shown]
            if len(shown) < len(reason.images):
                lines.append(f"    and {len(reason.images) - len(shown):,} more, which --all shows")
    return lines


def to_json(reasons: Sequence[DroppedReason]) -> str:
    """Return dropped images as JSON, a list of objects of the instance, the reason and the fields of ``DroppedImage``."""
    rows = [{"instance": r.instance, "reason": r.reason, **asdict(image)} for r in reasons for image in r.images]
    return json.dumps(rows, indent=2)
