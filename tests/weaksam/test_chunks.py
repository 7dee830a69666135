import pytest
import torch

from weaksam.sam.chunks import chunk_size, in_chunks


class SmallMemory:
    """Computes which numbers a chunk holds, of which no more than ``room`` fit."""

    def __init__(self, room):
        self.room, self.tried = room, []

    def __call__(self, chunk):
        self.tried.append(chunk.stop - chunk.start)
        if self.tried[-1] > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return list(range(chunk.start, chunk.stop))


@pytest.mark.parametrize(
    ("count", "size", "room", "chunks", "tried"),
    [
        pytest.param(0, 3, 9, [], [], id="nothing"),
        pytest.param(1, 3, 9, [[0]], [1], id="one"),
        pytest.param(7, 3, 9, [[0, 1, 2], [3, 4, 5], [6]], [3, 3, 1], id="a-rest"),
        pytest.param(6, 5, 2, [[0, 1], [2, 3], [4, 5]], [5, 2, 2, 2], id="halved-once-for-all-that-follow"),
        pytest.param(3, 8, 1, [[0], [1], [2]], [3, 1, 1, 1], id="halved-to-one"),
    ],
)
def test_chunks_are_of_one_size_until_memory_runs_out(count, size, room, chunks, tried):
    memory = SmallMemory(room)
    assert list(in_chunks(count, size, memory)) == chunks
    assert memory.tried == tried


def test_memory_too_small_for_a_single_one_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        list(in_chunks(3, 2, SmallMemory(0)))


def test_something_larger_than_a_step_is_worked_on_alone():
    for device in map(torch.device, ("cpu", "cuda")):
        assert chunk_size(2**40, device) == 1
        assert chunk_size(2**20, device) > 1
