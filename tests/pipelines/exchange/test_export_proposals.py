import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.exchange.boxes import whole_pixels
from pipelines.exchange.export import Missing, run_export
from pipelines.exchange.files import open_whole
from pipelines.exchange.image_ids import numeric_ids
from tests.support.handmade import write_index, write_proposals
from tests.support.s3_server import s3_server
from tests.support.sets import instance_of
from tests.support.tolerances import near
from weaksam.errors import DataError, RunError
from weaksam.io.files import read_bytes

A, B, C = [0, 0, 4, 3], [1, 2, 20, 10], [3.7, 0, 9.9, 5]  # exclusive
A_INCLUSIVE, B_INCLUSIVE, C_INCLUSIVE = [0, 0, 3, 2], [1, 2, 19, 9], [3, 0, 8, 4]


@pytest.fixture
def voc(tmp_path: Path) -> str:
    """Split file order 2008_000009, 000005, 2008_000001; the files hold the images in another one."""
    run = str(tmp_path / "run")
    write_index(run, {"train": ["2008_000009", "000005", "2008_000001"], "test": ["000006"]}, kind="voc")
    write_proposals(run, {"2008_000001": [A, B], "000005": [], "2008_000009": [C]}, parts=2)
    return run


@pytest.fixture
def coco(tmp_path: Path) -> str:
    run = str(tmp_path / "run")
    write_index(run, {"val2014": ["100", "9", "25"]}, kind="coco")
    write_proposals(run, {"100": [A], "9": [B, A, A], "25": []})
    return run


def _load(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def test_wetectron_of_voc_is_uint16_in_split_file_order(voc: str, tmp_path: Path) -> None:
    run_export(voc, to="wetectron", split="train", out=str(tmp_path / "f.pkl"))
    held = _load(tmp_path / "f.pkl")
    assert list(held) == ["boxes", "scores", "indexes"]
    assert held["indexes"] == [2008000009, 5, 2008000001]
    assert [b.tolist() for b in held["boxes"]] == [[C_INCLUSIVE], [], [A_INCLUSIVE, B_INCLUSIVE]]
    assert {(b.dtype.name, b.shape[1:]) for b in held["boxes"]} == {("uint16", (4,))}
    assert [s.tolist() for s in held["scores"]] == [[1], [], [1, 1]]
    assert {s.dtype.name for s in held["scores"]} == {"float32"}


def test_wetectron_of_coco_is_float32_in_ascending_id(coco: str, tmp_path: Path) -> None:
    run_export(coco, to="wetectron", split="val2014", out=str(tmp_path / "f.pkl"))
    held = _load(tmp_path / "f.pkl")
    assert held["indexes"] == [9, 25, 100]
    assert [b.tolist() for b in held["boxes"]] == [[B_INCLUSIVE, A_INCLUSIVE, A_INCLUSIVE], [], [A_INCLUSIVE]]
    assert [s.shape for s in held["scores"]] == [(3, 1), (0, 1), (1, 1)]
    assert {a.dtype.name for a in held["boxes"] + held["scores"]} == {"float32"}


def test_mmdet_is_one_float32_array_per_image(voc: str, tmp_path: Path) -> None:
    done = run_export(voc, to="mmdet", split="train", out=str(tmp_path / "deep" / "f.pkl"))
    held = _load(tmp_path / "deep" / "f.pkl")
    assert [b.tolist() for b in held] == [[C_INCLUSIVE], [], [A_INCLUSIVE, B_INCLUSIVE]]
    assert {(b.dtype.name, b.shape[1:]) for b in held} == {("float32", (4,))}
    assert (done["images"], done["boxes"], done["empty"], done["missing"]) == (3, 3, 1, 0)


@pytest.mark.parametrize("fixture", ["voc", "coco"])
def test_coco_results_keep_fractions_and_predicted_ious(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    split = "train" if fixture == "voc" else "val2014"
    run_export(request.getfixturevalue(fixture), to="coco", split=split, out=str(tmp_path / "f.json"))
    held = json.loads((tmp_path / "f.json").read_text())
    assert {tuple(entry) for entry in held} == {("image_id", "category_id", "bbox", "score")}
    assert {entry["category_id"] for entry in held} == {1}
    if fixture == "coco":
        assert [entry["image_id"] for entry in held] == [9, 9, 9, 100]
        assert [entry["score"] for entry in held] == [0.5, 1.0, 0.5, 0.5]
        assert held[0]["bbox"] == [1, 2, 19, 8]
    else:
        assert [entry["image_id"] for entry in held] == [2008000009, 2008000001, 2008000001]
        assert held[0]["bbox"] == near([3.7, 0, 6.2, 5], magnitude=10.0)


def test_a_folder_keeps_its_names_in_coco_results_and_has_no_numbers(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    write_index(run, {"all": ["b/x.jpg", "a.png"]}, kind="folder")
    write_proposals(run, {"b/x.jpg": [A], "a.png": [A]})
    run_export(run, to="coco", split="all", out=str(tmp_path / "f.json"))
    assert [entry["image_id"] for entry in json.loads((tmp_path / "f.json").read_text())] == ["b/x.jpg", "a.png"]
    with pytest.raises(DataError, match=r"'b/x\.jpg' of a folder data set has no number"):
        run_export(run, to="wetectron", split="all", out=str(tmp_path / "f.pkl"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.json", "run"]


def test_no_box_at_all_is_an_empty_list(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    write_index(run, {"train": ["000001"]}, kind="voc")
    write_proposals(run, {"000001": []})
    run_export(run, to="coco", split="train", out=str(tmp_path / "f.json"))
    assert json.loads((tmp_path / "f.json").read_text()) == []
    run_export(run, to="mmdet", split="train", out=str(tmp_path / "f.pkl"))
    assert [b.shape for b in _load(tmp_path / "f.pkl")] == [(0, 4)]


def test_images_without_proposals_are_an_error_unless_empty_is_asked_for(voc: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 1 images of split test have no proposals \(000006\).*--missing empty"):
        run_export(voc, to="mmdet", split="test", out=str(tmp_path / "f.pkl"))
    assert not (tmp_path / "f.pkl").exists()
    done = run_export(voc, to="mmdet", split="test", out=str(tmp_path / "f.pkl"), missing=Missing.EMPTY)
    assert [b.shape for b in _load(tmp_path / "f.pkl")] == [(0, 4)]
    assert done["missing"] == 1
    assert "1 missing written as empty" in done["text"]


def test_what_the_run_does_not_have_is_named(voc: str, tmp_path: Path) -> None:
    out = str(tmp_path / "f.pkl")
    with pytest.raises(DataError, match="no image in split 'val'; it has test, train"):
        run_export(voc, to="mmdet", split="val", out=out)
    with pytest.raises(RunError, match=r"import\.ss has not been run; run `weaksam import .* FILE --name ss`"):
        run_export(voc, to="mmdet", split="train", out=out, instance="import.ss")
    instance_of(voc, "propose", "other").begin({})
    with pytest.raises(RunError, match="propose is not finished"):
        run_export(voc, to="mmdet", split="train", out=out)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([0, 0, 1, 1], [0, 0, 0, 0], id="one pixel"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], id="empty mask"),
        pytest.param([1.9, 2.1, 5.9, 6], [1, 2, 4, 5], id="fractions are cut"),
        pytest.param([0, 0, 65536, 1], [0, 0, 65535, 0], id="largest"),
    ],
)
def test_boxes_become_inclusive_whole_pixels(box: list[float], expected: list[float]) -> None:
    assert whole_pixels(np.asarray([box], np.float32), "i").tolist() == [expected]


@pytest.mark.parametrize("box", [[-1, 0, 2, 2], [0, 0, 65537, 2], [0, float("nan"), 2, 2]])
def test_coordinates_that_uint16_lacks_are_refused(box: list[float]) -> None:
    with pytest.raises(DataError, match=r"image 'i': expected coordinates in 0\.\.65,535"):
        whole_pixels(np.asarray([box], np.float32), "i")


def test_two_ids_of_one_number_are_refused() -> None:
    assert numeric_ids([], "voc") == []
    with pytest.raises(DataError, match="image '2008_000001' and another image have the same number"):
        numeric_ids(["000005", "2008_000001", "2008000001"], "voc")


def test_pickles_name_only_what_every_numpy_has(voc: str, tmp_path: Path) -> None:
    run_export(voc, to="wetectron", split="train", out=str(tmp_path / "f.pkl"))
    names = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            names.add(f"{module}.{name}")
            return super().find_class(module, name)

    with (tmp_path / "f.pkl").open("rb") as file:
        Recorder(file).load()
    assert names == {"numpy.ndarray", "builtins.bytearray"}


def test_the_same_proposals_give_the_same_bytes(voc: str, tmp_path: Path) -> None:
    for to in ("wetectron", "mmdet", "coco"):
        for name in ("1", "2"):
            run_export(voc, to=to, split="train", out=str(tmp_path / f"{to}{name}"))
        assert (tmp_path / f"{to}1").read_bytes() == (tmp_path / f"{to}2").read_bytes()


def test_a_bucket_is_written_to_whole_or_not_at_all(voc: str) -> None:
    with s3_server() as bucket:
        run_export(voc, to="mmdet", split="train", out=f"{bucket}/f.pkl")
        held = pickle.loads(read_bytes(f"{bucket}/f.pkl"))
        assert [b.tolist() for b in held] == [[C_INCLUSIVE], [], [A_INCLUSIVE, B_INCLUSIVE]]
        with pytest.raises(KeyError):
            _fail_to_write(f"{bucket}/f.pkl")
        assert len(read_bytes(f"{bucket}/f.pkl")) > 4


def test_a_device_or_a_pipe_is_not_replaced(voc: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="pipe: expected a file to write, got a device or a pipe; name a file"):
            run_export(voc, to="mmdet", split="train", out=str(tmp_path / "pipe"), overwrite=overwrite)
    assert (tmp_path / "pipe").is_fifo()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(KeyError):
        _fail_to_write(str(tmp_path / "f"))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def _fail_to_write(uri: str) -> None:
    with open_whole(uri) as file:
        file.write(b"half")
        raise KeyError
