"""docs/photographs.md is executed, command by command, where no host can be reached.

On drawn pictures and with trainings of two steps.
"""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.patience import PATIENCE_S
from weaksam.config import DataConfig, ShapesConfig
from weaksam.datasets import open_dataset
from weaksam.io.files import read_bytes

PAGE = (Path(__file__).parent.parent / "docs" / "photographs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- tested -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
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
# The reader's commands as they stand; what makes them quick is added to those that train.
SHELL = """
weaksam() {{
    case $1 in
        run) {python} -c "$MAIN" "$@" {settings} ;;
        *) {python} -c "$MAIN" "$@" ;;
    esac
}}
{commands}
"""


def draw(folder: Path, split: str, *, labelled: bool) -> None:
    """Write the drawings of a split as pictures, and their labels into a table."""
    dataset = open_dataset(DataConfig(uri="shapes:", shapes=ShapesConfig(size=64, train=12, val=0, test=3)))
    folder.mkdir()
    rows = [("path", "labels")]
    for record in dataset.records(split):
        Image.open(io.BytesIO(read_bytes(record.uri))).save(folder / f"{record.image_id}.png")
        rows.append((f"{record.image_id}.png", ";".join(dataset.class_names[c] for c in record.labels_difficult or ())))
    if labelled:
        with (folder / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


@pytest.mark.slow
def test_the_page_leads_from_labels_to_boxes(tmp_path: Path) -> None:
    assert len(BLOCKS) == 3
    draw(tmp_path / "cards", "train", labelled=True)
    draw(tmp_path / "new", "test", labelled=False)
    settings = " ".join(f"--set '{setting}'" for setting in SMALL)
    script = SHELL.format(python=sys.executable, settings=settings, commands="".join(BLOCKS))
    log = tmp_path / "asked.log"
    environment = {**os.environ, "MAIN": OFFLINE.format(log=str(log)), "WEAKSAM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["sh", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for named in ("runs/cards/preview-8/report.html", "boxes/coco/all.json", "boxes/pictures", "boxes/yolo"):
        assert f"`{named}" in PAGE
        assert (tmp_path / named).exists()
    assert not log.exists(), log.read_text()
    assert "classification mAP" in done.stdout
    assert "All 12 would take about" in done.stdout
