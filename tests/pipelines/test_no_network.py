"""The recipe that begins with pretrained weights, from labels to boxes for new pictures, where no host can be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.trees import build_voc_tree

pytestmark = pytest.mark.slow

# Refuses every connection and every question for a host's address, and notes what was asked for.
OFFLINE = """
import socket
def refuse(*asked, **_):
    with open({log!r}, "a") as log:
        print(*asked, file=log)
    raise OSError("there is no network")
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
socket.socket.connect = socket.socket.connect_ex = lambda self, address: refuse(address)
from pipelines.cli.app import main; main()
"""
SHORT = ("epochs=0", "steps=2", "batch_size=2", "scales=[64]")
SMALL = (
    "clues.cam.scales=[1.0]",
    "clues.cam.max_side=64",
    "classifier.epochs=1",
    "classifier.batch_size=4",
    "classifier.crop_size=64",
    "prompts.points_per_side=2",
    "selective_search.max_boxes=20",
    "selective_search.resize_width=64",
    *(f"{section}.{option}" for section in ("mil", "retrain") for option in SHORT),
    "detect.scales=[64]",
    "retrain.test.scales=[64]",
    "retrain.detector.pyramid_dim=16",
    "retrain.detector.head_dim=16",
    "resources.here=true",
)  # fmt: skip


def test_photographs_need_no_download(tmp_path: Path) -> None:
    data = build_voc_tree(tmp_path / "voc", {"trainval": 4, "test": 2})
    log = tmp_path / "asked.log"

    def weaksam(*arguments: str) -> str:
        command = [sys.executable, "-c", OFFLINE.format(log=str(log)), *arguments]
        environment = {**os.environ, "WEAKSAM_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run, settings = str(tmp_path / "run"), [word for setting in SMALL for word in ("--set", setting)]
    printed = weaksam("run", "photos", "--data", str(data), "--out", run, *settings)
    assert "retrain" in printed
    assert (tmp_path / "run" / "report.html").exists()
    weaksam("predict", run, "--data", str(data / "JPEGImages"), "--out", str(tmp_path / "out"), "--score", "0")
    assert (tmp_path / "out" / "coco" / "all.json").exists()
    assert not log.exists(), log.read_text()
