import platform
import subprocess
import sys

import pytest

FAULTS_OF_A_FREED_BLOCK = """
import resource, sys
from weaksam.heap import give_back_heap, keep_heap

if sys.argv[1] != "never kept":
    keep_heap()
for _ in range(3):
    if sys.argv[1] == "given back":
        give_back_heap()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(64 << 20)
    block[::4096] = b"1" * (len(block) // 4096)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    command = [sys.executable, "-c", FAULTS_OF_A_FREED_BLOCK, way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap of glibc")
def test_a_freed_block_is_used_again_without_asking_the_kernel() -> None:
    kept = faults("kept")
    assert 2 * kept < faults("never kept")
    assert 2 * kept < faults("given back")
