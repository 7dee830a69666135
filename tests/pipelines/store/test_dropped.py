from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipelines.cli import app as cli
from pipelines.store.dropped import DroppedImage, DroppedReason, dropped_by_reason, to_json, to_lines
from pipelines.store.instances import Instance
from pipelines.store.schemas import IMAGE_ID, INPUT
from tests.support.sets import FROM_NOTHING, instance_of, write_images


def drop(instance: Instance, part: str, *rows: tuple[str, str, str]) -> None:
    write_images(instance.run_uri, {"train": "abcdez"})
    common = {"input": FROM_NOTHING, "stage": "propose", "detail": "why"}
    named = [{"image_id": i, "uri": uri, "reason": reason, **common} for i, uri, reason in rows]
    instance.dropped.write_rows(named, part)


def image(image_id: str, uri: str) -> DroppedImage:
    return DroppedImage(image_id=image_id, split="train", uri=uri, detail="why")


def test_reasons_come_most_frequent_first_with_their_images_in_order(tmp_path: Path) -> None:
    instance = instance_of(str(tmp_path), "propose")
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
    instance = instance_of(str(tmp_path), "propose")
    drop(instance, "part-0", ("a", "/a.jpg", "broken"), ("b", "", "broken"))
    done = instance.table(pa.schema([IMAGE_ID, INPUT]))
    done.write_rows([{"image_id": "a", "input": FROM_NOTHING}], "part-0")
    (group,) = dropped_by_reason(instance)
    assert str(group) == "broken 1 (such as b)"  # its id, where it has no address


def test_what_another_set_dropped_or_dropped_as_it_was_before_is_not_told(tmp_path: Path) -> None:
    instance = instance_of(str(tmp_path), "propose")
    drop(instance, "part-0", ("a", "/a.jpg", "broken"), ("not indexed", "", "broken"))
    before = {"image_id": "b", "input": "before", "uri": "", "stage": "propose", "reason": "broken", "detail": ""}
    instance.dropped.write_rows([before], "part-1")
    (group,) = dropped_by_reason(instance)
    assert [image.image_id for image in group.images] == ["a"]


def test_an_instance_that_dropped_nothing_has_no_reasons(tmp_path: Path) -> None:
    assert dropped_by_reason(instance_of(str(tmp_path), "index")) == []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of an unfinished ``propose`` that has dropped three images, two of them with names that look like markup."""
    instance = instance_of(str(tmp_path), "propose")
    instance.begin({})
    drop(instance, "part-0", ("a", "/[a].jpg", "missing"), ("b", "/:smile:.jpg", "broken"), ("c", "/c.jpg", "broken"))
    return tmp_path


def test_dropped_images_are_listed_by_reason_with_an_example_or_all(run: Path) -> None:
    found = dropped_by_reason(instance_of(str(run), "propose"))
    assert to_lines(found, every=False) == [
        "propose dropped 3:",
        "  broken: 2",
        "    b of train: /:smile:.jpg (why)",
        "    and 1 more, which --all shows",
        "  missing: 1",
        "    a of train: /[a].jpg (why)",
    ]
    assert [line for line in to_lines(found, every=True) if line.startswith("    ")] == [
        "    b of train: /:smile:.jpg (why)", "    c of train: /c.jpg (why)", "    a of train: /[a].jpg (why)",
    ]  # fmt: skip
    assert to_lines([], every=True) == ["no image was dropped"]
    assert json.loads(to_json([])) == []


def test_particulars_that_only_repeat_the_address_are_left_out() -> None:
    assert str(DroppedImage(image_id="a", split="train", uri="/a.jpg", detail="/a.jpg")) == "a of train: /a.jpg"


@pytest.mark.parametrize("arguments", [[], ["--all"], ["--json"]])
def test_the_verb_prints_names_as_they_are(run: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(cli.app, ["dropped", str(run), *arguments])
    assert done.exit_code == 0
    assert "/:smile:.jpg" in done.output
    assert "/[a].jpg" in done.output
    if arguments == ["--json"]:
        rows = json.loads(done.output)
        assert [(row["instance"], row["reason"], row["image_id"]) for row in rows] == [
            ("propose", "broken", "b"), ("propose", "broken", "c"), ("propose", "missing", "a"),
        ]  # fmt: skip
        assert set(rows[0]) == {"instance", "reason", "image_id", "split", "uri", "detail"}


def test_status_names_reasons_with_an_example(run: Path) -> None:
    done = CliRunner().invoke(cli.app, ["status", str(run)])
    assert (
        "propose dropped: broken 2 (such as /:smile:.jpg)\npropose dropped: missing 1 (such as /[a].jpg)" in done.output
    )
    assert f"`weaksam dropped {run}` tells more" in done.output.replace("\n`", " `")
