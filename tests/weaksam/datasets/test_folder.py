from __future__ import annotations

from pathlib import Path

import pytest

from weaksam.datasets.folder import FolderDataset
from weaksam.errors import DataError


def write_tree(root: Path, *names: str, labels: str | bytes | None = None, classes: str | None = None) -> FolderDataset:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    if labels is not None:
        (root / "labels.csv").write_bytes(labels.encode() if isinstance(labels, str) else labels)
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return FolderDataset(str(root))


def labels_of(dataset: FolderDataset) -> dict[str, tuple[str, ...] | None]:
    return {
        r.image_id: None if r.labels is None else tuple(dataset.class_names[c] for c in r.labels)
        for split in dataset.splits
        for r in dataset.records(split)
    }


def test_row_means_its_labels_empty_cell_means_none_no_row_means_unknown(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, "a.jpg", "b/c.png", "d.jpg", labels="path,labels\na.jpg,dog;cat\nb/c.png,\n")
    assert dataset.class_names == ("cat", "dog")
    assert labels_of(dataset) == {"a.jpg": ("cat", "dog"), "b/c.png": (), "d.jpg": None}
    for record in dataset.records("all"):
        assert record.labels == record.labels_difficult
        assert record.uri == str(tmp_path / record.image_id)


def test_folder_without_csv_has_unknown_labels_and_no_classes(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, "a.jpg", "b.JPG")
    assert dataset.class_names == ()
    assert labels_of(dataset) == {"a.jpg": None, "b.JPG": None}
    assert dataset.ground_truth("all") == {}


def test_classes_file_fixes_their_order_and_may_name_more(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, "a.jpg", labels="path,labels\na.jpg,cat;dog\n", classes="dog\n\nzebra\ncat\n")
    assert dataset.class_names == ("dog", "zebra", "cat")
    assert dataset.records("all")[0].labels == (0, 2)


@pytest.mark.parametrize(
    ("labels", "name", "expected"),
    [
        pytest.param("\ufeffpath,labels\r\na.jpg,dog\r\n\r\n", "a.jpg", ("dog",), id="from a spreadsheet on Windows"),
        pytest.param(
            "path, labels\na.jpg, dog ; ;dog; hot dog\n", "a.jpg", ("dog", "hot dog"), id="blanks and repeats"
        ),
        pytest.param('path,labels\n"a, b.jpg",dog\n', "a, b.jpg", ("dog",), id="quoted comma"),
        pytest.param("path,labels\nä #1 100%.jpg,dog\n", "ä #1 100%.jpg", ("dog",), id="odd name"),
        pytest.param("path,labels\nscan.dat,dog\n", "scan.dat", ("dog",), id="named file of another suffix"),
        pytest.param("path,labels\n", "a.jpg", None, id="header alone"),
    ],
)
def test_csv_as_people_write_it(tmp_path: Path, labels: str, name: str, expected: tuple[str, ...] | None) -> None:
    assert labels_of(write_tree(tmp_path, name, labels=labels)) == {name: expected}


def test_other_files_are_told_and_hidden_ones_not_seen(tmp_path: Path) -> None:
    names = ("a.jpg", "notes.txt", "b.psd", "c.HEIC", "c.xml", "train/labels.csv", ".hidden.jpg", ".cache/c.jpg")
    dataset = write_tree(tmp_path, *names, labels="path,labels\n")
    assert labels_of(dataset) == {"a.jpg": None}
    assert [str(one) for one in dataset.passed_over] == [
        "1 empty tables of labels (e.g. labels.csv)",
        "1 tables of labels below the data set's folder (e.g. train/labels.csv; put one there, its paths relative to it)",
        "1 annotation files of an unknown layout or place (e.g. c.xml; see README for the layouts that are read)",
        "1 files .heic (e.g. c.HEIC; convert them to JPEG or PNG)",
        "1 files .psd (e.g. b.psd; convert them to JPEG or PNG)",
        "1 files .txt (e.g. notes.txt)",
    ]


def test_nothing_is_told_where_everything_is_read(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, "a.jfif", "b.jp2", labels="path,labels\na.jfif,x\n", classes="x\n")
    assert set(labels_of(dataset)) == {"a.jfif", "b.jp2"}
    assert dataset.passed_over == ()


def test_folder_of_unread_pictures_alone_says_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found none among 2 files \(2 files \.heic .*convert them to JPEG or PNG"):
        write_tree(tmp_path, "a.heic", "b.HEIC")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train/a.jpg", "test/deep/b.jpg"), ("train", "test")),
        (("val/a.jpg",), ("val",)),
        (("train/a.jpg", "valid/b.jpg", "test/c.jpg"), ("train", "valid", "test")),
        (("train/a.jpg", "validation/b.jpg", "val/c.jpg"), ("train", "val", "validation")),
        (("Train/a.jpg", "TEST/b.jpg"), ("Train", "TEST")),
        (("images/train/a.jpg", "images/val/deep/b.jpg"), ("train", "val")),
        (("a/b/test/a.jpg", "a/b/test/b.jpg"), ("test",)),
        (("images/train/a.jpg", "images/b.jpg"), ("all",)),
        (("images/train/a.jpg", "more/val/b.jpg"), ("all",)),
        (("images/a.jpg",), ("all",)),
        (("train/a.jpg", "b.jpg"), ("all",)),
        (("train/a.jpg", "extra/b.jpg"), ("all",)),
    ],
)
def test_folders_named_after_splits_are_splits_if_all_images_lie_in_them(
    tmp_path: Path, names: tuple[str, ...], splits: tuple[str, ...]
) -> None:
    dataset = write_tree(tmp_path, *names)
    assert dataset.splits == splits
    assert {r.image_id for split in splits for r in dataset.records(split)} == set(names)
    assert FolderDataset(str(tmp_path), splits=splits[-1:]).splits == splits[-1:]


def test_folders_called_like_splits_beside_other_pictures_are_told(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, "train/a.jpg", "test/b.jpg", "cover.jpg")
    assert [str(one) for one in dataset.passed_over] == [
        "2 folders called like splits that are read as one split (e.g. train, test; move what lies beside them, such as "
        "cover.jpg, out of the data set to have splits)"
    ]
    assert write_tree(tmp_path / "classes", "train/a.jpg", "plane/b.jpg").passed_over == ()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param("", r"labels\.csv:1: expected the header path,labels, got ''", id="empty file"),
        pytest.param(
            "file,label\na.jpg,dog\n", r":1: expected the header path,labels, got 'file,label'", id="other header"
        ),
        pytest.param(
            "path,labels\na.jpg,dog,cat\n", r":2: expected 2 cells.* got 3; separate labels by ';'", id="three cells"
        ),
        pytest.param("path,labels\n\na.jpg\n", r":3: expected 2 cells, path and labels, got 1", id="one cell"),
        pytest.param("path,labels\nno.jpg,dog\n", r":2: there is no file 'no\.jpg' in this folder", id="missing image"),
        pytest.param(
            "path,labels\na.jpg,\na.jpg,dog\n",
            r":3: 'a\.jpg' has a row already; write all of a picture's labels in one row",
            id="two rows",
        ),
        pytest.param(
            "path,labels\na.jpg,dgo\n", r":2: label 'dgo' is not in classes\.txt; did you mean 'dog'\?", id="typo"
        ),
        pytest.param('path,labels\n"a.jpg,dog\n', r":2: expected comma-separated cells", id="open quote"),
        pytest.param(b"path,labels\n\xe4.jpg,dog\n", r":2: expected UTF-8 text, got byte 0xe4", id="not UTF-8"),
    ],
)
def test_malformed_csv_is_named_with_its_line(tmp_path: Path, labels: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_tree(tmp_path, "a.jpg", labels=labels, classes="dog\ncat\n")


def test_cells_that_a_spreadsheet_adds_to_the_longest_row_count_for_nothing(tmp_path: Path) -> None:
    padded = write_tree(
        tmp_path, "a.jpg", "b.jpg", "c.jpg", labels="path;labels;;\na.jpg;dog;cat;\nb.jpg;dog;;\nc.jpg;;;\n"
    )
    records = {record.image_id: record.labels for record in padded.records("all")}
    assert padded.class_names == ("cat", "dog")
    assert records == {"a.jpg": (0, 1), "b.jpg": (1,), "c.jpg": ()}
    assert write_tree(tmp_path, labels="path,labels,\na.jpg,dog,\n").records("all")[0].labels == (0,)
    with pytest.raises(DataError, match=r"expected the header path,labels, got 'path,labels,note'"):
        write_tree(tmp_path, labels="path,labels,note\na.jpg,dog,old\n")


def test_labelled_photographs_of_a_format_that_is_not_read_are_told(tmp_path: Path) -> None:
    labels = "path,labels\na.jpg,dog\nIMG_1.HEIC,cat\n"
    dataset = write_tree(tmp_path, "a.jpg", "IMG_1.HEIC", labels=labels)
    assert [record.image_id for record in dataset.records("all")] == ["a.jpg"]
    assert [str(one) for one in dataset.passed_over] == ["1 files .heic (e.g. IMG_1.HEIC; convert them to JPEG or PNG)"]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"found none among 2 files \(1 files \.heic .*convert them to JPEG or PNG"):
        write_tree(tmp_path, labels="path,labels\nIMG_1.HEIC,cat\n")


def test_of_pictures_alone_no_table_is_read(tmp_path: Path) -> None:
    write_tree(tmp_path, "a.jpg")
    (tmp_path / "labels.csv").write_text("path,labels\ngone.jpg,dog\n")
    (tmp_path / "classes.txt").write_text("dog\ndog\n")
    dataset = FolderDataset(str(tmp_path), pictures_only=True)
    assert (dataset.class_names, dataset.passed_over) == ((), ())
    assert [(record.image_id, record.labels) for record in dataset.records("all")] == [("a.jpg", None)]


def test_class_named_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.txt:3: class 'dog' stands already in line 1"):
        write_tree(tmp_path, "a.jpg", classes="dog\ncat\n dog \n")


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected images \(\.apng .*among 1 files \(1 files \.txt .*; check the path"):
        write_tree(tmp_path, "notes.txt")


def test_split_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    write_tree(tmp_path, "a.jpg")
    with pytest.raises(DataError, match="expected a split 'train', found all; set data"):
        FolderDataset(str(tmp_path), splits=("train",))


def test_fingerprint_changes_with_labels_classes_and_images_but_not_with_other_files(tmp_path: Path) -> None:
    prints = [
        write_tree(tmp_path, "a.jpg").fingerprint(),
        write_tree(tmp_path, labels="path,labels\na.jpg,dog\n").fingerprint(),
        write_tree(tmp_path, labels="path,labels\na.jpg,cat\n").fingerprint(),
        write_tree(tmp_path, classes="cat\ndog\n").fingerprint(),
        write_tree(tmp_path, "b.jpg").fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert write_tree(tmp_path, "notes.txt").fingerprint() == prints[-1]
