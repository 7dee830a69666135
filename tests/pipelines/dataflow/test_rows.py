import pytest
import torch

from pipelines.dataflow.rows import guarded
from weaksam.errors import ImageError

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
