"""What a report says of images that are not in its figures: at its top how many were dropped and why, further down which."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.engine.product import Product
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun
from pipelines.products.detections import DetectionTable
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.model import verb_of
from pipelines.store.dropped import DroppedReason, dropped_by_reason

_IMAGES_LISTED = 50  # per reason


def view(run: ShownRun) -> View | None:
    """Return the dropped images of all instances, by instance and reason."""
    if not run.products:
        return None
    reasons = [reason for product in run.products.values() for reason in dropped_by_reason(product.instance)]
    planned = {name: proof.images for name, product in run.products.items() if (proof := product.facts.images)}
    left = {
        split
        for table in run.of_kind(ProposalTable).values()
        for part in table.table.iter_parts(["split"])
        for split in part["split"].unique().to_pylist()
    }
    made: dict[type[Product[Any]], str] = {
        ProposalTable: "proposals",
        DetectionTable: "detections where they were asked for",
    }
    return {
        "groups": groups(reasons),
        "complete": [what for kind, what in made.items() if run.of_kind(kind)],
        "alerts": alerts(reasons, planned, left),
    }


def alerts(reasons: Sequence[DroppedReason], planned: Mapping[str, int], splits_left: Collection[str]) -> list[str]:
    """Return what readers must know before they read any figure: a sentence per stage, one for splits without an image.

    Args:
        reasons: of all instances.
        planned: images of each instance that has proved what became of them.
        splits_left: those of which an image has proposals.
    """
    sentences = []
    for name in dict.fromkeys(reason.instance for reason in reasons):
        of_instance = [reason for reason in reasons if reason.instance == name]
        count = sum(len(reason.images) for reason in of_instance)
        total = planned.get(name)
        why = ", ".join(f"{reason.reason} {len(reason.images):,}" for reason in of_instance)
        images = f"{count:,}{f' of {total:,}' if total else ''} image{'' if (total or count) == 1 else 's'}"
        sentences.append(f"{name} dropped {images}: {why}.")
    proposed = [image.split for reason in reasons if verb_of(reason.instance) == "propose" for image in reason.images]
    gone = [split for split in dict.fromkeys(proposed) if split not in splits_left]
    return [*sentences, *(f"No image of the split {split} is left." for split in gone)]


def groups(reasons: Sequence[DroppedReason]) -> list[dict[str, Any]]:
    """Return dropped images by stage and reason, each reason with its first images."""
    return [
        {"stage": r.instance, "reason": r.reason, "count": len(r.images), "images": r.images[:_IMAGES_LISTED]}
        for r in reasons
    ]


SECTION: Section[ShownRun] = Section(
    id="dropped",
    title="Dropped images",
    link="Dropped",
    view=view,
    template=beside(__name__),
    alerts=lambda view: view["alerts"],
)
