"""What another package adds: one member of each family, each one file and one line, and a recipe that uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}

RECIPE = """
name: elsewhere
data: {kind: colours, train_split: train}
stages:
  - index
  - propose
  - brightness
  - brightness.double: {scale: 2}
  - report
propose: {method: selective-search}
selective_search: {min_side: 4, resize_width: 0}
resources: {here: true}
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of installed packages with ours of elsewhere in it."""
    metadata = tmp_path / "packages" / "elsewhere-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_bytes((HERE / "entry_points.txt").read_bytes())
    (tmp_path / "packages" / "elsewhere").symlink_to(HERE / "elsewhere")
    return metadata.parent


def weaksam(packages: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli.app import main; main()", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{packages}:{ROOT}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_data_set_a_stage_with_a_table_a_section_and_a_format_of_another_package(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        for name, colour in COLOURS.items():
            picture = Image.new("RGB", (32, 24), colour)
            picture.paste((255, 255, 255), (4, 4, 16, 16))
            picture.save(tmp_path / "data" / f"{split}-{name}-0.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    said = weaksam(installed, "run", tmp_path / "recipe.yaml", "--data", tmp_path / "data", "--out", tmp_path / "run")
    # 144 of 768 pixels are white, the others have one channel of three: (144 + 624 / 3) / 768 of 255.
    assert "classes 2: red, blue · labels granted to train" in said
    assert "images 4 = done 4 + dropped 0 · duplicates 0 · mean 116.9" in said
    assert "images 4 = done 4 + dropped 0 · duplicates 0 · mean 233.8" in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<p>brightness: 116.9</p><p>brightness.double: 233.8</p>" in page
    again = weaksam(installed, "brightness", tmp_path / "run", "--label", "double")
    assert "brightness.double" in again
    assert "is finished" in again
    lines = ("export", tmp_path / "run", "--as", "lines", "--split", "test", "--out", tmp_path / "lines.txt")
    weaksam(installed, *lines)
    assert (tmp_path / "lines.txt").read_text().startswith("test-blue-0 [")
    Image.new("RGB", (32, 24), (255, 255, 255)).save(tmp_path / "data" / "train-red-1.png")
    (tmp_path / "data" / "train-blue-1.png").write_bytes(b"text")
    more = weaksam(installed, "brightness", tmp_path / "run", "--max-dropped", "1")
    # The mean of four times 116.875 and 255.
    assert "images 6 = done 5 (4 from before) + dropped 1 · duplicates 0 · mean 144.5" in more


MODELS = """
name: models
data: {kind: shapes, splits: [train, val], shapes: {train: 8, val: 4, test: 0, size: 64}}
stages:
  - index
  - train-classifier
  - propose
  - train-mil
  - detect.mil
  - evaluate.mil
  - label
  - retrain
  - detect.final
  - evaluate.final
  - report
clues: {source: {name: patches, side: 16}, cam: {max_side: 64, cross_layers: []}}
classifier: {epochs: 1, crop_size: 64, batch_size: 4}
prompts: {sources: [grid, coarse], points_per_side: 2}
sam: {name: tiny}
mil:
  detector: plain_mil
  backbone: small
  steps: 2
  batch_size: 4
  scales: [64]
  max_side: 64
  min_box_side: 4
  freeze_stages: 0
detect: {scales: [64], max_side: 64}
retrain:
  detector: {name: centre, fraction: 0.25}
  backbone: small
  steps: 2
  batch_size: 4
  scales: [64]
  max_side: 64
  freeze_stages: 0
  test: {scales: [64], max_side: 64, score_threshold: 0.0}
segmenter: {network: {name: tones, contrast: 2.0}, side: 64}
resources: {here: true, cpus: 1}
"""


@pytest.mark.long
def test_models_of_another_package_from_clues_to_a_retrained_detector(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MODELS)
    said = weaksam(installed, "run", tmp_path / "recipe.yaml", "--data", "shapes:", "--out", tmp_path / "run")
    assert "images 12 = done 12 + dropped 0 · duplicates 0" in said
    printed = weaksam(installed, "run", tmp_path / "run", "--print-recipe")
    assert "name: patches" in printed
    assert "fraction: 0.25  # recipe.yaml" in printed
    boxes = weaksam(installed, "export", tmp_path / "run", *BOXES, "--out", tmp_path / "boxes.json")
    assert "images 4 · detections 4" in boxes
    # The box in the middle, a quarter of the sides of 64 pixels: 24 to 40.
    assert '"bbox": [24.0, 24.0, 16.0, 16.0]' in (tmp_path / "boxes.json").read_text()
    given = ("--set", f"segmenter.weights={tmp_path / 'recipe.yaml'}", "--dry-run")  # of which nothing is loaded
    assert "tones on small, 64 pixels" in weaksam(installed, "predict-maps", tmp_path / "run", *given)
    untrained = ("propose", tmp_path / "run", "--set", "clues.source=glow", "--dry-run")
    assert "train-classifier" not in weaksam(installed, *untrained)


BOXES = ("--of", "detect.final", "--as", "coco", "--split", "val")


@pytest.mark.slow
def test_a_table_of_another_package(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MODELS)
    assert "brightness-of-proposals" in weaksam(installed, "table")
    out = ("--seeds", "0", "--out", tmp_path / "run")
    said = weaksam(installed, "table", "brightness-of-proposals", tmp_path / "recipe.yaml", "--data", "shapes:", *out)
    assert "glow" in said
    assert "patches" in said
    assert (tmp_path / "run" / "tables" / "brightness-of-proposals.json").exists()
