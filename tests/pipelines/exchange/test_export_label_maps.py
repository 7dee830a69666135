"""Label maps written for others are read back to the pixel, by their readers and by ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipelines.exchange.export import Missing, run_export
from tests.support.handmade import write_index
from tests.support.label_maps import add_painting, write_maps, write_seeds
from weaksam.datasets.voc import VocDataset
from weaksam.errors import DataError
from weaksam.io.images import decode_numbers
from weaksam.label_maps import IGNORED

SIZE = (10, 20)
MAPS = {
    "a": np.zeros(SIZE, np.uint8),  # background alone
    "b": np.full(SIZE, 2, np.uint8),  # one class alone
    "c": (np.arange(200).reshape(SIZE) % 3).astype(np.uint8),  # stripes
    "d": np.full(SIZE, IGNORED, np.uint8),  # nobody decides
}
MAPS["d"][3, 4] = 1  # but about a pixel
CLASSES = ("cat", "dog")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    add_painting(monkeypatch)
    folder = str(tmp_path / "run")
    (tmp_path / "pictures").mkdir()
    write_index(folder, {"train": list("dbca"), "val": ["e"]}, kind="folder", folder=tmp_path / "pictures")
    maps = {**MAPS, "e": np.ones(SIZE, np.uint8)}
    write_seeds(folder, "paint-seeds", maps.items(), CLASSES)
    write_maps(folder, "paint", [("a", MAPS["a"]), ("b", MAPS["b"])], CLASSES)
    return folder


def export(run: str, to: str, out: Path, **options: object) -> dict[str, object]:
    return run_export(run, to=to, split="train", out=str(out), **{"instance": "paint-seeds", **options})  # type: ignore[arg-type]


def test_what_was_written_is_counted(run: str, tmp_path: Path) -> None:
    done = export(run, "coco", tmp_path / "r.json")
    assert {name: done[name] for name in ("images", "boxes", "empty", "missing")} == {
        "images": 4, "boxes": 4, "empty": 1, "missing": 0,
    }  # fmt: skip
    assert done["text"] == (
        f"{tmp_path / 'r.json'}: coco · images 4 (1 of background alone) · classes in them 4 · supervision: image-labels"
    )


def test_voc_s_pngs_hold_the_numbers_in_its_colours(run: str, tmp_path: Path) -> None:
    export(run, "voc", tmp_path / "voc")
    for image_id, label_map in MAPS.items():
        path = tmp_path / "voc" / "SegmentationClass" / f"{image_id}.png"
        with Image.open(path) as png:
            assert png.mode == "P"
            np.testing.assert_array_equal(np.array(png), label_map)
            assert png.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
            assert png.getpalette()[-3:] == [224, 224, 192]  # void
    assert (tmp_path / "voc/ImageSets/Segmentation/train.txt").read_text().split() == list("dbca")
    assert not (tmp_path / "voc/SegmentationClass/e.png").exists()  # of another split


def test_our_own_reader_of_voc_takes_them_for_true_maps(run: str, tmp_path: Path) -> None:
    year = tmp_path / "VOC2012"
    export(run, "voc", year)
    (year / "ImageSets/Main").mkdir(parents=True)
    (year / "JPEGImages").mkdir()
    for image_id in MAPS:
        Image.new("RGB", SIZE[::-1]).save(year / "JPEGImages" / f"{image_id}.jpg")
    maps = VocDataset(str(year), splits=("segmentation-train",)).true_label_maps("segmentation-train")
    for image_id, label_map in MAPS.items():
        np.testing.assert_array_equal(maps.of(image_id, SIZE), label_map)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools predates numpy 2
def test_coco_s_results_paint_the_same_maps(run: str, tmp_path: Path) -> None:
    export(run, "coco", tmp_path / "r.json")
    results = json.loads((tmp_path / "r.json").read_text())
    assert {frozenset(result) for result in results} == {
        frozenset(("image_id", "category_id", "segmentation", "score"))
    }
    assert "a" not in {result["image_id"] for result in results}
    painted = {image_id: np.zeros(SIZE, np.uint8) for image_id in MAPS}
    for result in results:
        mask = coco_mask.decode(result["segmentation"]).astype(bool)
        assert not painted[result["image_id"]][mask].any()  # classes do not overlap
        painted[result["image_id"]][mask] = result["category_id"]
    for image_id, label_map in MAPS.items():
        np.testing.assert_array_equal(painted[image_id], np.where(label_map == IGNORED, 0, label_map))


def test_coco_s_results_may_be_of_some_images(run: str, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a\nb\n")
    done = export(run, "coco", tmp_path / "r.json", only=str(tmp_path / "ids"))
    assert (done["images"], done["boxes"]) == (2, 1)
    assert [result["image_id"] for result in json.loads((tmp_path / "r.json").read_text())] == ["b"]


def test_cityscapes_ids_are_grey_and_their_names_stand_beside_them(run: str, tmp_path: Path) -> None:
    export(run, "cityscapes", tmp_path / "city")
    for image_id, label_map in MAPS.items():
        path = tmp_path / "city" / "train" / f"{image_id}_labelIds.png"
        with Image.open(path) as png:
            assert png.mode == "L"
        np.testing.assert_array_equal(decode_numbers(path.read_bytes()), label_map)
    assert (tmp_path / "city/train/classes.txt").read_text() == "cat\ndog\n"


def test_two_splits_share_a_folder_of_ids(run: str, tmp_path: Path) -> None:
    export(run, "cityscapes", tmp_path / "city")
    run_export(run, to="cityscapes", split="val", out=str(tmp_path / "city"), instance="paint-seeds")
    assert (tmp_path / "city/val/e_labelIds.png").exists()
    assert (tmp_path / "city/train/a_labelIds.png").exists()


@pytest.mark.parametrize("to", ["voc", "coco", "cityscapes"])
def test_images_without_a_map_are_an_error_or_left_out(run: str, tmp_path: Path, to: str) -> None:
    with pytest.raises(DataError, match=r"2 of 4 images of split train have no label map \(d, c\)"):
        export(run, to, tmp_path / "out", instance="paint")
    done = export(run, to, tmp_path / "out", instance="paint", missing=Missing.EMPTY)
    assert (done["images"], done["missing"]) == (2, 2)
    assert "left out without a row 2" in str(done["text"])
