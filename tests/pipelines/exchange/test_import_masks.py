"""Masks of others: what was exported comes back to the pixel, and whatever is wrong is told or counted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.engine.stage import Options
from pipelines.exchange.export import run_export
from pipelines.exchange.import_masks import run_import_masks
from pipelines.products.measured import Evaluation
from pipelines.products.pseudo_labels import PseudoMaskTable
from pipelines.recipe.model import load_recipe
from pipelines.recipe.yaml_text import render
from pipelines.registry import product_of
from pipelines.runner import Run
from pipelines.store.instances import finished_instance
from pipelines.store.schemas import IMAGES, PSEUDO_MASKS, pseudo_masks_to_row, with_class_names
from tests.support.sets import instance_of, of_index
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle, encode_rle, rle_area, rle_boxes
from weaksam.structures import PseudoGroundTruth

SIZE = (12, 16)
CLASSES = ("cat", "dog")
NAMES = ("cam1/5.png", "cam2/5.png", "none.png")
Mask = np.ndarray


def drawn(*parts: tuple[int, int, int, int], hole: tuple[int, int] | None = None) -> Mask:
    mask = np.zeros(SIZE, np.bool_)
    for x1, y1, x2, y2 in parts:
        mask[y1:y2, x1:x2] = True
    if hole:
        mask[hole[1], hole[0]] = False
    return mask


# None covers another of its image, as in VOC's PNGs.
PIXEL, LINE = drawn((15, 11, 16, 12)), drawn((0, 0, 16, 1))
HOLED, PARTS = drawn((2, 2, 9, 9), hole=(5, 5)), drawn((0, 10, 2, 12), (10, 5, 14, 9))
MASKS: dict[str, list[tuple[int, Mask]]] = {
    "cam1/5.png": [(0, PIXEL), (1, LINE), (0, HOLED), (1, PARTS)],
    "cam2/5.png": [(1, drawn((0, 0, 16, 12)))],
    "none.png": [],
}


def labelled(found: list[tuple[int, Mask]]) -> PseudoGroundTruth:
    masks = [encode_rle(mask) for _, mask in found]
    ones = np.ones(len(masks), np.float32)
    return PseudoGroundTruth(
        boxes_xyxy=rle_boxes(masks),
        class_index=np.array([class_index for class_index, _ in found], np.int64),
        score=ones / 2,
        score_normalised=ones,
        mask_rle=masks,
    )


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run of three images, two of one file name, with pseudo masks by hand."""
    folder = str(tmp_path / "run")
    rows = []
    for name in NAMES:
        picture = tmp_path / "pictures" / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(picture)
        row = {"image_id": name, "uri": str(picture), "split": "train", "content": name, "labels": [0, 1]}
        rows.append({**row, "labels_difficult": [0, 1]})
    index = instance_of(folder, "index")
    index.begin({})
    index.table(with_class_names(IMAGES, CLASSES)).write_rows(rows, "part-0")
    index.finish({"kind": "folder", "labels_granted_to": "train", "splits": {"train": len(NAMES)}})
    segment = of_index(folder, "segment")
    segment.begin({})
    written = []
    for name, found in MASKS.items():
        truth = labelled(found)
        numbers = np.ones(len(truth), np.float32)
        columns = {
            "area": rle_area(truth.mask_rle),
            **dict.fromkeys(("box_iou", "predicted_iou", "stability"), numbers),
        }
        written.append(
            pseudo_masks_to_row(
                name, "", SIZE, truth, prompted_xyxy=truth.boxes_xyxy, columns=columns, reasons=[""] * len(truth),
                supervision="image-labels",
            )
        )  # fmt: skip
    segment.table(with_class_names(PSEUDO_MASKS, CLASSES)).write_rows(written, "part-0")
    segment.finish({"supervision": "image-labels", "split": "train"})
    return folder


def rows_of(run: str, name: str = "x") -> dict[str, dict[str, Any]]:
    product = product_of(finished_instance(run, f"import-masks.{name}"))
    assert type(product) is PseudoMaskTable
    return {row["image_id"]: row for row in product.table.iter_rows()}


def exported(run: str, to: str, out: Path) -> str:
    run_export(run, to=to, split="train", out=str(out), instance="segment")
    return str(out)


def changed(path: str, change: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    document = json.loads(Path(path).read_text())
    change(document)
    Path(path).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("to", "supervision"),
    [("coco", ""), ("coco-polygons", ""), ("voc", ""), ("labelme", "masks"), ("yolo", "image-labels")],
)
def test_what_was_exported_comes_back(run: str, tmp_path: Path, to: str, supervision: str) -> None:
    manifest = run_import_masks(run, exported(run, to, tmp_path / "out"), name="x", supervision=supervision)
    rows = rows_of(run)
    assert set(rows) == set(NAMES)
    scored = to in ("coco", "coco-polygons", "voc")
    for name, row in rows.items():
        found = MASKS[name]
        assert row["class_index"] == [class_index for class_index, _ in found]
        assert row["score"] == [0.5 if scored else 1.0] * len(found)
        assert (row["supervision"], row["rejected"], row["size_hw"]) == (supervision or "image-labels", [], list(SIZE))
        for rle, (_, mask), box, area in zip(row["mask_rle"], found, row["boxes_xyxy"], row["area"], strict=True):
            read = decode_rle(rle)
            y, x = np.nonzero(read)
            assert (box, area) == ([x.min(), y.min(), x.max() + 1, y.max() + 1], len(x))
            if to == "yolo" and (mask is HOLED or mask is PARTS):  # lines join them
                assert (read & mask).sum() == mask.sum()
            else:
                np.testing.assert_array_equal(read, mask)
    assert (manifest["boxes"], manifest["rejected"], manifest["unknown"], manifest["missing"]) == (5, {}, 0, 1)
    assert manifest["text"].startswith(
        "images 3 = done 3 + dropped 0 · duplicates 0 · masks 5 · rejected: none · images not in the file 1 · images not in "
        "the split 0 · supervision: "
    )


def instances(*annotations: dict[str, Any], size: tuple[int, int] = SIZE, **more: Any) -> dict[str, Any]:
    image = {"id": 7, "file_name": "cam1/5.png", "height": size[0], "width": size[1]}
    categories = [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}]
    rows = [{"id": n, "image_id": 7, "category_id": 3, **each} for n, each in enumerate(annotations)]
    return {"images": [image], "annotations": rows, "categories": categories, **more}


def imported(run: str, tmp_path: Path, document: Any, supervision: str = "image-labels") -> dict[str, Any]:
    (tmp_path / "theirs.json").write_text(json.dumps(document))
    return run_import_masks(run, str(tmp_path / "theirs.json"), name="x", supervision=supervision)


def test_run_lengths_of_numbers_and_polygons_without_scores_are_read(run: str, tmp_path: Path) -> None:
    pixels = SIZE[0] * SIZE[1]
    imported(
        run,
        tmp_path,
        instances(
            {"segmentation": {"size": list(SIZE), "counts": [0, 2, pixels - 2]}},  # down the first column
            {"segmentation": [[2, 2, 6, 2, 6, 5, 2, 5]], "bbox": [2, 2, 4, 6]},
        ),
    )
    row = rows_of(run)["cam1/5.png"]
    np.testing.assert_array_equal(decode_rle(row["mask_rle"][0]), drawn((0, 0, 1, 2)))
    np.testing.assert_array_equal(decode_rle(row["mask_rle"][1]), drawn((2, 2, 6, 5)))
    assert (row["class_index"], row["score"]) == ([1, 1], [1, 1])
    assert row["boxes_xyxy"] == [[0, 0, 1, 2], [2, 2, 6, 5]]
    assert row["prompted_boxes_xyxy"] == [[0, 0, 1, 2], [2, 2, 6, 8]]  # what is stated, else the mask's
    assert row["box_iou"] == [1, 0.5]
    assert np.isnan(row["predicted_iou"]).all()


@pytest.mark.parametrize("bbox", [[0, 0, 0, 0], [20, 0, 5, 4], [2, -8, 4, 8]], ids=["no area", "beside", "above"])
def test_a_stated_box_that_holds_nothing_of_the_image_prompted_nothing(
    run: str, tmp_path: Path, bbox: list[int]
) -> None:
    imported(run, tmp_path, instances({"segmentation": [[2, 2, 6, 2, 6, 5, 2, 5]], "bbox": bbox}))
    row = rows_of(run)["cam1/5.png"]
    assert row["prompted_boxes_xyxy"] == row["boxes_xyxy"] == [[2, 2, 6, 5]]
    assert row["box_iou"] == [1]


def test_objects_without_a_pixel_and_crowds_are_rejected_and_counted(run: str, tmp_path: Path) -> None:
    whole = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
    manifest = imported(
        run,
        tmp_path,
        instances(
            {"bbox": [1, 2, 3, 4]},  # no segmentation
            {"segmentation": [[2, 2, 6, 2]]},  # two corners
            {"segmentation": {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}},
            {"segmentation": whole, "iscrowd": 1},
            {"segmentation": whole, "score": 0.25},
        ),
    )
    row = rows_of(run)["cam1/5.png"]
    assert [(each["reason"], each["box_xyxy"]) for each in row["rejected"]] == [
        ("empty mask", [1, 2, 4, 6]), ("empty mask", [0, 0, 0, 0]), ("empty mask", [0, 0, 0, 0]), ("crowd", [0, 0, 16, 12]),
    ]  # fmt: skip
    assert (row["area"], row["score"]) == ([SIZE[0] * SIZE[1]], [0.25])
    assert (manifest["boxes"], manifest["rejected"]) == (1, {"empty mask": 3, "crowd": 1})
    assert "masks 1 · rejected: empty mask 3, crowd 1 ·" in manifest["text"]


def test_pictures_of_another_size_are_dropped_and_other_images_counted(run: str, tmp_path: Path) -> None:
    document = instances({"segmentation": [[0, 0, 4, 0, 4, 4]]}, size=(24, 32))
    document["images"].append({"id": 8, "file_name": "elsewhere.png", "height": 3, "width": 3})
    manifest = imported(run, tmp_path, document)
    assert "images 3 = done 2 + dropped 1 " in manifest["text"]
    assert "images not in the split 1 (such as 'elsewhere.png')" in manifest["text"]
    (dropped,) = finished_instance(run, "import-masks.x").dropped.read().to_pylist()
    assert (dropped["image_id"], dropped["reason"]) == ("cam1/5.png", "annotated in another size")
    assert "expected masks of 16 x 12 pixels (width x height), got 32 x 24" in dropped["detail"]


BROKEN_RLE = instances({"segmentation": {"size": list(SIZE), "counts": "o0"}})
OTHER_RLE = instances({"segmentation": {"size": [3, 3], "counts": [9]}})
OTHERS = instances()
OTHERS["images"][0]["file_name"] = "b.png"
NO_SIZE = instances({"segmentation": [[0, 0, 4, 0, 4, 4]]})
del NO_SIZE["images"][0]["height"]
OTHER_CLASS = instances({"segmentation": [[0, 0, 4, 0, 4, 4]]})
OTHER_CLASS["categories"][0]["name"] = "emu"
TWICE = instances()
TWICE["images"].append({**TWICE["images"][0], "id": 8})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param(BROKEN_RLE, r"annotations\[0\] of image 7: expected run lengths of a mask of 12 x 16", id="broken"),
        pytest.param(OTHER_RLE, r"""run lengths of the "size" of its image, \[12, 16\]""", id="run lengths of another size"),
        pytest.param(instances({"segmentation": [[0, 0, "a", 1, 1, 1]]}), "of polygons", id="no numbers"),
        pytest.param(instances({"score": "high"}), r"annotations\[0\]: expected a number as score, got 'high'", id="score"),
        pytest.param(OTHER_CLASS, r"image cam1/5\.png: expected one of the run's classes cat, dog, got 'emu'", id="class"),
        pytest.param(OTHERS, r"of the split train, such as 'cam1/5\.png', got 1 others, .*'b\.png'", id="images"),
        pytest.param(TWICE, "expected each file_name once", id="twice"),
        pytest.param(NO_SIZE, "height and width of the image", id="no size"),
        pytest.param([], "expected an object of images, annotations and categories, got a list", id="results"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_meant_is_an_error_with_its_place(
    run: str, tmp_path: Path, document: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        imported(run, tmp_path, document)


def test_what_masks_are_owed_to_is_said_by_the_file_or_by_whoever_imports_it(run: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="expected what its masks are owed to, got ''; say --supervision image-labels if nobody"
    ):
        imported(run, tmp_path, instances(), "")
    assert imported(run, tmp_path, instances(), "masks")["supervision"] == "masks"
    said = instances(info={"supervision": "boxes"})
    assert imported(run, tmp_path, said, "")["supervision"] == "boxes"
    with pytest.raises(DataError, match="says supervision: boxes, not image-labels; leave --supervision out"):
        imported(run, tmp_path, said, "image-labels")
    with pytest.raises(DataError, match="expected what its masks are owed to, got 'magic'"):
        imported(run, tmp_path, instances(info={"supervision": "magic"}), "boxes")


def png(numbers: Mask) -> bytes:
    file = io.BytesIO()
    Image.fromarray(numbers.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_voc_s_pngs_alone_are_enough(run: str, tmp_path: Path) -> None:
    """Numbered as their maker likes, with a void; one image's are of another size, one's classes are not there."""
    root = tmp_path / "voc"
    numbers = np.where(HOLED, 7, np.where(LINE, 3, np.where(PIXEL, 255, 0)))
    kinds = np.where(HOLED, 2, np.where(LINE, 1, 0))
    for folder, pixels in (("SegmentationObject", numbers), ("SegmentationClass", kinds)):
        (root / folder).mkdir(parents=True)
        (root / folder / "cam1%2F5.png").write_bytes(png(pixels))
        (root / folder / "none.png").write_bytes(png(np.zeros((3, 3))))
    (root / "SegmentationObject" / "cam2%2F5.png").write_bytes(png(numbers))
    manifest = run_import_masks(run, str(root), name="x", supervision="image-labels")
    assert "images 3 = done 1 + dropped 2 " in manifest["text"]
    row = rows_of(run)["cam1/5.png"]
    assert (row["class_index"], row["score"]) == ([0, 1], [1, 1])
    for rle, mask in zip(row["mask_rle"], (LINE, HOLED), strict=True):
        np.testing.assert_array_equal(decode_rle(rle), mask)
    dropped = finished_instance(run, "import-masks.x").dropped.read().to_pylist()
    assert {each["image_id"]: each["reason"] for each in dropped} == {
        "cam2/5.png": "missing", "none.png": "annotated in another size",
    }  # fmt: skip
    (root / "SegmentationClass" / "cam1%2F5.png").write_bytes(png(kinds * 3))
    with pytest.raises(
        DataError, match=r"expected object 3 of one of the run's classes, .* are 1\.\.2 in their order, got 3"
    ):
        run_import_masks(run, str(root), name="x", supervision="image-labels")


def test_voc_s_objects_that_others_hide_are_rejected_and_wrong_numbers_refused(run: str, tmp_path: Path) -> None:
    out = exported(run, "voc", tmp_path / "voc")
    objects = tmp_path / "voc" / "SegmentationObject" / "cam1%2F5.png"
    numbers = np.array(Image.open(objects))
    objects.write_bytes(png(np.where(numbers == 1, 0, numbers)))
    run_import_masks(run, out, name="x")
    row = rows_of(run)["cam1/5.png"]
    assert [(each["reason"], each["box_xyxy"]) for each in row["rejected"]] == [("empty mask", [15, 11, 16, 12])]
    assert row["class_index"] == [1, 0, 1]
    objects.write_bytes(png(np.where(numbers == 1, 2, np.where(numbers == 2, 1, numbers))))
    with pytest.raises(DataError, match="numbered from 1 as the XML lists them, got 1, a dog, which there is cat"):
        run_import_masks(run, out, name="x")
    objects.write_bytes(objects.read_bytes()[:60])
    manifest = run_import_masks(run, out, name="x")
    assert "done 2 + dropped 1 " in manifest["text"]
    (dropped,) = finished_instance(run, "import-masks.x").dropped.read().to_pylist()
    assert dropped["reason"] == "truncated"
    assert dropped["detail"].startswith(str(objects))


def test_labelme_s_polygons_are_drawn_its_groups_joined_and_other_shapes_rejected(run: str, tmp_path: Path) -> None:
    out = exported(run, "labelme", tmp_path / "labelme")
    triangle = {
        "label": "dog",
        "shape_type": "polygon",
        "points": [[1.0, 1.0], [9.0, 1.0], [1.0, 9.0]],
        "group_id": None,
    }
    point = {"label": "cat", "shape_type": "point", "points": [[3.0, 3.0]], "group_id": None}
    file = str(tmp_path / "labelme" / "cam1" / "5.json")

    def mend(document: Any) -> None:
        first, line, _, _ = document["shapes"]
        document["shapes"] = [{**first, "group_id": 4}, triangle, {**line, "label": "cat", "group_id": 4}, point]

    changed(file, mend)
    run_import_masks(run, out, name="x", supervision="masks")
    row = rows_of(run)["cam1/5.png"]
    expected = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(expected).polygon([(1, 1), (9, 1), (1, 9)], fill=1, outline=1)
    assert (row["class_index"], [each["reason"] for each in row["rejected"]]) == ([0, 1], ["empty mask"])
    np.testing.assert_array_equal(decode_rle(row["mask_rle"][0]), PIXEL | LINE)
    np.testing.assert_array_equal(decode_rle(row["mask_rle"][1]), np.asarray(expected))
    whole = Path(file).read_text()
    for wrong in (
        {"mask": "%"},
        {"mask": "aGVsbG8="},
        {"points": [[15, 12], [16, 13]]},
        {"points": [[float("nan"), 0]]},
    ):
        Path(file).write_text(whole)
        changed(file, lambda document, wrong=wrong: document["shapes"][0].update(wrong))
        with pytest.raises(
            DataError, match=r"5\.json: shapes\[0\]: expected points and, of a mask, a PNG inside the image"
        ):
            run_import_masks(run, out, name="x", supervision="masks")


@pytest.mark.parametrize(
    "line", ["0 0.1 0.1 0.5 0.5", "2 0 0 .5 0 .5 .5", "0 0 0 2 0 .5 .5", "cat 0 0 .5 0 .5 .5", "0 0 0 .5 0 .5 .5 .5"]
)
def test_yolo_s_boxes_and_broken_lines_are_errors_with_their_place(run: str, tmp_path: Path, line: str) -> None:
    out = exported(run, "yolo", tmp_path / "yolo")
    (tmp_path / "yolo" / "labels" / "cam1" / "5.txt").write_text(f"\n{line}\n")
    with pytest.raises(
        DataError, match=r"cam1/5\.txt:2: expected the number of a class of data\.yaml and x, y of three"
    ):
        run_import_masks(run, out, name="x", supervision="image-labels")


def test_pictures_that_their_suffixes_alone_tell_apart_are_refused_where_a_format_has_none(
    run: str, tmp_path: Path
) -> None:
    out = exported(run, "yolo", tmp_path / "yolo")
    (row,) = (
        row for row in instance_of(run, "index").table(IMAGES).read().to_pylist() if row["image_id"] == "none.png"
    )
    twin = {**row, "image_id": "cam1/5.bmp", "uri": row["uri"].replace("none.png", "cam1/5.bmp")}
    instance_of(run, "index").table(with_class_names(IMAGES, CLASSES)).write_rows([twin], "part-1")
    with pytest.raises(DataError, match=r"cam1/5 may be image cam1/5\.png or cam1/5\.bmp; rename one of them"):
        run_import_masks(run, out, name="x", supervision="image-labels")


def test_a_folder_of_other_files_is_refused(run: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="or a file of COCO's instances, got a folder of 3 other files"):
        run_import_masks(run, str(tmp_path / "pictures"), name="x", supervision="masks")


def test_the_command_imports_and_the_same_folder_is_read_once(run: str, tmp_path: Path) -> None:
    out = exported(run, "voc", tmp_path / "voc")
    command = ["import-masks", run, out, "--name", "x"]
    assert CliRunner().invoke(app, command).exit_code == 0
    part = next(Path(run, "import-masks.x").glob("*/part-*"))
    before = part.stat().st_mtime_ns
    assert CliRunner().invoke(app, command).exit_code == 0
    assert part.stat().st_mtime_ns == before
    refused = CliRunner().invoke(app, [*command, "--supervision", "luck"])
    assert refused.exit_code == 2


RECIPE = """
base: shapes-tuning.yaml
name: masks
stages:
  - index
  - import-masks.mine
  - evaluate.mine: {of: import-masks.mine}
  - retrain.masks: {learn_from: import-masks.mine, detector: {name: mask_rcnn, anchor_sides: [12, 24, 48], pyramid_dim: 16,
      head_dim: 32, mask_dims: [8]}}
data: {shapes: {train: 6, val: 2, test: 0, size: 64}, splits: [train, val]}
evaluate: {grabcut_images: 0}
retrain: {init: "", scales: [64], steps: 2, epochs: 0, batch_size: 2, test: {scales: [64]}}
resources: {here: true, cpus: 1}
"""


@pytest.mark.slow
def test_mask_rcnn_learns_from_masks_of_others_and_says_what_they_are_owed_to(tmp_path: Path) -> None:
    """Of drawn pictures: true masks go out as COCO, come back, are measured as perfect and train a detector."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, origins = load_recipe(str(tmp_path / "recipe.yaml"), [], "shapes:")
    folder = str(tmp_path / "run")
    run = Run(recipe, folder)
    run.bring(["index", "true-masks"], Options())
    (tmp_path / "run" / "recipe.yaml").write_text(render(recipe, origins))
    run_export(folder, to="coco", split="train", out=str(tmp_path / "masks.json"), instance="true-masks")
    changed(str(tmp_path / "masks.json"), lambda document: document.pop("info"))
    manifest = run_import_masks(folder, str(tmp_path / "masks.json"), name="mine", supervision="image-labels")
    truth = product_of(finished_instance(folder, "true-masks")).table.read(("image_id", "mask_rle")).to_pylist()
    rows = rows_of(folder, "mine")
    assert {row["image_id"]: row["mask_rle"] for row in truth} == {i: row["mask_rle"] for i, row in rows.items()}
    manifests = Run(recipe, folder).bring(["evaluate.mine", "retrain.masks"], Options())
    assert manifests["retrain.masks"]["supervision"] == manifest["supervision"] == "image-labels"
    measured = Evaluation(Run(recipe, folder).instance("evaluate.mine")).read()["pseudo_masks"]["train"]
    assert next(row["iou"] for row in measured["rows"] if row["name"] == "pseudo masks") == 1
