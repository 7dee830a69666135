"""The benchmark of the recipe photos: what it reads of a run, and what it counts as memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.photos import _peak_of, table
from pipelines.engine.stage import Options
from pipelines.recipe.model import load_recipe
from pipelines.recipe.yaml_text import render
from pipelines.runner import Run


def test_a_stage_is_divided_by_all_images(tmp_path: Path) -> None:
    settings = ["data.shapes.size=32", "data.shapes.train=3", "data.shapes.val=0", "data.shapes.test=1"]
    recipe = load_recipe("photos", settings, "shapes:")[0]
    (tmp_path / "recipe.yaml").write_text(render(recipe))
    run = Run(recipe, str(tmp_path))
    run.bring(["index"], Options())
    instance = run.instance("propose.search")
    instance.begin({})
    instance.finish({"text": "by hand", "seconds": 6.0})
    lines = table(str(tmp_path)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["index", "propose.search", "all, 4 images"]
    assert [float(word) for word in lines[3].split("|")[2:4]] == [6.0, 1.5]


def test_memory_is_that_of_a_process_and_those_below_it() -> None:
    grandchild = "import time; held = bytearray(200 << 20); held[::4096] = b'x' * len(held[::4096]); time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with subprocess.Popen([sys.executable, "-c", child]) as process, _peak_of(process.pid) as peak:
        end = time.monotonic() + 60
        while peak[0] < 200 << 20 and time.monotonic() < end:
            time.sleep(0.2)
        for below in psutil.Process(process.pid).children(recursive=True):
            below.kill()
    assert 200 << 20 <= peak[0] < 600 << 20
