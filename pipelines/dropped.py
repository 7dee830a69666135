"""Which images a stage instance could not use, and why: for messages, `weaksam dropped` and the report."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.runs import Instance
from pipelines.schemas import DROPPED


@dataclass(frozen=True, kw_only=True)
class DroppedImage:
    """One image that could not be used."""

    image_id: str
    split: str
    uri: str
    detail: str  # beyond the reason; may be empty


@dataclass(frozen=True, kw_only=True)
class DroppedReason:
    """The images that one instance dropped for one reason."""

    instance: str  # name
    reason: str
    images: tuple[DroppedImage, ...]  # one or more, by id

    def __str__(self) -> str:
        return f"{self.reason} {len(self.images):,} (such as {self.images[0].uri or self.images[0].image_id})"


def dropped_by_reason(instance: Instance) -> list[DroppedReason]:
    """Return what an instance has dropped so far, the most frequent reason first, without images that were done after all.

    Raises:
        RunError: a file of ``_dropped`` is damaged.
    """
    done = set(instance.table(DROPPED).ids())  # of any schema: only ids are read
    rows = {row["image_id"]: row for row in instance.dropped.iter_rows() if row["image_id"] not in done}
    by_reason: dict[str, list[DroppedImage]] = {}
    for image_id, row in sorted(rows.items()):
        image = DroppedImage(image_id=image_id, split=row["split"], uri=row["uri"], detail=row["detail"])
        by_reason.setdefault(row["reason"], []).append(image)
    found = (DroppedReason(instance=instance.name, reason=r, images=tuple(images)) for r, images in by_reason.items())
    return sorted(found, key=lambda group: (-len(group.images), group.reason))
