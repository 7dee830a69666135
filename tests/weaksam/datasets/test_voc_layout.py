"""Layouts that people have, and lists as people write them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from tests.support.trees import build_voc_tree, voc_object, voc_xml
from weaksam.config import DataConfig
from weaksam.datasets import detect_kind, open_dataset
from weaksam.datasets.voc import VocDataset
from weaksam.errors import DataError, WeaksamError

XML = voc_xml(voc_object("disc", (0, 0, 9, 9)))
NFC, NFD = unicodedata.normalize("NFC", "ü é"), unicodedata.normalize("NFD", "ü é")
ONE_PICTURE = {"JPEGImages/a.jpg": "", "Annotations/a.xml": XML}


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files by path; an empty one stands for a picture, which nobody opens here."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def with_list(text: str | bytes, *pictures: str) -> dict[str, str | bytes]:
    """A devkit of some pictures whose one list is the text."""
    return {f"JPEGImages/{name}": "" for name in pictures} | {
        "ImageSets/Main/trainval.txt": text,
        "Annotations/x.xml": XML,
    }


def ids(root: Path) -> dict[str, list[str]]:
    dataset = VocDataset(str(root))
    return {split: [record.image_id for record in dataset.records(split)] for split in dataset.splits}


def told(root: Path) -> list[str]:
    return [str(one) for one in open_dataset(DataConfig(uri=str(root))).passed_over]


# ---------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"a.jpg": "", "a.xml": XML}, {"all": {"a": ("disc",)}}, id="LabelImg: XML beside the picture"),
        pytest.param({"a.JPG": "", "a.XML": XML}, {"all": {"a": ("disc",)}}, id="capitals"),
        pytest.param({"IMG.jpg": "", "img.xml": XML}, {"all": {"IMG": ("disc",)}}, id="capitals of the stem"),
        pytest.param(
            {f"{split}/a.{suffix}": XML * (suffix == "xml")
             for split in ("train", "valid", "test") for suffix in ("jpg", "xml")},
            {split: {f"{split}/a": ("disc",)} for split in ("train", "valid", "test")},
            id="Roboflow: a folder per split",
        ),
        pytest.param(ONE_PICTURE, {"all": {"a": ("disc",)}}, id="no lists"),
        pytest.param(
            {"JPEGImages/a.JPG": "", "Annotations/a.XML": XML, "ImageSets/Main/train.TXT": "a\n"},
            {"train": {"a": ("disc",)}},
            id="devkit in capitals",
        ),
        pytest.param({**ONE_PICTURE, "ImageSets/train.txt": "a\n"}, {"train": {"a": ("disc",)}}, id="lists without Main"),
        pytest.param({"JPEGImages/a.jpg": "", "annotations/a.xml": XML}, {"all": {"a": ("disc",)}}, id="small letters"),
        pytest.param(
            {"photos/a.jpg": "", "Annotations/a.xml": XML, "ImageSets/Main/train.txt": "a\n", "SegmentationClass/a.png": ""},
            {"train": {"photos/a": ("disc",)}},
            id="devkit with pictures elsewhere",
        ),
        pytest.param({"images/a.png": "", "annotations/a.xml": XML}, {"all": {"images/a": ("disc",)}}, id="two folders"),
        pytest.param(
            {"images/a.png": "", "annotations/xmls/a.xml": XML, "masks/b.png": ""},
            {"all": {"images/a": ("disc",), "masks/b": None}},
            id="folders of any depth, a picture without XML",
        ),
        pytest.param(
            {f"{split}/{kind}/a.{suffix}": XML * (suffix == "xml")
             for split in ("train", "val") for kind, suffix in (("images", "jpg"), ("labels", "xml"))},
            {split: {f"{split}/images/a": ("disc",)} for split in ("train", "val")},
            id="equal stems: the nearest picture",
        ),
        pytest.param(
            {f"{kind}/{split}/a.{suffix}": XML * (suffix == "xml")
             for split in ("train", "val") for kind, suffix in (("images", "jpg"), ("annotations", "xml"))}
            | {"images/train/b.jpg": ""},
            {"train": {"images/train/a": ("disc",), "images/train/b": None}, "val": {"images/val/a": ("disc",)}},
            id="equal stems: folders that end alike",
        ),
    ],
)  # fmt: skip
def test_layout_is_read(
    tmp_path: Path, files: dict[str, str | bytes], expected: dict[str, dict[str, tuple[str, ...] | None]]
) -> None:
    dataset = open_dataset(DataConfig(uri=str(write(tmp_path, files))))
    assert dataset.kind == "voc"
    assert {
        split: {
            r.image_id: None if r.labels is None else tuple(dataset.class_names[c] for c in r.labels)
            for r in dataset.records(split)
        }
        for split in dataset.splits
    } == expected
    for split in dataset.splits:
        for record in dataset.records(split):
            assert Path(record.uri).exists()
        with_labels = {image_id for image_id, labels in expected[split].items() if labels is not None}
        assert set(dataset.ground_truth(split)) == with_labels


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"a.jpg": "", "b.xml": XML}, id="XML of another name"),
        pytest.param({"a.jpg": "", "a.xml": "<annotations><image/></annotations>"}, id="XML of another layout"),
        pytest.param({"a.jpg": "", "a.xml": b"\xff\0\x01"}, id="no XML at all"),
    ],
)
def test_other_xml_makes_no_voc_but_is_told(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    write(tmp_path, files)
    assert detect_kind(str(tmp_path)) == "folder"
    assert "1 annotation files of an unknown layout or place" in told(tmp_path)[0]


def test_utf_16_beside_a_picture_is_voc(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": "", "a.xml": XML.encode("utf-16")})
    assert open_dataset(DataConfig(uri=str(tmp_path))).class_names == ("disc",)


def test_one_xml_near_two_pictures_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.jpg": "", "y/a.jpg": "", "z/a.xml": XML})
    with pytest.raises(
        DataError, match=r"z/a\.xml: expected .* of one picture, found x/a and y/a .*beside its picture"
    ):
        ids(tmp_path)
    (tmp_path / "z" / "a.xml").rename(tmp_path / "x" / "a.xml")
    assert ids(tmp_path) == {"all": ["x/a", "y/a"]}


def test_boxes_are_read_where_the_pictures_are_not_there_yet(tmp_path: Path) -> None:
    write(tmp_path, {"Annotations/a.xml": XML, "ImageSets/Main/train.txt": "a\n"})
    assert list(VocDataset(str(tmp_path)).ground_truth("train")) == ["a"]


def test_year_without_lists_is_found_beside_one_with_lists(tmp_path: Path) -> None:
    build_voc_tree(tmp_path / "VOC2007")
    write(tmp_path / "VOC2012", ONE_PICTURE)
    with pytest.raises(DataError, match=r"several: .*VOC2007, .*VOC2012; give one of them"):
        VocDataset(str(tmp_path))


# ------------------------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize(
    "line",
    [
        "a b",
        "a b.jpg",
        "a b.JPG",
        "a b.xml",
        "  a b.jpg \t",
        "A B",
        "./a b.jpg",
        "JPEGImages/a b.jpg",
        "VOC/JPEGImages/a b",
        "JPEGImages\\a b.jpg",
        "/home/me/VOC/JPEGImages/a b.jpg",
        "C:\\data\\VOC\\JPEGImages\\a b.jpg",
        "a b  # blurred",
        "../JPEGImages/a b.jpg",
    ],
)
def test_line_finds_its_picture(tmp_path: Path, line: str) -> None:
    for end in ("\n", "\r\n", "\r", ""):
        root = write(tmp_path / "VOC", with_list(f"# made by hand{end or chr(10)}{line}{end}", "a b.jpg", "c.jpg"))
        assert ids(root) == {"trainval": ["a b"]}


@pytest.mark.parametrize(("listed", "stored"), [(NFC, NFD), (NFD, NFC)])
def test_line_finds_its_picture_in_the_other_unicode_form(tmp_path: Path, listed: str, stored: str) -> None:
    root = write(tmp_path, with_list(f"{listed}\n", f"{stored}.jpg") | {f"Annotations/{listed}.xml": XML})
    dataset = VocDataset(str(root))
    (record,) = dataset.records("trainval")
    assert (record.image_id, record.uri) == (stored, f"{root}/JPEGImages/{stored}.jpg")
    assert record.labels == (dataset.class_names.index("disc"),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_list_of_any_marked_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    assert ids(write(tmp_path, with_list("ä\nb\n".encode(encoding), "ä.jpg", "b.jpg"))) == {"trainval": ["ä", "b"]}


def test_names_that_look_like_more_are_taken_as_they_stand(tmp_path: Path) -> None:
    names = ("a.jpg", "#1", "b # c", "d\x85e", "dog 1", " e ")
    root = write(
        tmp_path, with_list("".join(f"{name}\n" for name in names), *(f"{name}.png" for name in names), "a.png")
    )
    assert ids(root) == {"trainval": list(names)}


def test_picture_in_a_sub_folder_is_found_if_it_is_the_only_one_of_its_name(tmp_path: Path) -> None:
    root = write(tmp_path, with_list("a\n", "x/a.jpg"))
    assert ids(root) == {"trainval": ["x/a"]}
    write(root, with_list("a\n", "y/a.jpg"))
    with pytest.raises(DataError, match=r"trainval\.txt:1: 'a' may mean x/a or y/a; write the one that is meant"):
        ids(root)
    write(root, with_list("y/a\n"))
    assert ids(root) == {"trainval": ["y/a"]}


@pytest.mark.parametrize("line", ["../../secret", "x/../../../secret", "/../../secret"])
def test_line_leads_to_no_picture_outside(tmp_path: Path, line: str) -> None:
    root = write(tmp_path / "VOC", with_list(f"{line}\na\n", "a.jpg"))
    write(tmp_path, {"secret.jpg": ""})
    records = VocDataset(str(root)).records("trainval")
    assert [Path(record.uri).resolve().is_relative_to(root) for record in records] == [True, True]
    assert not Path(records[0].uri).exists()


def test_picture_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    root = write(tmp_path, with_list("2019/a\nb\n", "2020/a.jpg", "b.jpg"))
    assert ids(root) == {"trainval": ["2019/a", "b"]}
    assert "1 listed images without a file (e.g. JPEGImages/2019/a.jpg" in told(root)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a\n\na.jpg\n", r"trainval\.txt:3: image 'a' is listed already in line 1", id="twice, once with suffix"),
        pytest.param("b\nc\n", r":1: expected pictures of the 2 images .*e\.g\. 'b'.*such as 'a'", id="none there"),
        pytest.param("", r"trainval\.txt: expected an image id a line, found none; fill the list, or remove it", id="empty"),
        pytest.param("\n# none\n \n", r"trainval\.txt: expected an image id a line, found none", id="blank lines"),
        pytest.param("ä\n".encode("latin-1"), r"trainval\.txt:1: expected UTF-8 text, got byte 0xe4", id="Latin-1"),
        pytest.param(b"a\n\0\n", r"trainval\.txt:2: expected UTF-8 text, got a zero byte", id="zero"),
    ],
)  # fmt: skip
def test_list_that_cannot_be_honoured_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ids(write(tmp_path, with_list(text, "a.jpg")))


def test_remedies_of_an_empty_list_help(tmp_path: Path) -> None:
    root = write(tmp_path, with_list("", "a.jpg"))
    (root / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    assert ids(root) == {"test": ["a"]}
    assert "1 empty split lists (e.g. ImageSets/Main/trainval.txt; fill or remove them)" in told(root)
    with pytest.raises(DataError, match=r"trainval\.txt: expected an image id a line"):
        VocDataset(str(root), splits=("trainval",))

    (root / "ImageSets" / "Main" / "trainval.txt").unlink()
    (root / "ImageSets" / "Main" / "test.txt").unlink()
    assert ids(root) == {"all": ["a"]}


def test_pictures_of_another_kind_are_named_where_there_are_no_others(tmp_path: Path) -> None:
    write(tmp_path, {"JPEGImages/a.heic": "", "Annotations/a.xml": XML})
    with pytest.raises(DataError, match=r"found none \(1 files \.heic \(e\.g\. JPEGImages/a\.heic; convert them"):
        ids(tmp_path)
    write(tmp_path, {"ImageSets/Main/train.txt": "a\n"})
    with pytest.raises(DataError, match=r"train\.txt:1: .*but none at all \(1 files \.heic .*convert them"):
        ids(tmp_path)


def test_list_of_absent_pictures_can_be_left_out(tmp_path: Path) -> None:
    root = write(tmp_path, with_list("a\n", "a.jpg") | {"ImageSets/Main/test.txt": "t\n"})
    with pytest.raises(DataError, match=r"test\.txt:1: .*leave the list out of data\.splits"):
        ids(root)
    assert len(VocDataset(str(root), splits=("trainval",)).records("trainval")) == 1


def test_lists_of_classes_are_told_by_their_lines(tmp_path: Path) -> None:
    root = write(tmp_path, with_list("a\nb\n", "a.jpg", "b.jpg") | {"ImageSets/Main/dog.txt": "a 1\nb -1\n"})
    assert VocDataset(str(root)).splits == ("trainval",)
    (root / "ImageSets" / "Main" / "trainval.txt").unlink()
    with pytest.raises(DataError, match=r"expected split lists like trainval\.txt, found none; .*write the list"):
        VocDataset(str(root))


# ------------------------------------------------------------------------------------------------------ passed over


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        with_list("a\nb\ngone\n", "a.jpg", "b.jpg", "spare.jpg", "c.HEIC")
        | {"Annotations/a.xml": XML, "Annotations/a.json": "{}", "notes.txt": "", "SegmentationClass/a.png": ""},
    )
    assert told(root) == [
        "1 listed images without a file (e.g. JPEGImages/gone.jpg; put them there or remove them from the list)",
        "2 images without an XML file, whose labels are unknown (e.g. JPEGImages/b.jpg)",
        "1 pictures in no split list (e.g. JPEGImages/spare.jpg; list them in ImageSets/Main)",
        "1 XML files without a picture (e.g. Annotations/x.xml)",
        "1 files .heic (e.g. JPEGImages/c.HEIC; convert them to JPEG or PNG)",
        "1 files .json (e.g. Annotations/a.json)",
        "1 files .txt (e.g. notes.txt)",
    ]


def test_nothing_is_told_of_a_whole_devkit(tmp_path: Path) -> None:
    assert told(build_voc_tree(tmp_path)) == []


# --------------------------------------------------------------------------------------------------------- classes


def test_names_that_differ_in_capitals_only_are_refused_with_both_places(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": "", "a.xml": XML, "b.jpg": "", "b.xml": XML.replace("disc", "Disc")})
    with pytest.raises(DataError, match=r"a\.xml: class 'disc' is 'Disc' in .*b\.xml; write the name alike everywhere"):
        ids(tmp_path)


def test_letters_are_classes_of_their_own_and_unicode_forms_are_not(tmp_path: Path) -> None:
    names = ("a", "A", NFC, NFD, f" {NFC}\n", "traffic\n  light")
    objects = "".join(voc_object(name, (0, 0, 9, 9)) for name in names)
    dataset = VocDataset(str(write(tmp_path, {"a.jpg": "", "a.xml": voc_xml(objects)})))
    assert dataset.class_names == ("A", "a", "traffic light", NFC)


def test_errors_are_all_of_ours(tmp_path: Path) -> None:
    with pytest.raises(WeaksamError, match="found none; check the path"):
        VocDataset(str(tmp_path))
