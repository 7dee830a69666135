"""The benchmark of run folders goes through its scenes."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_small_folder_is_written_resumed_recognised_and_cleaned(tmp_path):
    command = [sys.executable, "-m", "benchmarks.store", "--rows", "200", "--s3-rows", "0", "--folder", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = {line[:36].strip(): line[36:] for line in told.splitlines()}
    assert "200 of 200 images to do" in lines["write the first half"]
    assert "100 of 200 images to do" in lines["resume at 50 %: find what is left"]
    assert lines["recognise it as finished"].endswith("; ")  # nothing is to do
    assert "1,000 of 1,200 images to do" in lines["find 1,000 new images"]
    # Of 50 rows, a fourth of 200; of 25, a fourth of 100; of 64, the most: 2 + 4 + 16.
    assert "22 -> 1 files of rows" in lines["clean"]
    assert list(tmp_path.iterdir()) == []
