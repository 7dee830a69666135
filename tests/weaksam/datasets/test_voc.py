from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.trees import build_voc_tree, voc_object, voc_xml, write_list
from weaksam.config import DataConfig
from weaksam.datasets import detect_kind, open_dataset
from weaksam.datasets.voc import CLASS_NAMES, VocDataset
from weaksam.errors import DataError

DOG, CAT = CLASS_NAMES.index("dog"), CLASS_NAMES.index("cat")


def write_tree(root: Path, annotations: dict[str, str | None], split: str = "train") -> VocDataset:
    """Write one annotation file per image (None: no file) and one split that lists all images."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
    for stem, xml in annotations.items():
        (root / "JPEGImages" / f"{stem}.jpg").touch()
        if xml is not None:
            (root / "Annotations" / f"{stem}.xml").write_text(xml)
    write_list(root, split, *annotations)
    return VocDataset(str(root))


def bndbox(xmin: object, ymin: object, xmax: object, ymax: object) -> str:
    return (
        "<object><name>dog</name><bndbox>"
        f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        "</bndbox></object>"
    )


# ------------------------------------------------------------------------------------------------------------ boxes


@pytest.mark.parametrize(
    ("corners", "box", "cut", "left_out"),
    [
        pytest.param((1, 1, 64, 64), [0, 0, 64, 64], 0, 0, id="whole image"),
        pytest.param((5, 7, 5, 7), [4, 6, 5, 7], 0, 0, id="one pixel"),
        pytest.param((97, 136, 275, 368), None, 0, 1, id="outside is left out and counted"),
        pytest.param((60, 60, 70, 70), [59, 59, 64, 64], 1, 0, id="sticks out at the end"),
        pytest.param((0, -3, 8, 9), [0, 0, 8, 9], 1, 0, id="sticks out at the start"),
        pytest.param((9, 9, 5, 5), None, 0, 1, id="reversed is left out and counted"),
        pytest.param(("45.5", "2.25", "60.75", "9"), [44.5, 1.25, 60.75, 9], 0, 0, id="fractions, as in VOC2011"),
    ],
)
def test_corners_from_1_inclusive_become_exclusive_from_0(
    tmp_path: Path, corners: tuple[object, ...], box: list[float] | None, cut: int, left_out: int
) -> None:
    truth = write_tree(tmp_path, {"a": voc_xml(bndbox(*corners))}).ground_truth("train")["a"]
    assert truth.boxes_xyxy.tolist() == ([] if box is None else [box])
    assert len(truth.class_index) == len(truth.difficult) == len(truth.crowd) == len(truth.boxes_xyxy)
    assert (truth.cut, truth.left_out) == (cut, left_out)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        pytest.param("", [0, 0, 500, 500], id="absent"),
        pytest.param("<size><width>0</width><height>0</height></size>", [0, 0, 500, 500], id="zero"),
        pytest.param("<size><width>90</width></size>", [0, 0, 90, 500], id="width only"),
    ],
)
def test_box_is_not_cut_at_a_side_whose_size_is_not_stated(tmp_path: Path, size: str, box: list[float]) -> None:
    dataset = write_tree(tmp_path, {"a": voc_xml(bndbox(0, 0, 500, 500), size=size)})
    assert dataset.ground_truth("train")["a"].boxes_xyxy.tolist() == [box]


def test_image_without_objects_has_no_boxes_and_no_labels(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, {"a": voc_xml()})
    assert dataset.ground_truth("train")["a"].boxes_xyxy.shape == (0, 4)
    assert dataset.records("train")[0].labels == ()


def test_difficult_objects_are_flagged_and_kept_apart_in_the_labels(tmp_path: Path) -> None:
    xml = voc_xml(voc_object("dog", (0, 0, 9, 9)), voc_object("cat", (0, 0, 9, 9), difficult=True))
    dataset = write_tree(tmp_path, {"a": xml})
    assert dataset.ground_truth("train")["a"].difficult.tolist() == [False, True]
    (record,) = dataset.records("train")
    assert (record.labels, record.labels_difficult) == ((DOG,), (CAT, DOG))


def test_parts_of_a_person_are_no_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    xml = voc_xml(voc_object("person", (0, 0, 9, 9)).replace("</object>", f"{part}</object>"))
    dataset = write_tree(tmp_path, {"a": xml})
    assert dataset.class_names == CLASS_NAMES
    assert dataset.ground_truth("train")["a"].boxes_xyxy.tolist() == [[0, 0, 9, 9]]


@pytest.mark.parametrize("garbage", ["", "nonsense", "NaN", "-1e999", "<b/>"])
def test_records_never_look_at_coordinates(tmp_path: Path, garbage: str) -> None:
    dataset = VocDataset(str(build_voc_tree(tmp_path)))
    before = {split: dataset.records(split) for split in dataset.splits}
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(re.sub(r"<(xmin|ymin|xmax|ymax|width|height)>[^<]*<", rf"<\1>{garbage}<", path.read_text()))
    ruined = VocDataset(str(tmp_path))
    assert {split: ruined.records(split) for split in ruined.splits} == before
    with pytest.raises(DataError, match="expected a number"):
        ruined.ground_truth("trainval")


# ---------------------------------------------------------------------------------------------------------- classes


def test_some_of_the_official_classes_mean_all_of_them(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, {"a": voc_xml(voc_object("dog", (0, 0, 9, 9)))})
    assert dataset.class_names == CLASS_NAMES == tuple(sorted(CLASS_NAMES))
    assert len(CLASS_NAMES) == 20


def test_other_classes_are_those_that_occur_in_any_split_sorted(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": voc_xml(voc_object("zebra", (0, 0, 9, 9)))})
    dataset = write_tree(tmp_path, {"b": voc_xml(voc_object("ace", (0, 0, 9, 9)))}, split="test")
    assert dataset.class_names == ("ace", "zebra")
    assert dataset.records("train")[0].labels == (1,)


# ----------------------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("above", ["", "VOC2007", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_layout_is_found_below_the_address(tmp_path: Path, above: str) -> None:
    build_voc_tree(tmp_path / above)
    dataset = open_dataset(DataConfig(uri=str(tmp_path)))
    assert detect_kind(str(tmp_path)) == "voc"
    assert dataset.records("trainval")[0].uri == str(tmp_path / above / "JPEGImages" / "000001.jpg")


def test_two_years_must_be_told_apart(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        build_voc_tree(tmp_path / "VOCdevkit" / year, {"train": 1})
    with pytest.raises(DataError, match=r"several: .*VOC2007, .*VOC2012; give one of them"):
        open_dataset(DataConfig(uri=str(tmp_path)))
    assert open_dataset(DataConfig(uri=str(tmp_path / "VOCdevkit" / "VOC2012"))).splits == ("train",)


def test_linked_devkit_is_followed(tmp_path: Path) -> None:
    build_voc_tree(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "VOC2007").symlink_to(tmp_path / "elsewhere")
    assert open_dataset(DataConfig(uri=str(tmp_path / "data"))).kind == "voc"


def test_lists_of_single_classes_are_no_splits(tmp_path: Path) -> None:
    write_list(tmp_path, "dog_train", "000001 -1", "000002  1", "000003  0")
    write_list(tmp_path, "train_small", "000001", "my photo 7")
    dataset = write_tree(tmp_path, {"000001": None, "000002": None})
    assert dataset.splits == ("train",)
    dataset = VocDataset(str(tmp_path), splits=("train_small",))
    assert [r.image_id for r in dataset.records("train_small")] == ["000001", "my photo 7"]


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        pytest.param({"train": "a", "val": "b", "trainval": "ab", "test": "c"}, ("trainval", "test"), id="official"),
        pytest.param({"train": "a", "val": "b"}, ("train", "val"), id="without trainval"),
        pytest.param({"all": "abc", "train": "a", "zz": "d"}, ("train", "zz"), id="what overlaps stays out"),
    ],
)
def test_splits_in_use_do_not_overlap(tmp_path: Path, lists: dict[str, str], splits: tuple[str, ...]) -> None:
    for name, stems in lists.items():
        write_tree(tmp_path, dict.fromkeys(stems), split=name)
    assert VocDataset(str(tmp_path)).splits == splits
    assert VocDataset(str(tmp_path), splits=tuple(lists)).splits == tuple(lists)
    assert len(VocDataset(str(tmp_path)).records(next(iter(lists)))) == len(next(iter(lists.values())))


def test_list_may_come_from_windows_with_blank_lines(tmp_path: Path) -> None:
    write_tree(tmp_path, {"000001": None, "000002": None})
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbf000001 \r\n\r\n000002\r\n")
    assert [r.image_id for r in VocDataset(str(tmp_path)).records("train")] == ["000001", "000002"]


def test_image_keeps_its_own_suffix_and_a_missing_one_is_expected_as_jpg(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": None, "b": None, "gone": None})
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "JPEGImages" / "a.JPEG")
    (tmp_path / "JPEGImages" / "b.jpg").rename(tmp_path / "JPEGImages" / "b.PNG")
    (tmp_path / "JPEGImages" / "gone.jpg").unlink()
    dataset = VocDataset(str(tmp_path))
    uris = [record.uri.removeprefix(f"{tmp_path}/JPEGImages/") for record in dataset.records("train")]
    assert uris == ["a.JPEG", "b.PNG", "gone.jpg"]


def test_split_without_annotations_has_unknown_labels_and_no_truth(tmp_path: Path) -> None:
    build_voc_tree(tmp_path)
    dataset = write_tree(tmp_path, {"900001": None}, split="test")
    assert [(r.labels, r.labels_difficult) for r in dataset.records("test")] == [(None, None)]
    assert dataset.ground_truth("test") == {}


def test_split_with_some_annotations_says_how_many_lack(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, {"a": voc_xml(), "b": None})
    assert [r.labels for r in dataset.records("train")] == [(), None]
    assert [str(one) for one in dataset.passed_over] == [
        "1 images without an XML file, whose labels are unknown (e.g. JPEGImages/b.jpg)"
    ]
    assert set(dataset.ground_truth("train")) == {"a"}


# ----------------------------------------------------------------------------------------------------------- errors

BOMB = """<?xml version="1.0"?>
<!DOCTYPE a [
<!ENTITY lol "lol">
<!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">
]>
<annotation>&lol2;</annotation>"""
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        pytest.param("<annotation>\n<object>\n</annotation>", r"a\.xml:3: expected well-formed XML", id="not closed"),
        pytest.param("", r"a\.xml:1: expected well-formed XML", id="empty"),
        pytest.param(BOMB, r"a\.xml:3: expected plain XML without entities.*remove the declaration", id="entity bomb"),
        pytest.param(EXTERNAL, r"a\.xml:1: expected plain XML without entities", id="external entity"),
        pytest.param('<?xml version="1.0" encoding="nonsense"?><a/>', r"a\.xml:1: expected", id="unknown encoding"),
        pytest.param(voc_xml("<object/>"), r"a\.xml: object 1: expected a <name>", id="no name"),
        pytest.param(
            voc_xml("<object><name>dog</name><difficult>maybe</difficult></object>"), "got 'dog' and 'maybe'", id="flag"
        ),
    ],
)
def test_malformed_annotation_is_named_with_its_place(tmp_path: Path, xml: str, message: str) -> None:
    dataset = write_tree(tmp_path, {"a": xml})
    with pytest.raises(DataError, match=message):
        dataset.records("train")


@pytest.mark.parametrize(
    ("element", "message"),
    [
        pytest.param(bndbox("x", 1, 2, 2), r"a\.xml: <bndbox>: expected a number in <xmin>, got 'x'", id="text"),
        pytest.param(bndbox("inf", 1, 2, 2), "expected a number in <xmin>, got 'inf'", id="infinite"),
        pytest.param(
            bndbox(1, 1, 2, 2) + "<object><name>dog</name></object>", r"object dog: expected a <bndbox>", id="no box"
        ),
    ],
)
def test_malformed_box_is_an_error_of_ground_truth_only(tmp_path: Path, element: str, message: str) -> None:
    dataset = write_tree(tmp_path, {"a": voc_xml(element)})
    assert dataset.records("train")[0].labels == (DOG,)
    with pytest.raises(DataError, match=message):
        dataset.ground_truth("train")


def test_objects_without_any_box_are_labels_and_no_truth(tmp_path: Path) -> None:
    xml = voc_xml("<object><name>dog</name></object>")
    dataset = write_tree(tmp_path, {"a": xml, "b": voc_xml()})
    assert [record.labels for record in dataset.records("train")] == [(DOG,), ()]
    assert dataset.ground_truth("train") == {}
    assert [str(one) for one in dataset.passed_over] == [
        "1 XML files without a box, of which the labels are read (e.g. Annotations/a.xml)"
    ]
    dataset = write_tree(tmp_path, {"a": xml, "c": voc_xml(bndbox(1, 1, 2, 2))})
    with pytest.raises(DataError, match=r"a\.xml: object dog: expected a <bndbox>, found none"):
        dataset.ground_truth("train")


def test_image_listed_twice_is_an_error(tmp_path: Path) -> None:
    write_list(tmp_path, "train", "a", "b", "a")
    with pytest.raises(DataError, match=r"train\.txt:3: image 'a' is listed already in line 1"):
        VocDataset(str(tmp_path))


def test_two_files_for_one_image_are_an_error_only_if_it_is_listed(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": None})
    for name in ("a.png", "b.png", "b.jpg"):
        (tmp_path / "JPEGImages" / name).touch()
    with pytest.raises(DataError, match=r"'a' has two files, JPEGImages/a\.jpg and JPEGImages/a\.png; remove one"):
        VocDataset(str(tmp_path)).records("train")
    (tmp_path / "JPEGImages" / "a.png").unlink()
    assert len(VocDataset(str(tmp_path)).records("train")) == 1


def test_two_annotation_files_for_one_image_are_an_error_only_if_it_is_listed(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": voc_xml()})
    for name in ("a.XML", "b.xml", "b.XML"):
        (tmp_path / "Annotations" / name).write_text(voc_xml())
    with pytest.raises(DataError, match=r"'a' has two files, Annotations/a\.XML and Annotations/a\.xml; remove one"):
        VocDataset(str(tmp_path)).records("train")
    (tmp_path / "Annotations" / "a.XML").unlink()
    assert VocDataset(str(tmp_path)).records("train")[0].labels == ()


def test_unknown_split_and_empty_main_are_errors(tmp_path: Path) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    with pytest.raises(DataError, match="expected pictures, found none; check the path"):
        VocDataset(str(tmp_path))
    write_tree(tmp_path, {"a": None})
    with pytest.raises(DataError, match="expected split lists trainval, found train"):
        VocDataset(str(tmp_path), splits=("trainval",))


# ------------------------------------------------------------------------------------------------------ fingerprint


@pytest.mark.parametrize("changed", ["JPEGImages/000001.jpg", "Annotations/000001.xml", "ImageSets/Main/test.txt"])
def test_fingerprint_changes_with_any_list_and_any_size(tmp_path: Path, changed: str) -> None:
    before = VocDataset(str(build_voc_tree(tmp_path))).fingerprint()
    with open(tmp_path / changed, "a") as file:
        file.write("x\n")
    assert VocDataset(str(tmp_path)).fingerprint() != before
