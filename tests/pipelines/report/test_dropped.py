from __future__ import annotations

from pipelines.report.sections.dropped import alerts, groups
from pipelines.store.dropped import DroppedImage, DroppedReason


def reason(instance: str, why: str, *splits: str) -> DroppedReason:
    images = (DroppedImage(image_id=str(n), split=s, uri=f"/{n}.jpg", detail="") for n, s in enumerate(splits))
    return DroppedReason(instance=instance, reason=why, images=tuple(images))


def test_each_stage_says_how_many_and_why_and_splits_without_an_image_are_named() -> None:
    reasons = [
        reason("propose", "truncated", "train", "val", "val"),
        reason("propose", "missing", "train"),
        reason("detect.mil", "too small", "train"),
    ]
    assert alerts(reasons, {"propose": 1200}, {"train"}) == [
        "propose dropped 4 of 1,200 images: truncated 3, missing 1.",
        "detect.mil dropped 1 image: too small 1.",
        "No image of the split val is left.",
    ]


def test_nothing_dropped_is_no_alarm() -> None:
    assert alerts([], {"propose": 3}, ["train"]) == []
    assert groups([]) == []


def test_a_reason_lists_its_first_images_and_counts_all() -> None:
    (group,) = groups([reason("propose", "missing", *["train"] * 51)])
    assert (group["stage"], group["reason"], group["count"], len(group["images"])) == ("propose", "missing", 51, 50)
