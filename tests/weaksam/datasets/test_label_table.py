from __future__ import annotations

import unicodedata

import pytest

from weaksam.datasets.label_table import parse_classes, parse_labels
from weaksam.errors import DataError

NFC, NFD = unicodedata.normalize("NFC", "ü"), unicodedata.normalize("NFD", "ü")
FILES = ("a.jpg", "x/b.jpg", "y/c d.png", "x/e.jpg", "y/e.jpg")


def parse(text: str, *files: str, classes: tuple[str, ...] | None = None) -> dict[str, list[str]]:
    return parse_labels(text, "/data/set/labels.csv", files or FILES, classes)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        pytest.param("path;labels\na.jpg;dog\n", {"a.jpg": ["dog"]}, id="semicolons"),
        pytest.param(
            'path;labels\na.jpg;"dog;cat"\n', {"a.jpg": ["dog", "cat"]}, id="semicolons and quotes, from Excel"
        ),
        pytest.param("path;labels\na.jpg;dog;hot dog\n", {"a.jpg": ["dog", "hot dog"]}, id="semicolons for both"),
        pytest.param("path;labels\r\na.jpg;\r\n", {"a.jpg": []}, id="semicolons, none of the classes"),
        pytest.param("path\tlabels\na.jpg\tdog;cat\n", {"a.jpg": ["dog", "cat"]}, id="tabs"),
        pytest.param("PATH,Labels\na.jpg,dog\n", {"a.jpg": ["dog"]}, id="capitals in the header"),
        pytest.param('"path","labels"\n"a.jpg","dog"\n', {"a.jpg": ["dog"]}, id="quotes everywhere"),
        pytest.param("path,labels\n,\n \na.jpg,dog\n", {"a.jpg": ["dog"]}, id="blank rows"),
        pytest.param("path,labels\nx\\b.jpg,dog\n", {"x/b.jpg": ["dog"]}, id="backslash"),
        pytest.param("path,labels\n./x/b.jpg ,dog\n", {"x/b.jpg": ["dog"]}, id="dot and blank"),
        pytest.param("path,labels\n/data/set/x/b.jpg,dog\n", {"x/b.jpg": ["dog"]}, id="absolute"),
        pytest.param(
            "path,labels\nC:\\me\\set\\x\\b.jpg,dog\n", {"x/b.jpg": ["dog"]}, id="absolute on another machine"
        ),
        pytest.param("path,labels\nset/x/b.jpg,dog\n", {"x/b.jpg": ["dog"]}, id="from the folder above"),
        pytest.param("path,labels\nc d.png,dog\n", {"y/c d.png": ["dog"]}, id="name that lies once under the folder"),
        pytest.param("path,labels\nA.JPG,dog\n", {"a.jpg": ["dog"]}, id="capitals of a name"),
        pytest.param('path,labels\na.jpg,"dog;\ncat\n"\n', {"a.jpg": ["dog", "cat"]}, id="lines and semicolons"),
        pytest.param("path,labels\r\ra.jpg,dog\r", {"a.jpg": ["dog"]}, id="line ends of old"),
    ],
)
def test_table_as_people_write_it(text: str, rows: dict[str, list[str]]) -> None:
    assert parse(text) == rows


@pytest.mark.parametrize(("written", "stored"), [(NFC, NFD), (NFD, NFC)])
def test_unicode_forms_of_paths_and_labels_are_one(written: str, stored: str) -> None:
    text = f"path,labels\n{written}.jpg,{written}\nb.jpg,{stored}\n"
    assert parse(text, f"{stored}.jpg", "b.jpg") == {f"{stored}.jpg": [NFC], "b.jpg": [NFC]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("path,labels\ne.jpg,dog\n", r":2: 'e\.jpg' may mean x/e\.jpg or y/e\.jpg; write the one", id="two files"),
        pytest.param("path,labels\nz/b.jpg,dog\n", r":2: there is no file 'z/b\.jpg'", id="another folder"),
        pytest.param("path,labels\nx/b.jpg,dog\nX\\B.JPG,cat\n", r":3: 'x/b\.jpg' has a row already", id="one file twice"),
        pytest.param('path,labels\na.jpg,"dog,cat"\n', r":2: label 'dog,cat' holds a comma; separate .*';'", id="commas"),
        pytest.param("path,labels\na.jpg,dog|cat\n", r":2: label 'dog\|cat' holds a vertical bar; separate", id="bars"),
        pytest.param('path,labels\na.jpg,"dog\ncat"\n', r":3: label 'dog\\ncat' holds a line break; separate", id="lines"),
        pytest.param("path,labels\na.jpg,Dog\nx/b.jpg,dog\n", r":3: class 'dog' is 'Dog' in .*:2; write", id="capitals"),
        pytest.param("labels,path\ndog,a.jpg\n", r":1: expected the header path,labels, got 'labels,path'", id="swapped"),
        pytest.param("a.jpg,dog\n", r":1: expected the header path,labels, got 'a\.jpg,dog'", id="no header"),
        pytest.param("path\tlabels\na.jpg\tdog\tcat\n", r":2: expected 2 cells.* holds a tab", id="three cells by tabs"),
        pytest.param("path;labels\na.jpg\n", r":2: expected 2 cells, path and labels, got 1", id="one cell by semicolons"),
        pytest.param(f'path,labels\na.jpg,"{"x" * 200_000}"\n', ":2: expected comma-separated cells", id="endless cell"),
    ],
)  # fmt: skip
def test_table_that_cannot_be_honoured_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(text)


def test_remedy_of_a_comma_helps() -> None:
    text = 'path,labels\na.jpg,"crane, bird"\n'
    assert parse(text, classes=("crane, bird",)) == {"a.jpg": ["crane, bird"]}
    assert parse_classes("crane, bird\r\n", "classes.txt") == ("crane, bird",)
