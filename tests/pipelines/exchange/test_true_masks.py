"""True masks as pseudo labels: which they are, what is left out, and that they are marked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.engine.stage import Options
from pipelines.products.pseudo_labels import PseudoLabelTable, PseudoMaskTable
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from tests.support.trees import build_coco_tree, write_json
from weaksam.datasets.shapes import Shapes
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle

DRAWN = ("data.shapes.train=12", "data.shapes.val=2", "data.shapes.size=64")


def made(run: Path, data: object, *overrides: str) -> tuple[dict, dict[str, dict]]:
    """The manifest and the rows, by image, of the true masks of a run that indexes ``data``."""
    recipe, _ = load_recipe("grid", list(overrides), str(data))
    manifest = Run(recipe, str(run)).bring(["index", "true-masks"], Options())["true-masks"]
    table = PseudoMaskTable(Run(recipe, str(run)).instance("true-masks")).table
    return manifest, {row["image_id"]: row for row in table.iter_rows()}


def test_every_row_holds_the_true_masks_and_their_boxes(tmp_path: Path) -> None:
    manifest, rows = made(tmp_path / "run", "shapes:", *DRAWN)
    truth = Shapes(load_recipe("grid", list(DRAWN))[0].data.shapes).ground_truth("train", masks=True)
    assert set(rows) == set(truth)
    masks = 0
    for image_id, row in rows.items():
        assert row["mask_rle"] == truth[image_id].mask_rle
        assert row["class_index"] == truth[image_id].class_index.tolist()
        assert row["prompted_boxes_xyxy"] == truth[image_id].boxes_xyxy.tolist()
        assert (row["supervision"], row["rejected"]) == ("masks", [])
        for rle, box, area in zip(row["mask_rle"], row["boxes_xyxy"], row["area"], strict=True):
            y, x = np.nonzero(decode_rle(rle))
            assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert area == len(x)
        masks += len(row["mask_rle"])
    assert (manifest["supervision"], manifest["boxes"], manifest["left_out"]) == ("masks", masks, {})
    assert manifest["text"] == (f"images 12 = done 12 + dropped 0 · duplicates 0 · masks {masks} · supervision: masks")


def test_crowds_and_objects_without_a_mask_are_left_out_and_counted(tmp_path: Path) -> None:
    data = build_coco_tree(tmp_path / "coco")
    document = json.loads((data / "annotations" / "instances_train2017.json").read_text())
    image, category = document["images"][0], document["categories"][0]["id"]
    height, width = image["height"], image["width"]
    runs = {"size": [height, width], "counts": [0, 3, height * width - 3]}
    common = {"image_id": image["id"], "category_id": category, "area": 1, "iscrowd": 0}
    document["annotations"] = [
        {**common, "id": 1, "bbox": [2, 2, 8, 6], "segmentation": [[2, 2, 10, 2, 10, 8, 2, 8]]},
        {**common, "id": 2, "bbox": [0, 0, 5, 5]},
        {**common, "id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1, "segmentation": runs},
    ]
    write_json(data, "train2017", document)
    manifest, rows = made(tmp_path / "run", data)
    assert (manifest["boxes"], manifest["left_out"]) == (1, {"crowd": 1, "without a mask": 1})
    (row,) = (row for row in rows.values() if row["boxes_xyxy"])
    assert row["boxes_xyxy"] == [[2, 2, 10, 8]]
    assert row["area"] == [48]


def test_annotations_without_masks_are_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected true masks of the split that labels are granted to .* objects without any"
    ):
        made(tmp_path / "run", build_coco_tree(tmp_path / "coco"))


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["mask_rcnn", "mask2former"])
def test_what_is_learnt_from_them_says_so(tmp_path: Path, detector: str) -> None:
    options = {
        "mask_rcnn": "anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 32, mask_dims: [8]",
        "mask2former": "dim: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, encoder_feedforward_dim: 16, "
        "feedforward_dim: 16, queries: 10, points: 32",
    }[detector]
    (tmp_path / "recipe.yaml").write_text(f"""
base: shapes-tuning.yaml
name: truth
stages:
  - index
  - true-masks
  - retrain
  - detect.final: {{model: retrain, splits: [train]}}
  - label: {{detections: detect.final}}
data: {{shapes: {{train: 6, val: 2, test: 0, size: 64}}, splits: [train, val]}}
retrain:
  learn_from: true-masks
  detector: {{name: {detector}, {options}}}
  init: ""
  scales: [64]
  steps: 2
  epochs: 0
  test: {{scales: [64], score_threshold: 0.0}}
resources: {{here: true, cpus: 1}}
""")
    recipe, _ = load_recipe(str(tmp_path / "recipe.yaml"), [], "shapes:")
    manifests = Run(recipe, str(tmp_path / "run")).bring(list(recipe.stages), Options())
    marked = {name: manifest["supervision"] for name, manifest in manifests.items() if "supervision" in manifest}
    assert marked == dict.fromkeys(("true-masks", "retrain", "detect.final", "label"), "masks")
    rows = PseudoLabelTable(Run(recipe, str(tmp_path / "run")).instance("label")).images()
    assert {image.supervision for image in rows} == {"masks"}
