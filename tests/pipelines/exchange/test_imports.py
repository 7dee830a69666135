import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from pipelines import bringing
from pipelines.exchange.export import run_export
from pipelines.exchange.imports import read_boxes, run_import, to_proposals
from pipelines.products.proposals import ProposalTable
from pipelines.store.instances import finished_instance
from pipelines.store.lock import Lock
from pipelines.store.schemas import proposals_from_row
from tests.support.handmade import write_index, write_proposals
from tests.support.sets import instance_of
from weaksam.errors import ConfigError, DataError, RunError

IDS = ["000005", "2008_000001"]
BOXES = {"2008_000001": [[0, 0, 4, 3], [1, 2, 20, 10]], "000005": [[5, 5, 6, 6]], "000007": []}


@pytest.fixture
def run(tmp_path: Path) -> str:
    """An index with the splits train and test, images 20 pixels wide and 10 high, and their proposals."""
    images = tmp_path / "images"
    images.mkdir()
    run_uri = str(tmp_path / "run")
    write_index(run_uri, {"train": list(BOXES), "test": ["000006"]}, kind="voc", folder=images)
    write_proposals(run_uri, BOXES)
    return run_uri


def _imported(run_uri: str, name: str = "x") -> dict[str, list[list[float]]]:
    rows = ProposalTable(finished_instance(run_uri, f"import.{name}")).table.iter_rows()
    return {row["image_id"]: proposals_from_row(row).boxes_xyxy.tolist() for row in rows}


def _dump(value: Any, path: Path) -> str:
    path.write_bytes(pickle.dumps(value))
    return str(path)


@pytest.mark.parametrize("to", ["wetectron", "mmdet", "coco"])
def test_what_was_exported_comes_back(run: str, tmp_path: Path, to: Any) -> None:
    run_export(run, to=to, split="train", out=str(tmp_path / "f"))
    missing: Any = "empty" if to == "coco" else "error"  # an image without boxes leaves no trace in COCO results
    done = run_import(run, str(tmp_path / "f"), name="x", split="train", missing=missing)
    assert _imported(run) == BOXES
    assert done["images"] == {"images": 3, "done": 3, "dropped": 0, "before": 0, "duplicates": 0}
    assert (done["boxes"], done["clipped"], done["discarded"], done["unknown"]) == (3, 0, 0, 0)


def test_imported_boxes_come_from_no_prompt_and_no_mask(run: str, tmp_path: Path) -> None:
    run_export(run, to="mmdet", split="train", out=str(tmp_path / "f"))
    run_import(run, str(tmp_path / "f"), name="x", split="train", source="elsewhere")
    instance = finished_instance(run, "import.x")
    row = next(iter(ProposalTable(instance).table.iter_rows()))
    assert (row["split"], row["size_hw"], row["source"]) == ("train", [10, 20], ["elsewhere", "elsewhere"])
    assert (row["prompt_index"], row["mask_index"], row["prompt_points_xy"]) == ([-1, -1], [-1, -1], [])
    assert np.isnan(row["predicted_iou"]).all()


def untimed(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in ("seconds", "finished")}


def test_two_processes_do_not_import_the_same(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringing, "Lock", lambda folder, job, _wait_s, on_lost: Lock(folder, job, 0.0, on_lost))
    run_export(run, to="mmdet", split="train", out=str(tmp_path / "f"))
    done = run_import(run, str(tmp_path / "f"), name="x", split="train")
    instance = finished_instance(run, "import.x")
    instance.reopen()
    Path(instance.plan_uri).write_text('{"parts": {"by": "another"}}')
    shown = run_import(run, str(tmp_path / "f"), name="x", split="train", source="other")
    with Lock(instance.folder, "another"), pytest.raises(RunError, match="is held by another"):
        run_import(run, str(tmp_path / "f"), name="x", split="train")
    assert instance.plan() == {"parts": {"by": "another"}}
    assert finished_instance(run, "import.x").key == shown["key"]
    again = run_import(run, str(tmp_path / "f"), name="x", split="train")
    assert untimed(again) == untimed(done)
    assert finished_instance(run, "import.x") == instance


def test_what_another_process_has_finished_meanwhile_is_not_written_again(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_export(run, to="mmdet", split="train", out=str(tmp_path / "f"))
    parts: dict[str, int] = {}

    def files() -> dict[str, int]:
        return {str(part): part.stat().st_mtime_ns for part in Path(run, "import.x").glob("*/part-*")}

    def taken_late(*arguments: Any) -> Lock:
        monkeypatch.undo()
        run_import(run, str(tmp_path / "f"), name="x", split="train")
        parts.update(files())
        return Lock(*arguments)

    monkeypatch.setattr(bringing, "Lock", taken_late)
    run_import(run, str(tmp_path / "f"), name="x", split="train")
    assert files() == parts != {}


def test_the_same_file_is_read_once_and_another_beside_it(run: str, tmp_path: Path) -> None:
    boxes = [np.asarray(b, np.float32).reshape(-1, 4) for b in BOXES.values()]
    first = run_import(run, _dump(boxes, tmp_path / "f"), name="x", split="train")
    part = next(Path(run, "import.x", first["key"]).glob("part-*"))
    written = part.stat().st_mtime_ns
    assert run_import(run, str(tmp_path / "f"), name="x", split="train")["key"] == first["key"]
    assert part.stat().st_mtime_ns == written
    second = run_import(run, _dump(boxes[::-1], tmp_path / "f"), name="x", split="train")
    assert second["key"] != first["key"]
    assert finished_instance(run, "import.x").key == second["key"]
    run_import(run, _dump(boxes, tmp_path / "f"), name="x", split="train")
    assert finished_instance(run, "import.x").key == first["key"]


def test_names_match_over_all_splits_and_a_split_can_be_chosen(run: str, tmp_path: Path) -> None:
    one = np.asarray([[0, 0, 1, 1]], np.uint16)
    held = {"boxes": [one] * 4, "indexes": [6, 7, 2008000001, 5]}
    done = run_import(run, _dump(held, tmp_path / "f"), name="all")
    assert set(_imported(run, "all")) == {*BOXES, "000006"}
    done = run_import(run, str(tmp_path / "f"), name="test", split="test")
    assert _imported(run, "test") == {"000006": [[0, 0, 2, 2]]}
    assert done["unknown"] == 3


@pytest.mark.parametrize(
    ("indexes", "split", "message"),
    [
        pytest.param(
            [5], "", r"each of the 4 images, 3 have none \(such as 2008_000001, 000007, 000006\)", id="too few"
        ),
        pytest.param([1, 2], "test", r"2 of the file's 2 images are not in the run; check --split", id="none of ours"),
    ],
)
def test_a_file_of_other_images_is_an_error(
    run: str, tmp_path: Path, indexes: list[int], split: str, message: str
) -> None:
    file = _dump({"boxes": [np.zeros((0, 4))] * len(indexes), "indexes": indexes}, tmp_path / "f")
    with pytest.raises(DataError, match=message):
        run_import(run, file, name="x", split=split)


def test_missing_images_are_left_without_boxes_on_demand(run: str, tmp_path: Path) -> None:
    file = _dump({"boxes": [np.asarray([[0, 0, 0, 0]])], "ids": np.asarray([5])}, tmp_path / "f")
    done = run_import(run, file, name="x", split="train", missing="empty")
    assert _imported(run) == {"2008_000001": [], "000005": [[0, 0, 1, 1]], "000007": []}
    assert done["missing"] == 2


def test_boxes_are_clipped_and_those_without_area_discarded() -> None:
    boxes = np.asarray([[-3, 0, 5, 5], [0, 0, 20, 10], [19, 9, 40, 40], [25, 0, 30, 5], [4, 4, 4, 9]], np.float32)
    proposals, clipped = to_proposals(boxes, (10, 20), "s")
    assert proposals.boxes_xyxy.tolist() == [[0, 0, 5, 5], [0, 0, 20, 10], [19, 9, 20, 10]]
    assert clipped == 2
    assert proposals.discarded == {("s", "no area"): 2}
    none, clipped = to_proposals(np.zeros((0, 4), np.float32), (10, 20), "s")
    assert (len(none), clipped, none.discarded) == (0, 0, {})


def test_an_image_on_its_side_has_its_upright_size(run: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "000005.png", format="JPEG", exif=exif)
    full = np.asarray([[0, 0, 99, 99]])
    file = _dump([full, full, full], tmp_path / "f")
    run_import(run, file, name="x", split="train")
    assert _imported(run)["000005"] == [[0, 0, 10, 20]]
    assert _imported(run)["000007"] == [[0, 0, 20, 10]]


def test_images_that_cannot_be_read_are_dropped_with_their_reasons(run: str, tmp_path: Path) -> None:
    (tmp_path / "images" / "000005.png").unlink()
    (tmp_path / "images" / "000007.png").write_bytes(b"text")
    done = run_import(run, _dump([np.zeros((0, 4))] * 3, tmp_path / "f"), name="x", split="train")
    assert done["images"] == {"images": 3, "done": 1, "dropped": 2, "before": 0, "duplicates": 0}
    instance = finished_instance(run, "import.x")
    reasons = {row["image_id"]: (row["stage"], row["reason"]) for row in instance.dropped.iter_rows()}
    assert reasons == {"000005": ("import", "missing"), "000007": ("import", "not an image")}


def test_a_name_becomes_a_folder_so_it_is_checked(run: str) -> None:
    with pytest.raises(ConfigError, match=r"expected import\.NAME with a NAME of .* got 'import\.\.\./x'"):
        run_import(run, "f", name="../x")


def test_an_import_needs_a_run_with_an_index(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run folder, as --out names it, found no stage of a run in it"):
        run_import(str(tmp_path / "nope"), "f", name="x")
    instance_of(str(tmp_path), "propose").begin({})
    with pytest.raises(RunError, match="index has not been run"):
        run_import(str(tmp_path), "f", name="x")
    write_index(str(tmp_path), {"train": ["000001"]}, kind="voc")
    with pytest.raises(DataError, match="expected a readable"):
        run_import(str(tmp_path), str(tmp_path / "none.pkl"), name="x")


# ---- the formats -----------------------------------------------------------------------------------------------------


def _read(data: bytes, *, in_split_order: bool = True) -> dict[str, list[list[float]]]:
    found = read_boxes(data, "f", IDS, "voc", in_split_order=in_split_order)
    return {image_id: boxes.tolist() for image_id, boxes in found.items()}


def _mat(boxes: list[Any], images: list[Any], **others: Any) -> bytes:
    def cell(values: list[Any]) -> Any:
        array = np.empty((1, len(values)), dtype=object)
        array[0, :] = values
        return array

    file = io.BytesIO()
    scipy.io.savemat(file, {"boxes": cell(boxes), "images": cell(images), **others}, do_compression=True)
    return file.getvalue()


def test_selective_search_counts_from_one_with_y_first() -> None:
    first = np.asarray([[1, 1, 3, 4], [3, 2, 10, 20]], np.float64)  # y1 x1 y2 x2
    data = _mat([first, np.zeros((0, 4))], ["2008_000001", "000005"], other=1)
    assert _read(data) == {"2008_000001": [[0, 0, 4, 3], [1, 2, 20, 10]], "000005": []}


def test_a_column_of_names_is_read_as_distributed(tmp_path: Path) -> None:
    names, cells = np.empty((2, 1), dtype=object), np.empty((1, 2), dtype=object)
    names[:, 0] = ["000005", "000007"]
    cells[0, :] = [np.ones((1, 4), np.uint16), np.ones((2, 4), np.uint16)]
    scipy.io.savemat(tmp_path / "f.mat", {"images": names, "boxes": cells})
    found = _read((tmp_path / "f.mat").read_bytes())
    assert found == {"000005": [[0, 0, 1, 1]], "000007": [[0, 0, 1, 1]] * 2}


def test_mmdet_scores_and_lists_of_rows_are_understood() -> None:
    held = [np.asarray([[0, 0, 3, 2, 0.9]], np.float32), [[5, 5, 5, 5], [1.5, 0, 2, 2]]]
    assert _read(pickle.dumps(held)) == {"000005": [[0, 0, 4, 3]], "2008_000001": [[5, 5, 6, 6], [1.5, 0, 3, 3]]}


def test_coco_results_are_widths_and_heights() -> None:
    entries = [
        {"image_id": 2008000001, "bbox": [1, 2, 19, 8], "score": 0.1, "category_id": 7},
        {"image_id": 5, "bbox": [0.5, 0, 1, 1]},
        {"image_id": 2008000001, "bbox": [0, 0, 4, 3]},
        {"image_id": 77, "bbox": [0, 0, 1, 1]},
    ]
    found = _read(f" \n{json.dumps(entries)}".encode())
    assert found["2008_000001"] == [[1, 2, 20, 10], [0, 0, 4, 3]]
    assert found["000005"] == [[0.5, 0, 1.5, 1]]
    assert set(found) == {*IDS, "77"}


ONE = np.asarray([[10, 10, 30, 30]], np.float32)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0, [[[10, 10, 30, 30]], [[10, 10, 30, 30]]]),  # detectron2's XYXY_ABS: right and bottom exclusive
        (1, [[[10, 10, 40, 40]], [[10, 10, 40, 40]]]),
        (np.int64(1), [[[10, 10, 40, 40]], [[10, 10, 40, 40]]]),
        ([0, 1], [[[10, 10, 30, 30]], [[10, 10, 40, 40]]]),
        (np.asarray([1, 0]), [[[10, 10, 40, 40]], [[10, 10, 30, 30]]]),
    ],
    ids=["XYXY", "XYWH", "a number of numpy", "one per image", "an array of them"],
)
def test_a_stated_mode_of_boxes_is_honoured(mode: Any, expected: list[Any]) -> None:
    held = {"ids": ["000005", 2008000001], "boxes": [ONE, ONE], "bbox_mode": mode}
    assert list(_read(pickle.dumps(held)).values()) == expected
    entries = [{"image_id": 5, "bbox": [10, 10, 30, 30], "bbox_mode": m} for m in (0, 1)]
    assert _read(json.dumps(entries).encode()) == {"000005": [[10, 10, 30, 30], [10, 10, 40, 40]]}


@pytest.mark.parametrize(
    "mark", [5, 5.0, np.int32(5), np.float64(5), "5", "000005", "picture", "picture.png"], ids=repr
)
def test_an_image_is_known_by_number_id_or_picture(mark: Any) -> None:
    data = pickle.dumps({"indexes": [mark], "boxes": [ONE]})
    found = read_boxes(data, "f", IDS, "voc", in_split_order=True, uris={"000005": "/x/picture.png"})
    assert list(found) == ["000005"]


@pytest.mark.parametrize("mark", [139, "139", "000139", "000000000139", 139.0], ids=repr)
def test_images_of_coco_are_known_by_their_own_ids_in_one_split(mark: Any) -> None:
    uris = {"valid/139": "/x/valid/000000000139.jpg", "train/139": "/x/train/other.jpg"}
    data = json.dumps([{"image_id": mark, "bbox": [0, 0, 9, 9]}]).encode()
    assert list(read_boxes(data, "f", ["valid/139"], "coco", in_split_order=True, uris=uris)) == ["valid/139"]
    with pytest.raises(DataError, match=r"f: \[0\]: '?0*139'? may be image train/139 or valid/139; .*--split"):
        read_boxes(data, "f", list(uris), "coco", in_split_order=False, uris=uris)


def test_a_name_of_two_pictures_is_refused_with_both() -> None:
    uris = {"7": "/x/cam1/0001.jpg", "9": "/x/cam2/0001.jpg", "1": "/x/cam1/0002.jpg"}
    data = pickle.dumps({"ids": ["0001"], "boxes": [ONE]})
    with pytest.raises(DataError, match=r"f: indexes\[0\]: '0001' may be image 1 or 7 or 9; write ids in full"):
        read_boxes(data, "f", list(uris), "coco", in_split_order=True, uris=uris)


EMPTIES = {
    "flat": np.zeros(0), "of objects": np.zeros(0, object), "of no row": np.zeros((0, 4)), "a list": [],
}  # fmt: skip


@pytest.mark.parametrize("empty", EMPTIES.values(), ids=EMPTIES)
def test_no_boxes_come_in_many_shapes(empty: Any) -> None:
    assert _read(pickle.dumps([empty, ONE])) == {"000005": [], "2008_000001": [[10, 10, 31, 31]]}


def test_arrays_of_objects_are_lists_of_rows() -> None:
    rows = np.empty(2, object)
    rows[:] = [np.asarray([1, 2, 3, 4]), [5, 6, 7, 8]]
    square = np.asarray([[1, 2, 3, 4.5]], object)
    expected = {"000005": [[1, 2, 4, 5], [5, 6, 8, 9]], "2008_000001": [[1, 2, 4, 5.5]]}
    assert _read(pickle.dumps([rows, square])) == expected


def test_json_may_begin_with_a_byte_order_mark() -> None:
    text = json.dumps([{"image_id": 5, "bbox": [0, 0, 9, 9]}])
    for encoding in ("utf-8-sig", "utf-16"):
        assert _read(text.encode(encoding)) == {"000005": [[0, 0, 9, 9]]}


def test_boxes_outside_their_images_are_counted_apart_and_cannot_be_all(run: str, tmp_path: Path) -> None:
    inside, empty, outside = [0, 0, 4, 4], [3, 3, 2, 5], [50, 50, 60, 60]
    held = [np.asarray([inside, empty, outside]), np.zeros((0, 4)), np.asarray([outside])]
    done = run_import(run, _dump(held, tmp_path / "f"), name="x", split="train")
    assert (done["boxes"], done["discarded"], done["outside"]) == (1, 1, 2)
    assert "without area 1, outside their images 2" in done["text"]
    with pytest.raises(DataError, match="none of its 3 boxes has area in its image"):
        run_import(run, _dump([np.asarray([outside])] * 3, tmp_path / "g"), name="y", split="train")


def test_a_file_that_is_refused_leaves_the_earlier_import_in_place(run: str, tmp_path: Path) -> None:
    good = run_import(run, _dump([NO_BOXES] * 3, tmp_path / "f"), name="x", split="train")
    (tmp_path / "g").write_bytes(b"torn")
    with pytest.raises(DataError, match="not a readable pickle"):
        run_import(run, str(tmp_path / "g"), name="x", split="train")
    assert finished_instance(run, "import.x").key == good["key"]


class _Run:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


NO_BOXES = np.zeros((0, 4))


def _modes(mode: Any) -> bytes:
    return pickle.dumps({"boxes": [ONE], "ids": [5], "bbox_mode": mode})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(pickle.dumps({"boxes": [_Run()]}), r"names \w+\.system; refused", id="code"),
        pytest.param(pickle.dumps([NO_BOXES]), "each of the split's 2 images, got 1", id="too short a list"),
        pytest.param(pickle.dumps([[NO_BOXES, NO_BOXES], NO_BOXES]), r"\[0\]: expected a box of four", id="per class"),
        pytest.param(
            pickle.dumps([np.zeros((2, 3)), NO_BOXES]), r"\[0\]: .*\(n, 5\) with scores, got \(2, 3\)", id="shape"
        ),
        pytest.param(pickle.dumps([np.full((1, 4), np.nan), NO_BOXES]), r"\[0\]: .*NaN", id="NaN"),
        pytest.param(pickle.dumps([np.full((1, 4), 1e30), NO_BOXES]), r"\[0\]: .*larger", id="huge"),
        pytest.param(pickle.dumps([np.ones((1, 4), bool), NO_BOXES]), r"\[0\]: .*array of bool", id="masks"),
        pytest.param(pickle.dumps(["00", NO_BOXES]), r"\[0\]: expected an array of boxes, got '00'", id="text"),
        pytest.param(pickle.dumps("text"), "one item per image, got 'text'", id="text alone"),
        pytest.param(pickle.dumps({"proposals": []}), r"keys boxes and indexes.*\['proposals'\]", id="other keys"),
        pytest.param(pickle.dumps({"boxes": [NO_BOXES], "indexes": []}), "got 1 and 0", id="unequal lengths"),
        pytest.param(pickle.dumps({"boxes": [NO_BOXES], "ids": ["a"]}), r"indexes\[0\]: .*got 'a'", id="index text"),
        pytest.param(pickle.dumps({"boxes": [NO_BOXES] * 2, "ids": [5, 5]}), "000005 stands in it twice", id="twice"),
        pytest.param(pickle.dumps({"boxes": 1, "ids": [5]}), "boxes: expected a list", id="boxes a number"),
        pytest.param(_modes(2), r"bbox_mode: expected 0 .* got 2 \(XYXY_REL\); convert", id="relative mode"),
        pytest.param(_modes(4), r"bbox_mode: .*got 4 \(XYWHA_ABS\)", id="rotated mode"),
        pytest.param(_modes(True), r"bbox_mode: .*got True \(unknown\)", id="a flag for a mode"),
        pytest.param(_modes("XYWH"), r"bbox_mode: .*got 'XYWH' \(unknown\)", id="a mode by its name"),
        pytest.param(_modes([0, 1]), r"bbox_mode: expected one for all images or 1, got 2", id="a mode too many"),
        pytest.param(
            pickle.dumps({"boxes": [NO_BOXES], "ids": [5], "indexes": [5]}),
            "expected indexes or ids, got both",
            id="both",
        ),
        pytest.param(
            pickle.dumps({"boxes": [ONE], "ids": [5], "scores": []}),
            "scores: expected scores of 1 images",
            id="no scores",
        ),
        pytest.param(
            pickle.dumps({"boxes": [ONE], "ids": [5], "objectness_logits": [np.ones(2)]}),
            r"objectness_logits\[0\]: expected 1 scores, one per box, got 2",
            id="a score too many",
        ),
        pytest.param(pickle.dumps({"boxes": [ONE], "ids": [True]}), r"indexes\[0\]: .*got True", id="a flag for an id"),
        pytest.param(pickle.dumps({"boxes": [ONE], "ids": [5.5]}), r"indexes\[0\]: .*got 5\.5", id="half an id"),
        pytest.param(pickle.dumps({"boxes": [ONE], "ids": [np.nan]}), r"indexes\[0\]: .*got nan", id="NaN for an id"),
        pytest.param(pickle.dumps({10**5000: 1}), r"got \[a number of 16,610 bits\]", id="a key of 5,000 digits"),
        pytest.param(
            pickle.dumps([np.asarray([[30, 10, 10, 20]]), NO_BOXES]),
            r"\[0\]: box 0: expected right and bottom beyond left and top, got 30, 10, 11, 21; .*bbox_mode 1",
            id="corners reversed",
        ),
        pytest.param(b'[{"image_id": 5, "bbox": [9, 9, -3, 1]}]', r"\[0\]: box 0: expected right", id="negative width"),
        pytest.param(pickle.dumps([ONE / 40, NO_BOXES]), "within 0..1 only; multiply", id="shares of the image"),
        pytest.param(
            b'[{"image_id": 5, "bbox": [0.1, 0.2, 0.5, 0.5]}]', "within 0..1 only; multiply", id="JSON of shares"
        ),
        pytest.param(pickle.dumps([ONE[0], NO_BOXES]), r"got \(4,\); one box is \[\[x1", id="one box alone"),
        pytest.param(pickle.dumps([np.ones((4, 9)), NO_BOXES]), r"got \(4, 9\); transpose it", id="transposed"),
        pytest.param(pickle.dumps([np.ones((1, 2, 4)), NO_BOXES]), r"got \(1, 2, 4\)", id="a batch"),
        pytest.param(
            _mat([np.zeros((1, 4))], ["a"]), r"boxes\{1\}: expected coordinates that count from 1", id="from 0"
        ),
        pytest.param(
            _mat([np.asarray([[9, 9, 1, 1]])], ["a"]), r"boxes\{1\}: box 0: expected right", id="mat reversed"
        ),
        pytest.param(
            b'[{"image_id": 5, "bbox": [1, 2, 3, "4"]}]',
            r"\[0\]: bbox: .*a list of 4 with '4'; correct",
            id="JSON text",
        ),
        pytest.param(b'[{"image_id": 5, "bbox": "1 2 3 4"}]', r"\[0\]: expected image_id and bbox", id="bbox as text"),
        pytest.param(
            b'[{"image_id": 5, "bbox": [1, 2, 3, 1%s]}]' % (b"0" * 400),
            r"with a number of 1,329 bits",
            id="10 to the 400",
        ),
        pytest.param(
            b'[{"image_id": 5, "bbox": [1, 2, 3, 1%s]}]' % (b"0" * 5000), "not a readable JSON", id="10 to the 5000"
        ),
        pytest.param(b'[{"image_id": 5, "bbox": [1, 2, 3, true]}]', "with True", id="JSON flag"),
        pytest.param(b'[{"image_id": null, "bbox": [1, 2, 3, 4]}]', "as image_id, got None", id="JSON null id"),
        pytest.param(b"", "not a readable pickle", id="empty file"),
        pytest.param(b"[{", "not a readable JSON", id="torn JSON"),
        pytest.param(b"[" * 100_000, "not a readable JSON", id="deep JSON"),
        pytest.param(b'{"images": []}', "got an object; an instances file", id="instances JSON"),
        pytest.param(b'[{"image_id": 5}]', r"\[0\]: expected image_id and bbox, got a dict of 1", id="no bbox"),
        pytest.param(b'[{"image_id": 5, "bbox": [0, 0, 1]}]', r"\[0\]: bbox: expected a box of four", id="3 numbers"),
        pytest.param(b'[{"image_id": 5, "bbox": [0, 0, 1, NaN]}]', r"\[0\]: bbox: expected", id="JSON NaN"),
        pytest.param(b"MATLAB 5.0 MAT-file" + b" " * 200, "not a readable MATLAB file", id="torn MATLAB"),
        pytest.param(
            b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\0" * 400, "save it with -v7", id="MATLAB 7.3"
        ),
        pytest.param(_mat([NO_BOXES], []), "as many boxes as images, got 1 and 0", id="no names"),
        pytest.param(_mat([NO_BOXES], [5]), r"images: expected names, got an array", id="numbers for names"),
        pytest.param(_mat([NO_BOXES] * 2, ["a", "a"]), "image a stands in it twice", id="one name twice"),
        pytest.param(_mat([{"f": 1}], ["a"]), r"boxes\{1\}: expected an array of boxes", id="a struct for boxes"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"f: .*{message}"):
        _read(data)
    assert not Path("ran").exists()


def test_a_list_without_names_needs_a_split() -> None:
    with pytest.raises(DataError, match="name it with --split"):
        _read(pickle.dumps([NO_BOXES, NO_BOXES]), in_split_order=False)


@pytest.mark.parametrize("value", [None, 3, "boxes"])
def test_a_pickle_of_neither_a_dict_nor_a_list_is_called_so(value: object) -> None:
    for in_split_order in (False, True):
        with pytest.raises(DataError, match=r"f\.pkl: expected a list with one item per image, got "):
            read_boxes(pickle.dumps(value), "f.pkl", ["a"], "folder", in_split_order=in_split_order)
