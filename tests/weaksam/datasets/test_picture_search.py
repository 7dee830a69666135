from __future__ import annotations

import unicodedata

import pytest

from weaksam.datasets.picture_search import Pictures, choose, names_split
from weaksam.errors import DataError


def find(
    files: list[str], *names: str, split: str = "val", others: tuple[str, ...] = ("train",), beside: str = "a"
) -> list[str]:
    pictures = Pictures("/data", files)
    found = [pictures.search(name) for name in names]
    return choose(found, split=split, other_splits=others, beside=beside, where=lambda n: f"images[{n}]")


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Fähre.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param("a.jpg", "x/y/a.jpg", id="bare name"),
        pytest.param("y/a.jpg", "x/y/a.jpg", id="with a folder"),
        pytest.param("./y//a.jpg", "x/y/a.jpg", id="with dots"),
        pytest.param("../y/a.jpg", "x/y/a.jpg", id="out of the annotations' folder"),
        pytest.param("z/../y/a.jpg", "x/y/a.jpg", id="there and back"),
        pytest.param("y\\a.jpg", "x/y/a.jpg", id="backslash"),
        pytest.param("y\\a.jpg", "x/y\\a.jpg", id="backslash in the name itself"),
        pytest.param("C:\\Users\\me\\y\\a.jpg", "x/y/a.jpg", id="from a Windows machine"),
        pytest.param("/home/me/pictures/a.jpg", "x/y/a.jpg", id="from another machine"),
        pytest.param("/data/x/y/a.jpg", "x/y/a.jpg", id="absolute under the root"),
        pytest.param("https://host/y/a.jpg", "x/y/a.jpg", id="address"),
        pytest.param("50%20off.jpg", "x/50 off.jpg", id="quoted"),
        pytest.param("50%20off.jpg", "x/50%20off.jpg", id="percent sign in the name itself"),
        pytest.param("100%.jpg", "x/100%.jpg", id="percent sign"),
        pytest.param(COMPOSED, f"x/{DECOMPOSED}", id="decomposed on disk"),
        pytest.param(DECOMPOSED, f"x/{COMPOSED}", id="composed on disk"),
        pytest.param("a.jpg", "x/A.JPG", id="capitals"),
    ],
)
def test_a_picture_that_lies_once_under_the_root_is_found(name: str, path: str) -> None:
    assert find([path, "x/other.jpg"], name) == [path]


def test_a_split_may_lie_in_many_folders() -> None:
    files = [f"part{n}/{n}.jpg" for n in range(5)]
    assert find(files[::-1], *(f"{n}.jpg" for n in range(5))) == files


def test_the_name_as_it_stands_comes_before_other_readings_of_it() -> None:
    assert find(["x/b c.jpg", "x/b%20c.jpg"], "b%20c.jpg") == ["x/b%20c.jpg"]
    assert find([f"x/{COMPOSED}", f"x/{DECOMPOSED}"], DECOMPOSED) == [f"x/{DECOMPOSED}"]
    assert find(["x/a.JPG", "x/a.jpg"], "a.jpg") == ["x/a.jpg"]


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        pytest.param(["train/a.jpg", "val/a.jpg"], "a.jpg", "val/a.jpg", id="folder of the split"),
        pytest.param(["images/train/a.jpg", "images/val/a.jpg"], "a.jpg", "images/val/a.jpg", id="below images"),
        pytest.param(["val/images/a.jpg", "z/a.jpg"], "a.jpg", "val/images/a.jpg", id="above images"),
        pytest.param(["train_images/a.jpg", "val_images/a.jpg"], "a.jpg", "val_images/a.jpg", id="a word of it"),
        pytest.param(["Valid/a.jpg", "Train/a.jpg"], "a.jpg", "Valid/a.jpg", id="another word for it"),
        pytest.param(["train/a.jpg", "pictures/a.jpg"], "a.jpg", "pictures/a.jpg", id="not that of another split"),
        pytest.param(["b/a.jpg", "val/b/a.jpg"], "b/a.jpg", "b/a.jpg", id="spelt from the root"),
        pytest.param(["a/a.jpg", "val/a.jpg"], "a.jpg", "a/a.jpg", id="beside the annotations"),
        pytest.param(["p/b/a.jpg", "q/c/a.jpg"], "/home/me/c/a.jpg", "q/c/a.jpg", id="longer end of an absolute name"),
        pytest.param(["p/B/a.jpg", "q/c/a.jpg"], "/home/me/b/a.jpg", "p/B/a.jpg", id="longer end in other capitals"),
    ],
)
def test_evidence_decides_between_pictures_of_one_name(files: list[str], name: str, expected: str) -> None:
    assert find(files, name) == find(files[::-1], name) == [expected]


def test_years_tell_splits_apart() -> None:
    files = ["train2014/a.jpg", "train2017/a.jpg"]
    for split, other in (("train2014", "train2017"), ("train2017", "train2014")):
        assert find(files, "a.jpg", split=split, others=(other,)) == [f"{split}/a.jpg"]


def test_the_folder_that_holds_the_whole_split_is_its_own() -> None:
    assert find(["old/a.jpg", "x/a.jpg", "x/b.jpg"], "a.jpg", "b.jpg") == ["x/a.jpg", "x/b.jpg"]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["p/a.jpg", "q/a.jpg"], id="two folders alike"),
        pytest.param(["val/x/a.jpg", "val/y/a.jpg"], id="two folders of the split"),
        pytest.param(["p/A.jpg", "q/a.JPG"], id="capitals"),
        pytest.param(["train_images/a.jpg", "train_copy/a.jpg"], id="two of another split"),
    ],
)
def test_a_tie_is_refused_with_the_candidates_and_a_way_out(files: list[str]) -> None:
    with pytest.raises(
        DataError, match=r"images\[0\]: .*nothing tells which is of split val.*call the split's folder val"
    ) as caught:
        find(files, "a.jpg")
    assert all(path in str(caught.value) for path in files)


def test_the_ways_out_of_a_tie_help() -> None:
    assert find(["p/a.jpg", "val/a.jpg"], "a.jpg") == ["val/a.jpg"]  # the folder was called like the split
    assert find(["p/a.jpg", "q/a.jpg"], "q/a.jpg") == ["q/a.jpg"]  # the folder was written into the name


def test_a_tie_among_many_folders_names_some_and_counts_all() -> None:
    with pytest.raises(DataError, match=r"is the name of 9 pictures, 0/a\.jpg, 1/a\.jpg, 2/a\.jpg, 3/a\.jpg, …"):
        find([f"{n}/a.jpg" for n in range(9)], "a.jpg")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gone.jpg", "x/gone.jpg"), ("/home/me/gone.jpg", "x/gone.jpg"), ("../../gone.jpg", "x/gone.jpg"), ("..", "x/..")],
)
def test_a_missing_picture_gets_the_address_where_it_should_be(name: str, expected: str) -> None:
    assert find(["x/a.jpg"], "a.jpg", name)[1] == expected


def test_a_shortened_name_does_not_take_the_picture_that_another_name_spells_in_full() -> None:
    names = [f"/data/cam{n}/1.jpg" for n in (1, 2, 3)]
    assert find(["cam3/1.jpg"], *names) == ["data/cam1/1.jpg", "data/cam2/1.jpg", "cam3/1.jpg"]
    assert find(["cam2/1.jpg", "cam3/1.jpg"], *names) == ["1.jpg", "cam2/1.jpg", "cam3/1.jpg"]
    assert find(["cam1/1.jpg", "cam2/1.jpg", "cam3/1.jpg"], *names) == ["cam1/1.jpg", "cam2/1.jpg", "cam3/1.jpg"]
    assert find(["flat/1.jpg", "flat/2.jpg"], "/a/1.jpg", "/b/2.jpg") == ["flat/1.jpg", "flat/2.jpg"]


def test_missing_pictures_of_one_name_are_kept_apart() -> None:
    names = ("/data/a/9.jpg", "C:\\data\\b\\9.jpg", "/data/1.jpg")
    assert find(["1.jpg"], *names) == ["data/a/9.jpg", "C:/data/b/9.jpg", "1.jpg"]


def test_without_names_there_is_nothing_to_find() -> None:
    assert find(["x/a.jpg"]) == []


@pytest.mark.parametrize(
    ("folder", "sign"),
    [("val", 1), ("images/val", 1), ("val-images", 1), ("train", -1), ("train_val", 0), ("pictures", 0), ("", 0)],
)
def test_a_folder_names_one_split_or_none(folder: str, sign: int) -> None:
    found = names_split(folder, "val", ("train",))
    assert (found > 0) - (found < 0) == sign
