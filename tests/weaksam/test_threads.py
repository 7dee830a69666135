import os
import subprocess
import sys

import pytest

from weaksam.threads import sleep_soon

# What OpenMP, which torch loads, tells of its settings.
TOLD = """
import sys
from pipelines.cli import app
assert "torch" not in sys.modules
sys.argv = ["weaksam", "weights", "list"]
try:
    app.main()
finally:
    import torch
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has another OpenMP there")
def test_openmp_hears_of_it_from_the_command_line() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", TOLD],
        env=environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line} == {
        "GOMP_SPINCOUNT = '1000'"
    }


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    sleep_soon()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
