import pytest
import torch

from tests.support.small_memory import SmallMemory
from weaksam.chunks import chunk_size, in_chunks, is_out_of_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30


def counting(room):
    return SmallMemory(room, lambda chunk: chunk.stop - chunk.start, lambda chunk: list(range(chunk.start, chunk.stop)))


@pytest.mark.parametrize(
    ("count", "size", "room", "chunks"),
    [
        pytest.param(0, 3, 9, [], id="nothing"),
        pytest.param(1, 3, 9, [[0]], id="one"),
        pytest.param(7, 3, 9, [[0, 1, 2], [3, 4, 5], [6]], id="a-rest"),
        pytest.param(6, 5, 2, [[0, 1], [2, 3], [4, 5]], id="halved-once-for-all-that-follow"),
        pytest.param(3, 8, 1, [[0], [1], [2]], id="halved-to-one"),
    ],
)
def test_chunks_are_of_one_size_until_memory_runs_out(monkeypatch, count, size, room, chunks):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    assert list(in_chunks(count, size, counting(room))) == chunks
    assert bool(emptied) == (size > room)


def test_memory_too_small_for_a_single_one_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        list(in_chunks(3, 2, counting(0)))


def test_another_error_is_not_taken_for_memory_that_ran_out():
    tried = []

    def fails(chunk):
        tried.append(chunk)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        list(in_chunks(8, 8, fails))
    assert len(tried) == 1


def test_what_a_chunk_held_is_let_go_before_the_cache_is_emptied(monkeypatch):
    class Held:
        alive = 0

        def __init__(self):
            Held.alive += 1

        def __del__(self):
            Held.alive -= 1

    def compute(chunk):
        held = Held()  # as the frames of an error hold the tensors of their chunk
        if chunk.stop - chunk.start > 1:
            raise torch.OutOfMemoryError("full")
        return held is None

    seen = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(Held.alive))
    assert list(in_chunks(2, 2, compute)) == [False, False]
    assert seen == [0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (MemoryError(), False),
    ],
    ids=str,
)
def test_an_accelerator_says_in_several_ways_that_its_memory_ran_out(error, expected):
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("free", "kept_unused", "share", "expected"),
    [
        pytest.param(60 * GIB, 0, 1.0, 256, id="the-cap-of-8-GiB"),
        pytest.param(20 * GIB, 0, 1.0, 256, id="less-memory-and-the-same-size"),
        pytest.param(10 * GIB, 0, 1.0, 128, id="half-of-10-GiB-rounded-down-to-a-power-of-two"),
        pytest.param(2 * GIB, 8 * GIB, 1.0, 128, id="what-the-allocator-keeps-is-free"),
        pytest.param(2**20, 0, 1.0, 1, id="never-less-than-one"),
        pytest.param(60 * GIB, 0, 0.125, 64, id="of-a-share-of-10-GiB-7-are-left"),
        pytest.param(60 * GIB, 0, 0.025, 1, id="a-share-that-is-used-up"),
    ],
)
def test_an_accelerator_gets_chunks_by_its_free_memory(monkeypatch, free, kept_unused, share, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 3 * GIB + kept_unused)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _device: share)
    assert chunk_size(GPU, tensor_bytes=1, peak_bytes=30 * 2**20) == expected


def test_a_cpu_gets_chunks_whose_largest_tensor_stays_near_the_cache():
    assert chunk_size(CPU, tensor_bytes=4 * 2**20, peak_bytes=2**40) == 4
    assert chunk_size(CPU, tensor_bytes=2**40, peak_bytes=1) == 1
