"""What a report says of images that are not in its figures: at its top how many were dropped and why, further down which."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.recipe.model import verb_of
from pipelines.store.dropped import DroppedReason
from weaksam.datasets.passed_over import PassedOver

_IMAGES_LISTED = 50  # per reason


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


def passed_over(index: Mapping[str, Any]) -> str:
    """Return what the index stage has passed over, of its manifest."""
    return "; ".join(str(PassedOver(**one)) for one in index["passed_over"])


def groups(reasons: Sequence[DroppedReason]) -> list[dict[str, Any]]:
    """Return dropped images by stage and reason, each reason with its first images."""
    return [
        {"stage": r.instance, "reason": r.reason, "count": len(r.images), "images": r.images[:_IMAGES_LISTED]}
        for r in reasons
    ]
