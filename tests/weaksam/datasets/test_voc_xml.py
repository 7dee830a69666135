from __future__ import annotations

import pytest

from weaksam.datasets.voc_xml import boxes_xyxy_of, objects_of, parse_annotation, size_hw_of
from weaksam.errors import DataError

BODY = "<annotation><object><name>ä漢</name></object></annotation>"


def annotation(inner: str) -> bytes:
    return f"<annotation>{inner}</annotation>".encode()


def one_object(inner: str) -> bytes:
    return annotation(f"<object>{inner}</object>")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(BODY.encode(), id="UTF-8"),
        pytest.param(BODY.encode("utf-8-sig"), id="UTF-8 with a mark"),
        pytest.param(BODY.encode("utf-16"), id="UTF-16 with a mark"),
        pytest.param(BODY.encode("utf-16-le"), id="UTF-16 without a mark"),
        pytest.param(BODY.encode("utf-16-be"), id="UTF-16, high byte first"),
        pytest.param(f'<?xml version="1.0" encoding="UTF-16"?>{BODY}'.encode("utf-16"), id="declared UTF-16"),
        pytest.param(f'<?xml version="1.0" encoding="utf-16"?>{BODY}'.encode(), id="declared UTF-16 that is UTF-8"),
        pytest.param(f'<?xml version="1.0" encoding="gb18030"?>{BODY}'.encode("gb18030"), id="declared GB 18030"),
        pytest.param(f"<?xml version='1.0' encoding='utf-8' ?>\n{BODY}".encode("utf-8-sig"), id="single quotes"),
    ],
)
def test_encoding_is_honoured(data: bytes) -> None:
    assert [o.name for o in objects_of(parse_annotation(data, "a.xml"), "a.xml")] == ["ä漢"]


def test_declared_latin_1_is_honoured() -> None:
    data = '<?xml version="1.0" encoding="ISO-8859-1"?><annotation><object><name>Bär</name></object></annotation>'
    assert objects_of(parse_annotation(data.encode("latin-1"), "a.xml"), "a.xml")[0].name == "Bär"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            "<annotation>\n<name>ä</name></annotation>".encode("latin-1"),
            r"a\.xml:2: expected UTF-8 text, got byte 0xe4; save the file as UTF-8, or declare the encoding",
            id="Latin-1 without a declaration",
        ),
        pytest.param(
            f'<?xml version="1.0" encoding="ascii"?>{BODY}'.encode(),
            "a.xml:1: expected ascii text",
            id="not as declared",
        ),
        pytest.param(
            f'<?xml version="1.0" encoding="hex"?>{BODY}'.encode(), "encoding of text, got 'hex'", id="no text encoding"
        ),
        pytest.param(
            f'<?xml version="1.0" encoding="klingon"?>{BODY}'.encode(), "got 'klingon'; save .* as UTF-8", id="unknown"
        ),
        pytest.param(b"<annotation>\0</annotation>", "got a zero byte", id="zero"),
        pytest.param(b"<annotations/>", "expected <annotation>, as in VOC, got <annotations>; convert", id="CVAT's"),
        pytest.param(b"<Annotation/>", "got <Annotation>", id="capital"),
        pytest.param(
            annotation("<objects><object/></objects>"), "got <objects> of other letters or elsewhere", id="nested"
        ),
        pytest.param(
            annotation("<Object><name>x</name></Object>"), "got <Object> of other letters", id="capital object"
        ),
        pytest.param(one_object("<object/>"), "got <object> of other letters or elsewhere", id="object in an object"),
        pytest.param(b"<annotation/><annotation/>", "a.xml:1: expected well-formed XML", id="two in one"),
        pytest.param(b"\xff\xd8\xff\xe0 JFIF", "a.xml:1: expected UTF-8 text", id="a picture"),
    ],
)
def test_file_that_would_be_misread_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_annotation(data, "a.xml")


def test_namespaces_do_not_hide_objects() -> None:
    root = parse_annotation(
        b'<v:annotation xmlns:v="urn:x"><v:object><v:name>dog</v:name></v:object></v:annotation>', "a"
    )
    assert [o.name for o in objects_of(root, "a")] == ["dog"]
    root = parse_annotation(b'<annotation xmlns="urn:x"><object><name>dog</name></object></annotation>', "a")
    assert [o.name for o in objects_of(root, "a")] == ["dog"]


@pytest.mark.parametrize(
    ("flag", "difficult"),
    [("", False), ("0", False), (" 1", True), ("True", True), ("false", False), ("TRUE ", True), ("\n0\n", False)],
)
def test_flag_may_be_a_word(flag: str, difficult: bool) -> None:
    data = one_object(f"<name>dog</name><difficult>{flag}</difficult>")
    assert objects_of(parse_annotation(data, "a"), "a") == [("dog", difficult, False)]


@pytest.mark.parametrize(
    "inner",
    [
        "<name>dog</name><difficult>2</difficult>",
        "<name>dog</name><difficult>yes</difficult>",
        "<name>dog</name><difficult>0</difficult><difficult>1</difficult>",
        "<name>dog</name><name>cat</name>",
        "<name> \n </name>",
        "<name><b>dog</b></name>",
        "",
    ],
)
def test_object_that_says_two_things_or_nothing_is_refused(inner: str) -> None:
    root = parse_annotation(one_object("<name>x</name>") if inner is None else one_object(inner), "a.xml")
    with pytest.raises(DataError, match=r"a\.xml: object 1: expected a <name> and, if any, a <difficult> 0 or 1, got "):
        objects_of(root, "a.xml")


@pytest.mark.parametrize(
    ("size", "size_hw"),
    [
        ("", (0, 0)),
        ("<size><width>96</width><height>72</height></size>", (72, 96)),
        ("<size><width> 96.0 </width><height>7.2e1</height></size>", (72, 96)),
        ("<size><height>72</height></size>", (72, 0)),
    ],
)
def test_size_is_read(size: str, size_hw: tuple[int, int]) -> None:
    assert size_hw_of(parse_annotation(annotation(size), "a"), "a") == size_hw


@pytest.mark.parametrize("width", ["wide", "", "-5", "96.5", "1" + "0" * 400, "nan", "1_0", "96</width><width>97"])
def test_size_that_is_none_is_refused(width: str) -> None:
    root = parse_annotation(annotation(f"<size><width>{width}</width><height>72</height></size>"), "a.xml")
    with pytest.raises(DataError, match=r"a\.xml: <size>: expected (a number|whole pixels) in <width>, got "):
        size_hw_of(root, "a.xml")


def test_two_sizes_are_refused() -> None:
    size = "<size><width>{}</width><height>72</height></size>"
    root = parse_annotation(annotation(size.format(96) + size.format(72)), "a.xml")
    with pytest.raises(DataError, match=r"a\.xml: expected one <size>, found 2; keep that of the picture"):
        size_hw_of(root, "a.xml")


@pytest.mark.parametrize("xmin", ["1" + "0" * 400, "1e300", "-inf", "0x10", "1</xmin><xmin>2"])
def test_corner_that_is_no_number_of_pixels_is_refused(xmin: str) -> None:
    corners = f"<xmin>{xmin}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    root = parse_annotation(one_object(f"<name>dog</name><bndbox>{corners}</bndbox>"), "a.xml")
    with pytest.raises(DataError, match=r"a\.xml: <bndbox>: expected a number in <xmin>, got "):
        boxes_xyxy_of(root, "a.xml")


def test_two_boxes_of_one_object_are_refused() -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    root = parse_annotation(one_object(f"<name>dog</name>{box}{box}"), "a.xml")
    with pytest.raises(DataError, match="object dog: expected a <bndbox>, found 2"):
        boxes_xyxy_of(root, "a.xml")


def test_order_of_corners_and_of_elements_does_not_matter() -> None:
    box = "<bndbox><xmin>1</xmin><xmax>9</xmax><ymin>2</ymin><ymax>8</ymax></bndbox>"
    root = parse_annotation(one_object(f"{box}<occluded>0</occluded><name>dog</name>"), "a")
    assert boxes_xyxy_of(root, "a") == [(0, 1, 9, 8)]
