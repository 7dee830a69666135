"""Drawn objects on photographs of one colour each, read again as COCO."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.paste_shapes import main, paste_shapes
from weaksam.datasets.coco import CocoDataset
from weaksam.datasets.shapes import CLASS_NAMES, data_set_seed, draw
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for n, name in enumerate(("a.png", "b.png", "more/c.png")):
        Image.new("RGB", (60 + n, 40), (10 + n, 200, 90)).save(folder / name)
    (folder / "torn.jpg").write_bytes(b"\xff\xd8 torn")
    return folder


def test_objects_are_those_of_the_drawings_and_grounds_of_one_split_s_own(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pasted"
    options = ["--size", "48", "--train", "5", "--test", "3", "--seed", "7"]
    assert main(["--backgrounds", str(photographs), "--out", str(out), *options]) == 0
    assert "torn.jpg: left out" in capsys.readouterr().err
    dataset = CocoDataset(str(out))
    assert (dataset.splits, dataset.class_names) == (("test", "train"), CLASS_NAMES)
    grounds = {}
    for split, count in (("train", 5), ("test", 3)):
        records, truths = dataset.records(split), dataset.ground_truth(split, masks=True)
        assert len(records) == count
        for index, record in enumerate(records):
            drawing, truth = draw(data_set_seed(7, split, index), 48), truths[record.image_id]
            assert record.labels == tuple(sorted(set(drawing.class_index.tolist())))
            np.testing.assert_array_equal(truth.boxes_xyxy, drawing.boxes_xyxy)
            for n, rle in enumerate(truth.mask_rle or ()):
                np.testing.assert_array_equal(decode_rle(rle), drawing.instance_map == n + 1)
            pixels = np.asarray(Image.open(record.uri))
            on_top = (drawing.instance_map > 0) | (drawing.distractor_map > 0)
            np.testing.assert_array_equal(pixels[on_top], drawing.image[on_top])
            grounds.setdefault(split, set()).update(map(tuple, pixels[~on_top].tolist()))
    assert grounds["train"] <= {(10, 200, 90), (12, 200, 90)}
    assert grounds["test"] == {(11, 200, 90)}


def test_a_folder_that_is_there_and_too_few_photographs_are_refused(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder that is not there yet"):
        paste_shapes(photographs, photographs, {"train": 1}, size=48, seed=0)
    with pytest.raises(DataError, match="for each of 2 splits, got 1 that can be read"):
        paste_shapes(photographs / "more", tmp_path / "out", {"train": 1, "test": 1}, size=48, seed=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [["--seed", "1000"], ["--train", "0", "--val", "0", "--test", "0"]])
def test_numbers_that_cannot_be_are_refused_before_anything_is_made(
    photographs: Path, tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--backgrounds", str(photographs), "--out", str(tmp_path / "out"), *wrong]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()
