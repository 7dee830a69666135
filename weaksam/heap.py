"""What networks want of the C library's heap on a CPU: that it keeps what is freed, or that it does not."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of glibc's mallopt
# No block is mapped on its own, nothing is given back, and the heap grows by a gigabyte, of which what is touched is taken.
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 1_000_000_000}
# Where glibc's own thresholds end, which are lower at first and rise with the blocks that are freed.
_GIVEN_BACK = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20, _TOP_PAD: 128 * 2**10}


def keep_heap() -> None:
    """Let this process keep the memory that it frees; nothing happens where the C library is not glibc.

    glibc hands every freed block of more than 32 MB back to the kernel and faults it in again; SAM's decoder makes such
    blocks all the time. Keeping the heap more than doubles its speed on a CPU.
    """
    _set(_KEPT)


def give_back_heap() -> None:
    """Let this process give back what it freed and will free, as before ``keep_heap``; for work of blocks of many sizes.

    What is kept between blocks of many sizes adds up: trainings would take more memory, and gain no time.
    """
    if _set(_GIVEN_BACK):
        ctypes.CDLL(None).malloc_trim(0)


def _set(values: dict[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in values.items():
        mallopt(parameter, value)
    return True
