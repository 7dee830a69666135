"""What a report says of images that are not in its figures: at its top how many were dropped and why, further down which."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun
from pipelines.recipe.model import verb_of
from pipelines.store.dropped import DroppedReason, dropped_by_reason
from pipelines.store.schemas import PROPOSALS

_IMAGES_LISTED = 50  # per reason


def view(run: ShownRun) -> View | None:
    """Return the dropped images of all instances, by instance and reason."""
    if not run.instances:
        return None
    reasons = [reason for instance in run.instances.values() for reason in dropped_by_reason(instance)]
    manifests = {name: run.manifest(name) for name in run.instances}
    left = {
        split
        for instance in run.of_verb("propose").values()
        for part in instance.table(PROPOSALS).iter_parts(["split"])
        for split in part["split"].unique().to_pylist()
    }
    made = {"propose": "proposals", "detect": "detections where they were asked for"}
    return {
        "groups": groups(reasons),
        "complete": [what for verb, what in made.items() if run.of_verb(verb)],
        "alerts": alerts(reasons, manifests, left),
    }


def alerts(
    reasons: Sequence[DroppedReason], manifests: Mapping[str, Mapping[str, Any]], splits_left: Collection[str]
) -> list[str]:
    """Return what readers must know before they read any figure: a sentence per stage, one for splits without an image.

    Args:
        reasons: of all instances.
        manifests: by instance; that of an unfinished one is empty.
        splits_left: those of which an image has proposals.
    """
    sentences = []
    for name in dict.fromkeys(reason.instance for reason in reasons):
        of_instance = [reason for reason in reasons if reason.instance == name]
        count = sum(len(reason.images) for reason in of_instance)
        planned = manifests.get(name, {}).get("images", {}).get("images")
        why = ", ".join(f"{reason.reason} {len(reason.images):,}" for reason in of_instance)
        images = f"{count:,}{f' of {planned:,}' if planned else ''} image{'' if (planned or count) == 1 else 's'}"
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
