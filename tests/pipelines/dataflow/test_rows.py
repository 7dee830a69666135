import pyarrow as pa
import pytest
import torch

from pipelines.dataflow.rows import PLANNED, fetch, guarded, prepared
from tests.support.patience import wait_until
from weaksam.errors import ImageError, StorageError

ROW = {"image_id": "a", "input": "i", "uri": "u", "reason": None, "detail": None}


class Device:
    """Work for which a device has too little memory so many times before it has enough."""

    def __init__(self, failures):
        self.failures, self.attempts = failures, 0

    def __call__(self, row):
        self.attempts += 1
        if self.attempts <= self.failures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"image_id": row["image_id"], "boxes": [1]}


@pytest.mark.parametrize(("failures", "attempts"), [(0, 1), (1, 2), (2, 2)])
def test_an_image_that_memory_runs_out_for_is_tried_once_more(monkeypatch, failures, attempts):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    device = Device(failures)
    done = guarded(device, ROW, ())
    assert device.attempts == attempts
    assert len(emptied) == min(failures, 1)
    if failures < 2:
        assert done == {"image_id": "a", "boxes": [1]}
    else:
        assert (done["reason"], done["uri"]) == ("out of GPU memory", "u")
        assert "CUDA out of memory" in done["detail"]


def test_an_image_of_another_failure_is_not_tried_again():
    attempts = []

    def work(_row):
        attempts.append(True)
        raise ImageError("not an image", "text")

    done = guarded(work, ROW, ())
    assert (done["reason"], done["detail"], len(attempts)) == ("not an image", "text", 1)


class Preparing:
    """Notes which rows were prepared; the one called "bad" cannot be."""

    def __init__(self):
        self.begun = []

    def __call__(self, row):
        self.begun.append(row["image_id"])
        if row["image_id"] == "bad":
            raise ImageError("not an image", "text")
        return row["image_id"].upper()


def test_rows_keep_their_order_and_a_row_that_cannot_be_prepared_says_so_when_it_is_asked():
    rows = [{"image_id": name, "reason": None} for name in ("a", "bad", "c", "d", "e")]
    for ahead in (False, True):
        found = []
        for row, ready in prepared(rows, Preparing(), ahead=ahead):
            try:
                found.append((row["image_id"], ready()))
            except ImageError as error:
                found.append((row["image_id"], error.reason))
        assert found == [("a", "A"), ("bad", "not an image"), ("c", "C"), ("d", "D"), ("e", "E")]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_row_is_prepared_anew_if_it_is_asked_again(ahead):
    tries = []

    def prepare(row):
        tries.append(row["image_id"])
        if len(tries) == 1:
            raise RuntimeError("out of memory")
        return "pixels"

    [(_, ready)] = prepared([{"image_id": "a", "reason": None}], prepare, ahead=ahead)
    with pytest.raises(RuntimeError):
        ready()
    assert (ready(), tries) == ("pixels", ["a", "a"])


def test_the_next_rows_are_prepared_while_one_is_worked_on_and_no_more():
    rows = [{"image_id": name, "reason": "broken" if name == "b" else None} for name in "abcdefg"]
    prepare = Preparing()
    following = prepared(rows, prepare, ahead=True)
    _, ready = next(following)
    assert ready() == "A"
    wait_until(lambda: sorted(prepare.begun) == ["a", "c"])  # the two after it, of which one is broken
    next(following)
    wait_until(lambda: sorted(prepare.begun) == ["a", "c", "d"])
    assert [row["image_id"] for row, _ in following] == list("cdefg")
    assert list(prepared([], prepare, ahead=True)) == []


def test_a_store_that_does_not_answer_is_an_error_of_the_task_and_no_reason_of_an_image(monkeypatch):
    row = {"image_id": "a", "input": "", "uri": "s3://b/a.jpg", "labels": None}
    batch = pa.Table.from_pylist([row], schema=PLANNED)

    def fail(_, error):
        raise error

    monkeypatch.setattr("weaksam.io.files.read_bytes", lambda uri: fail(uri, ImageError("missing", uri)))
    assert fetch(batch, longest_side=8)["reason"].to_pylist() == ["missing"]
    monkeypatch.setattr("weaksam.io.files.read_bytes", lambda uri: fail(uri, StorageError(f"{uri}: no answer")))
    with pytest.raises(StorageError, match=r"s3://b/a\.jpg: no answer"):
        fetch(batch, longest_side=8)
