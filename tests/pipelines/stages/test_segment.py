"""Pseudo boxes to masks: which boxes prompt, what becomes of empty masks, and what the rows hold."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.dataflow.rows import FETCHED
from pipelines.engine.stage import Options
from pipelines.exchange.true_boxes import run_export_true_boxes
from pipelines.products.measured import Evaluation
from pipelines.products.pseudo_labels import PseudoLabelTable, PseudoMaskTable
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.registry import stage_of
from pipelines.runner import Run
from pipelines.stages.segment import MaskActor, MaskSpec
from pipelines.store.instances import Instance
from pipelines.store.schemas import PROMPT_COLUMNS, PSEUDO_LABELS, PSEUDO_MASKS
from weaksam.config import SamConfig, SegmentConfig
from weaksam.masks_np import decode_rle

SETTINGS = [
    "data.shapes.train=6",
    "data.shapes.val=2",
    "data.shapes.size=64",
    "sam.name=builtin",
    "resources.here=true",
    "resources.cpus=1",
    "segment.true.labels=true-boxes.truth",
]


def recipe_of(*more: str) -> Recipe:
    return load_recipe("grid", [*SETTINGS, *more], "shapes:")[0]


@pytest.fixture
def run(tmp_path: Path) -> str:
    folder = str(tmp_path / "run")
    Run(recipe_of(), folder).bring(["index"], Options())
    run_export_true_boxes(folder, name="truth")
    return folder


@pytest.mark.slow
def test_every_box_has_the_mask_that_its_row_describes(run: str) -> None:
    manifest = Run(recipe_of(), run).bring(["segment.true"], Options())["segment.true"]
    labels = PseudoLabelTable(Run(recipe_of(), run).instance("true-boxes.truth"))
    before = {image.image_id: image for image in labels.images()}
    table = PseudoMaskTable(Run(recipe_of(), run).instance("segment.true"))
    assert {row["image_id"] for row in table.table.iter_rows()} == set(before)
    boxes = 0
    for row in table.table.iter_rows():
        truth = before[row["image_id"]].truth
        assert row["prompted_boxes_xyxy"] == truth.boxes_xyxy.tolist()
        assert row["class_index"] == truth.class_index.tolist()
        assert (row["split"], row["supervision"], row["rejected"]) == ("train", "boxes", [])
        for n, rle in enumerate(row["mask_rle"]):
            y, x = np.nonzero(decode_rle(rle))
            assert row["boxes_xyxy"][n] == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert row["area"][n] == len(x)
        boxes += len(row["mask_rle"])
    # The built-in SAM knows drawings: on these, its masks fill their boxes.
    assert (manifest["boxes"], manifest["supervision"], manifest["rejected"]) == (boxes, "boxes", {})
    assert 0.7 < manifest["box_iou"] < 1
    assert f"masks {boxes}" in manifest["text"]
    images = {image.image_id: image for image in table.images()}
    assert all(len(image.truth.mask_rle or ()) == len(image.truth) for image in images.values())


@pytest.mark.slow
def test_rows_of_before_stay_and_another_way_to_prompt_makes_others(run: str) -> None:
    first = Run(recipe_of(), run).bring(["segment.true"], Options())["segment.true"]
    again = Run(recipe_of(), run).resolve("segment.true")
    assert again.instance.manifest() == first
    for setting in ("segment.true.refine=true", "segment.true.clip=true", "segment.true.min_area=9"):
        assert Run(recipe_of(setting), run).instance("segment.true").key != again.instance.key
    without_effect = Run(recipe_of("segment.true.max_points=3"), run).instance("segment.true")
    assert without_effect.key == again.instance.key


@pytest.mark.slow
def test_masks_are_measured_beside_trivial_ones_and_shown(run: str) -> None:
    recipe = recipe_of("evaluate.true.of=segment.true", "evaluate.grabcut_images=2", "report.failures=2")
    names = ["index", "segment.true", "evaluate.true", "report"]
    recipe = recipe.model_copy(update={"stages": tuple(names)})
    Run(recipe, run).bring(names, Options())
    measured = Evaluation(Run(recipe, run).instance("evaluate.true")).read()["pseudo_masks"]["train"]
    rows = {row["name"]: row["iou"] for row in measured["rows"]}
    # On drawings the built-in SAM beats the boxes that it was shown.
    assert rows["pseudo masks"] > max(rows["boxes, filled"], rows["ellipses in the boxes"])
    assert measured["rows"][3]["images"] == 2
    page = (Path(run) / "report.html").read_text()
    for shown in ('id="pseudo-masks"', "supervision: boxes", "GrabCut in the boxes", "Worst", "By chance"):
        assert shown in page
    section = page.partition('id="pseudo-masks"')[2].partition("<section")[0]
    assert section.count("<img") == 2 * 4  # pseudo and true, of two images fitted worst and two by chance


def test_a_retrained_detector_may_learn_from_masks() -> None:
    recipe = recipe_of("retrain.learn_from=segment.true")
    assert stage_of("retrain").options(recipe, "retrain").learn_from == "segment.true"


FETCHED_LABELS = pa.schema(
    [
        *FETCHED,
        *(PSEUDO_LABELS.field(name) for name in ("boxes_xyxy", "class_index", "score", "score_normalised", "noise")),
        PSEUDO_LABELS.field("supervision"),
        *PROMPT_COLUMNS,
    ]
)


def png_bytes(image: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def fetched(image_id: str, image: np.ndarray, boxes: list[list[float]], **more: Any) -> dict[str, Any]:
    row = {
        "image_id": image_id,
        "input": "i",
        "uri": f"/{image_id}.png",
        "bytes": png_bytes(image),
        "boxes_xyxy": boxes,
        "class_index": [0] * len(boxes),
        "score": [0.5] * len(boxes),
        "score_normalised": [1.0] * len(boxes),
        "supervision": "image-labels",
    }
    return {**row, **{column.name: [] for column in PROMPT_COLUMNS}, **more}


def two_squares() -> np.ndarray:
    image = np.full((128, 128, 3), 230, np.uint8)
    image[20:60, 20:60] = (200, 30, 30)
    image[80:110, 70:115] = (30, 30, 200)
    return image


def segmented(tmp_path: Path, rows: list[dict[str, Any]], **config: Any) -> tuple[list[dict[str, Any]], Instance]:
    instance = Instance(str(tmp_path), "segment", "k")
    spec = MaskSpec(
        instance=instance, sam=SamConfig(name="builtin"), config=SegmentConfig(**config), threads=1, device="cpu"
    )
    return MaskActor(spec)(pa.Table.from_pylist(rows, schema=FETCHED_LABELS)).to_pylist(), instance


def test_images_without_boxes_have_rows_and_broken_ones_are_set_aside(tmp_path: Path) -> None:
    nothing = fetched("nothing", two_squares(), [])
    broken = fetched("broken", two_squares(), [[0, 0, 9, 9]], bytes=None, reason="not an image", detail="")
    rows, instance = segmented(tmp_path, [nothing, broken])
    (row,) = rows
    assert (row["image_id"], row["boxes_xyxy"], row["mask_rle"], row["rejected"]) == ("nothing", [], [], [])
    assert instance.dropped.read()["image_id"].to_pylist() == ["broken"]


def test_small_masks_are_rejected_with_their_reason_and_the_others_keep_their_columns(tmp_path: Path) -> None:
    squares = [[20.0, 20.0, 60.0, 60.0], [70.0, 80.0, 115.0, 110.0]]
    (row,), _ = segmented(tmp_path, [fetched("a", two_squares(), squares, class_index=[3, 4], noise=["x", "y"])])
    areas = row["area"]
    assert len(areas) == 2
    assert areas[0] > areas[1]
    assert row["noise"] == ["x", "y"]
    (row,), _ = segmented(
        tmp_path,
        [fetched("a", two_squares(), squares, class_index=[3, 4], noise=["x", "y"])],
        min_area=areas[1] + 1,
    )
    assert (row["class_index"], row["area"], row["prompted_boxes_xyxy"]) == ([3], areas[:1], squares[:1])
    assert row["noise"] == ["x"]
    (rejected,) = row["rejected"]
    assert rejected == {"box_xyxy": squares[1], "class_index": 4, "score": 0.5, "reason": "small mask"}


def test_a_box_without_area_is_rejected_whatever_mask_sam_makes_of_it(tmp_path: Path) -> None:
    boxes = [[20.0, 20.0, 60.0, 60.0], [0.0, 12.0, 0.0, 30.0]]
    (row,), _ = segmented(tmp_path, [fetched("a", two_squares(), boxes)])
    assert row["prompted_boxes_xyxy"] == boxes[:1]
    assert [rejected["reason"] for rejected in row["rejected"]] == ["box without area"]


def test_peaks_of_the_class_inside_the_box_prompt_beside_it(tmp_path: Path) -> None:
    box = [[10.0, 10.0, 118.0, 118.0]]  # around both squares: the points say which is meant
    points = {
        "prompt_points_xy": [[[40.0, 40.0]], [[90.0, 95.0]]],
        "prompt_source": ["coarse", "coarse"],
        "prompt_kind": ["semantic", "semantic"],
        "prompt_class_index": [1, 2],
    }
    masks = []
    for of_class in (1, 2):
        (row,), _ = segmented(tmp_path, [fetched("a", two_squares(), box, class_index=[of_class], **points)])
        masks.append(decode_rle(row["mask_rle"][0]))
    assert [bool(masks[0][40, 40]), bool(masks[0][95, 90])] == [True, False]
    assert [bool(masks[1][40, 40]), bool(masks[1][95, 90])] == [False, True]


def test_the_schema_begins_with_that_of_pseudo_labels() -> None:
    assert PSEUDO_MASKS.names[: len(PSEUDO_LABELS.names)] == PSEUDO_LABELS.names
