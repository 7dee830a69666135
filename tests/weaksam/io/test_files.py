from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.s3_server import s3_server
from weaksam.errors import DataError, ImageError, StorageError
from weaksam.io import files

NAMES = [
    "a b.jpg",
    "100%.jpg",
    "%41.jpg",
    "#1.jpg",
    "ü 漢.jpg",
    "a..b.jpg",
    "x::y.jpg",
    "[*?].jpg",
    "q?v=1.jpg",
]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("weaksam-files") as uri:
        yield uri


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on disk and one in a bucket."""
    if request.param == "local":
        return str(tmp_path)
    return files.join(request.getfixturevalue("bucket"), tmp_path.name)


@contextmanager
def without_root() -> Iterator[None]:
    """Root may read everything: take the test's process down to a user who may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def write(uri: str, data: bytes) -> str:
    fs, path = files.open_fs(uri)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, data)
    return uri


def sizes(root: str) -> list[tuple[str, int]]:
    return [(name, stamp.size) for name, stamp in files.list_files(root)]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_written_listed_and_read_as_it_is(root: str, name: str) -> None:
    uri = write(files.join(root, "in", name), b"content")
    assert sizes(root) == [(f"in/{name}", 7)]
    assert files.read_bytes(uri) == b"content"
    assert list(files.read_annotations([uri])) == [b"content"]


def test_listing_is_recursive_sorted_fresh_and_without_hidden_files(root: str) -> None:
    for name in ("b.jpg", "a/z.jpg", "a.jpg", ".DS_Store", "a/.thumbs/t.jpg", "a/._z.jpg"):
        write(files.join(root, name), b"x" * len(name))
    assert sizes(root) == [("a.jpg", 5), ("a/z.jpg", 7), ("b.jpg", 5)]
    write(files.join(root, "c.jpg"), b"")
    assert sizes(root)[-1] == ("c.jpg", 0)
    assert files.list_folders(root) == ["a"]


def test_missing_folder_lists_nothing(root: str) -> None:
    nowhere = files.join(root, "nowhere")
    assert sizes(nowhere) == []
    assert files.list_folders(nowhere) == []
    assert not files.is_folder(nowhere)


def test_folder_markers_of_s3_are_no_files(bucket: str) -> None:
    fs, path = files.open_fs(f"{bucket}/marked")
    fs.call_s3("put_object", Bucket=path.split("/")[0], Key="marked/", Body=b"")
    fs.call_s3("put_object", Bucket=path.split("/")[0], Key="marked/deep/", Body=b"")
    write(f"{bucket}/marked/deep/a.jpg", b"abc")
    assert sizes(f"{bucket}/marked") == [("deep/a.jpg", 3)]
    assert sizes(f"{bucket}/marked/") == [("deep/a.jpg", 3)]
    assert files.is_folder(f"{bucket}/marked")


def test_missing_image_says_so(root: str) -> None:
    with pytest.raises(ImageError) as caught:
        files.read_bytes(files.join(root, "no.jpg"))
    assert caught.value.reason == "missing"
    assert "no.jpg" in str(caught.value)


def test_folder_in_place_of_an_image_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        files.read_bytes(str(tmp_path))
    assert caught.value.reason == "unreadable"


class ConnectError(Exception):
    """botocore's and aiohttp's are no OSErrors."""


class FailingStore:
    """A file system that gives no file out, and may not even say what it has."""

    def __init__(self, answer: Exception | None) -> None:
        self.answer = answer

    def cat_file(self, _path: str) -> bytes:
        raise ConnectError("could not connect")

    def info(self, _path: str) -> dict[str, int]:
        if self.answer:
            raise self.answer
        return {"size": 3}


@pytest.mark.parametrize("answer", [None, FileNotFoundError(), PermissionError()])
def test_an_image_that_its_store_cannot_give_out_is_unreadable(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    monkeypatch.setattr(files, "open_fs", lambda _: (FailingStore(answer), "b/a.jpg"))
    with pytest.raises(ImageError, match=r"^unreadable: s3://b/a\.jpg: ConnectError: could not connect$"):
        files.read_bytes("s3://b/a.jpg")


def test_a_store_that_does_not_answer_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open_fs", lambda _: (FailingStore(ConnectError("nor now")), "b/a.jpg"))
    with pytest.raises(
        StorageError, match=r"^s3://b/a\.jpg: no answer .* \(ConnectError: nor now\); check the network"
    ):
        files.read_bytes("s3://b/a.jpg")


def test_forbidden_image_says_so(tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(b"secret")
    image.chmod(0)
    with without_root(), pytest.raises(ImageError) as caught:
        files.read_bytes(str(image))
    assert caught.value.reason == "permission denied"


def test_forbidden_folder_is_an_error_and_not_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub").chmod(0)
    with without_root(), pytest.raises(DataError, match="check the address, its permissions"):
        files.list_files(str(tmp_path / "sub"))


def test_dangling_link_is_listed_and_missing(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    assert sizes(str(tmp_path)) == [("link.jpg", 0)]
    with pytest.raises(ImageError, match="missing"):
        files.read_bytes(str(tmp_path / "link.jpg"))


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"abc")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "round").symlink_to(tmp_path / "set")
    assert sizes(str(tmp_path / "set")) == [("images/a.jpg", 3)]


def test_folder_goes_by_its_path_without_links(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"abc")
    (tmp_path / "album").symlink_to(tmp_path / "photos")  # comes first by name
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")
    assert sizes(str(tmp_path)) == [("photos/a.jpg", 3)]


def test_links_to_themselves_and_in_circles_cost_nothing_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "to").symlink_to("fro")
    (tmp_path / "fro").symlink_to("to")
    (tmp_path / "VOC2007").symlink_to("VOC2007")
    expected = [("VOC2007", 0), ("a.jpg", 3), ("fro", 0), ("self.jpg", 0), ("to", 0)]
    assert sizes(str(tmp_path)) == expected
    assert files.list_folders(str(tmp_path)) == []
    with pytest.raises(ImageError, match=r"unreadable: .*self\.jpg"):
        files.read_bytes(str(tmp_path / "self.jpg"))


def test_link_to_a_folder_that_holds_the_data_set_brings_nothing_in(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.jpg").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").touch()
    (tmp_path / "set" / "up").symlink_to("..")
    assert sizes(str(tmp_path / "set")) == [("a.jpg", 0)]


def test_folders_that_link_to_each_other_are_listed_once(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jpg").touch()
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    assert sizes(str(tmp_path)) == [("a/a.jpg", 0), ("b/b.jpg", 0)]


@pytest.mark.parametrize("target", ["loop", "x" * 300, "a.jpg", "zero\0byte"])
def test_address_that_is_no_folder_is_an_error_of_the_data(tmp_path: Path, target: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"cannot list this folder .*; (check the address|give the folder)"):
        files.list_files(str(tmp_path / target))


def test_forbidden_sub_folder_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folder is forbidden to others altogether
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/sub", 0)
        with without_root(), pytest.raises(DataError, match=rf"^{folder}/sub: cannot list .*chmod -R"):
            files.list_files(folder)


def test_pipes_are_not_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert sizes(str(tmp_path)) == []


def test_name_that_is_no_unicode_is_named_in_the_error(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    with pytest.raises(DataError, match=r"'\\udcff\.jpg'; rename"):
        files.list_files(str(tmp_path))


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"here")
    assert files.open_fs("a.jpg")[1] == f"{tmp_path}/a.jpg"
    assert files.open_fs(f"file://{tmp_path}/a.jpg")[1] == f"{tmp_path}/a.jpg"
    assert files.read_bytes("sub/../a.jpg") == b"here"
    assert files.read_bytes(f"file://{tmp_path}/a.jpg") == b"here"


def test_drawn_images_are_drawn() -> None:
    assert files.read_bytes("shapes:train/17?size=64&seed=0").startswith(b"\x89PNG")
    with pytest.raises(ImageError, match="missing"):
        files.read_bytes("shapes:nonsense")


@pytest.mark.parametrize(
    ("uri", "remote"),
    [
        ("/data/a.jpg", False),
        ("data", False),
        ("file:///data", False),
        ("shapes:train/1?size=64&seed=0", False),
        ("/odd/s3://name", False),
        ("s3://bucket/key", True),
        ("gs://bucket/key", True),
        ("https://host/a.jpg", True),
    ],
)
def test_remote_is_what_goes_over_a_network(uri: str, remote: bool) -> None:
    assert files.is_remote(uri) is remote


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("/data", ("a", "b.jpg"), "/data/a/b.jpg"),
        ("/data/", ("a#b 100%.jpg",), "/data/a#b 100%.jpg"),
        ("s3://bucket", ("key",), "s3://bucket/key"),
        ("s3://bucket/x/", ("/key",), "s3://bucket/x/key"),
        ("data", (), "data"),
    ],
)
def test_join(uri: str, parts: tuple[str, ...], joined: str) -> None:
    assert files.join(uri, *parts) == joined


def test_annotations_come_in_order(root: str) -> None:
    uris = [write(files.join(root, f"{i}.txt"), str(i).encode()) for i in range(40)]
    assert list(files.read_annotations(uris)) == [str(i).encode() for i in range(40)]
    assert list(files.read_annotations([])) == []


def test_missing_annotation_is_an_error_of_the_data(root: str) -> None:
    with pytest.raises(DataError, match=r"missing: .*no\.xml; check the path"):
        list(files.read_annotations([files.join(root, "no.xml")]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_utf_8_or_what_its_byte_order_mark_says(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("path,ü漢\n".encode(encoding))
    assert files.read_text(str(tmp_path / "a.csv")) == "path,ü漢\n"


def test_high_byte_first_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffpath,ü\n".encode("utf-16-be"))
    assert files.read_text(str(tmp_path / "a.csv")) == "path,ü\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param("path\nü\n".encode("latin-1"), ":2: expected UTF-8 text, got byte 0xfc", id="Latin-1"),
        pytest.param(b"\xef\xbb\xbfa\nb\n\xfc", ":3: expected UTF-8 text, got byte 0xfc", id="Latin-1 behind a mark"),
        pytest.param("a\n漢\n".encode("gbk"), ":2: expected UTF-8 text, got byte 0x9d", id="GBK"),
        pytest.param(
            "a\nb".encode("utf-16-le"), ":1: expected UTF-8 text, got a zero byte", id="UTF-16 without a mark"
        ),
        pytest.param("\ufeffa\nb".encode("utf-16-le")[:-1], ":2: expected utf-16 text", id="UTF-16 cut in a letter"),
        pytest.param(b"a\n\0\n", ":2: expected UTF-8 text, got a zero byte; save the file as UTF-8", id="zero"),
    ],
)
def test_text_of_another_encoding_is_named_with_its_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.csv{message}"):
        files.read_text(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\rb\n\nc", ["a", "b", "", "c"]),
        ("a\x85b\u2028c\x0bd\n", ["a\x85b\u2028c\x0bd"]),
    ],
)
def test_lines_end_as_text_files_end_them(text: str, lines: list[str]) -> None:
    assert files.split_lines(text) == lines


def test_unknown_scheme_is_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="nonsense://x"):
        files.list_files("nonsense://x")


def test_bucket_that_does_not_exist_lists_nothing_or_says_why(bucket: str) -> None:
    with pytest.raises(DataError, match="check the address"):
        files.list_files("s3://no-such-bucket-here/x")


def test_server_that_never_answers_is_an_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_S3_WAIT_S", {"connect_timeout": 0.1, "read_timeout": 0.1})
    with socket.create_server(("127.0.0.1", 0)) as server:  # connections wait in its queue for ever
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with pytest.raises(DataError, match=r"s3://bucket/x: cannot list this folder \(.*[Tt]imeout"):
            files.list_files("s3://bucket/x")
