from __future__ import annotations

from pathlib import Path

from pipelines.dropped import DroppedImage, DroppedReason, dropped_by_reason
from pipelines.runs import Instance
from pipelines.schemas import IMAGES


def drop(instance: Instance, part: str, *rows: tuple[str, str, str]) -> None:
    common = {"split": "train", "stage": "propose", "detail": "why"}
    named = [{"image_id": i, "uri": uri, "reason": reason, **common} for i, uri, reason in rows]
    instance.dropped.write_rows(named, part)


def image(image_id: str, uri: str) -> DroppedImage:
    return DroppedImage(image_id=image_id, split="train", uri=uri, detail="why")


def test_reasons_come_most_frequent_first_with_their_images_in_order(tmp_path: Path) -> None:
    instance = Instance(str(tmp_path), "propose", "k")
    drop(instance, "part-0", ("c", "/c.jpg", "truncated"), ("d", "/d.jpg", "absent"), ("z", "/z.jpg", "broken"))
    drop(instance, "part-1", ("a", "/a.jpg", "truncated"), ("e", "/e.jpg", "absent"), ("d", "/d.jpg", "absent"))
    found = dropped_by_reason(instance)
    assert found == [
        DroppedReason(instance="propose", reason="absent", images=(image("d", "/d.jpg"), image("e", "/e.jpg"))),
        DroppedReason(instance="propose", reason="truncated", images=(image("a", "/a.jpg"), image("c", "/c.jpg"))),
        DroppedReason(instance="propose", reason="broken", images=(image("z", "/z.jpg"),)),
    ]
    assert [str(group) for group in found] == [
        "absent 2 (such as /d.jpg)",
        "truncated 2 (such as /a.jpg)",
        "broken 1 (such as /z.jpg)",
    ]


def test_an_image_that_was_done_after_all_is_not_dropped(tmp_path: Path) -> None:
    instance = Instance(str(tmp_path), "propose", "k")
    drop(instance, "part-0", ("a", "/a.jpg", "broken"), ("b", "", "broken"))
    row = {"image_id": "a", "uri": "/a.jpg", "split": "train", "labels": None, "labels_difficult": None}
    instance.table(IMAGES).write_rows([row], "part-0")
    (group,) = dropped_by_reason(instance)
    assert str(group) == "broken 1 (such as b)"  # its id, where it has no address


def test_an_instance_that_dropped_nothing_has_no_reasons(tmp_path: Path) -> None:
    assert dropped_by_reason(Instance(str(tmp_path), "index", "k")) == []
