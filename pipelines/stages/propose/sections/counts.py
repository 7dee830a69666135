"""How many boxes images have, and how many were discarded inside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.page.charts import histogram
from pipelines.page.section import Section, Tile, View, beside
from pipelines.page.shown_run import ShownRun, of_several
from pipelines.products.proposals import ProposalTable
from pipelines.products.rows import RowFacts
from pipelines.store.numbers import duration
from weaksam.structures import in_table_order


@dataclass
class Counts:
    """What one pass over a proposals table counts, file by file."""

    images: int = 0
    boxes: dict[str, list[int]] = field(default_factory=dict)  # split -> boxes of each image
    discarded: Counter[tuple[str, str]] = field(default_factory=Counter)  # (source, reason) -> boxes

    def add(self, part: pa.Table) -> None:
        """Count one file of the table."""
        self.images += part.num_rows
        counts = pc.list_value_length(part["boxes_xyxy"]).to_pylist()
        for split, count in zip(part["split"].to_pylist(), counts, strict=True):
            self.boxes.setdefault(split, []).append(count)
        for row in part["discarded"].combine_chunks().flatten().to_pylist():
            self.discarded[row["source"], row["reason"]] += row["count"]


def view(run: ShownRun) -> View | None:
    """Return the counts of every instance of ``propose``."""
    proposed = run.of_kind(ProposalTable)
    shown = [
        {"name": of_several(proposed, name), "facts": table.facts, **_counted(count(table))}
        for name, table in proposed.items()
    ]
    return {"instances": shown} if shown else None


def count(proposals: ProposalTable) -> Counts:
    """Count the rows that there are."""
    counts = Counts()
    for part in proposals.table.iter_parts(["split", "boxes_xyxy", "discarded"]):
        counts.add(part)
    return counts


def _counted(counts: Counts) -> dict[str, Any]:
    order = in_table_order(source for source, _ in counts.discarded)
    return {
        "images": counts.images,
        "boxes": [count for of_split in counts.boxes.values() for count in of_split],
        "charts": [_chart(split, of_split) for split, of_split in sorted(counts.boxes.items())],
        "discarded": [
            {"source": source, "reason": reason, "count": boxes, "per_image": boxes / max(counts.images, 1)}
            for source in order
            for (of, reason), boxes in sorted(counts.discarded.items())
            if of == source
        ],
    }


def _chart(split: str, counts: Sequence[int]) -> dict[str, Any]:
    what = f"{min(counts):,} to {max(counts):,} boxes, median {median(counts):g}"
    chart = histogram(counts, label=f"Histogram of boxes per image on {split}: {what}", x_name="boxes an image")
    return {"caption": f"{split}: {what}", "chart": chart}


def tiles(view: View) -> list[Tile]:
    """Return how many images have proposals, how many boxes each, and how fast they were made."""
    return [tile for one in view["instances"] for tile in _tiles(one)]


def _tiles(one: Mapping[str, Any]) -> list[Tile]:
    marked = f", {one['name']}" if one["name"] else ""
    facts: RowFacts = one["facts"]
    proof, rate, boxes = facts.images, facts.throughput, one["boxes"]
    found = []
    if proof or one["images"]:
        remark = f"of {proof.images:,}, {proof.dropped:,} dropped" if proof and proof.dropped else "none dropped"
        found.append(Tile(f"images{marked}", f"{one['images']:,}", remark))
        average, middle = (f"{mean(boxes):.1f}", f"median {median(boxes):g}") if boxes else ("–", "")
        found.append(Tile(f"boxes an image{marked}", average, middle))
    if rate and rate.images:
        remark = f"{rate.images:,} in {duration(rate.seconds)}"
        found.append(Tile(f"images a second{marked}", f"{rate.images_per_s:.1f}", remark))
    return found


SECTION: Section[ShownRun] = Section(
    id="counts", title="Boxes an image", link="Boxes", view=view, template=beside(__name__), tiles=tiles
)
