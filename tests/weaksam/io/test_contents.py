from __future__ import annotations

import builtins
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.s3_server import s3_server
from weaksam.datasets import shapes
from weaksam.errors import DataError
from weaksam.io import contents
from weaksam.io.contents import UNREADABLE, ImageContent, contents_of
from weaksam.io.files import join, open_fs

AN_HOUR_AGO_NS = time.time_ns() - 3600 * 10**9
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223"  # its first half


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("weaksam-contents") as uri:
        yield uri


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of files that are read."""
    paths: list[str] = []
    real = builtins.open

    def record(path: Any, *args: Any, **kwargs: Any) -> Any:
        paths.append(str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(contents, "open", record, raising=False)
    return paths


def write(path: Path, data: bytes = b"abc", mtime_ns: int = AN_HOUR_AGO_NS) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return str(path)


def digest(uri: str, known: dict[str, ImageContent] | None = None) -> str:
    return dict(contents_of([uri], known))[uri].digest


# ------------------------------------------------------------------------------------------------------------ on a disk


def test_a_local_file_is_its_bytes_wherever_it_lies(tmp_path: Path) -> None:
    first, same, other = write(tmp_path / "a.jpg"), write(tmp_path / "b" / "c.jpg"), write(tmp_path / "d.jpg", b"abd")
    found = {uri: content.digest for uri, content in contents_of([first, same, other, f"file://{first}"])}
    assert found[first] == found[same] == found[f"file://{first}"] == SHA256_OF_ABC
    assert found[other] not in (SHA256_OF_ABC, UNREADABLE)


def test_every_address_gets_an_answer_whatever_their_number(tmp_path: Path) -> None:
    uris = [write(tmp_path / f"{n}.jpg", bytes([n])) for n in range(2 * contents._AT_A_TIME + 1)]
    found = dict(contents_of(uris))
    assert set(found) == set(uris)
    assert len({content.digest for content in found.values()}) == len(uris)
    assert dict(contents_of([])) == {}


def test_what_is_known_is_not_read_again(tmp_path: Path, opened: list[str]) -> None:
    uri = write(tmp_path / "a.jpg")
    known = dict(contents_of([uri]))
    assert opened == [uri]
    assert dict(contents_of([uri], known))[uri] is known[uri]
    assert opened == [uri]


def test_a_touched_file_is_read_again_and_is_the_same(tmp_path: Path, opened: list[str]) -> None:
    uri = write(tmp_path / "a.jpg")
    known = dict(contents_of([uri]))
    write(tmp_path / "a.jpg", mtime_ns=AN_HOUR_AGO_NS + 10**9)
    again = dict(contents_of([uri], known))[uri]
    assert opened == [uri, uri]
    assert again.digest == known[uri].digest
    assert again.stamp != known[uri].stamp


def test_a_picture_replaced_by_one_of_the_same_size_is_another(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.jpg")
    known = dict(contents_of([uri]))
    write(tmp_path / "a.jpg", b"abd", AN_HOUR_AGO_NS + 1)
    assert digest(uri, known) != SHA256_OF_ABC


@pytest.mark.parametrize(("before_the_reading_s", "reads"), [(3, 0), (1, 1), (0, 1), (-3600, 1)])
def test_a_file_written_about_when_it_was_read_is_not_trusted(
    tmp_path: Path, opened: list[str], before_the_reading_s: int, reads: int
) -> None:
    uri = write(tmp_path / "a.jpg")
    content = dict(contents_of([uri]))[uri]
    known = {uri: ImageContent(content.digest, content.stamp, AN_HOUR_AGO_NS + before_the_reading_s * 10**9)}
    opened.clear()
    write(tmp_path / "a.jpg", b"abd")  # within one tick of the file system's clock
    changed = digest(uri, known) != SHA256_OF_ABC
    assert len(opened) == reads
    assert changed == bool(reads)


def test_a_picture_that_is_not_there_is_another_one_when_it_comes(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.jpg")
    missing = dict(contents_of([uri]))
    assert missing == {uri: ImageContent(UNREADABLE)}
    write(tmp_path / "a.jpg")
    known = dict(contents_of([uri], missing))
    assert known[uri].digest == SHA256_OF_ABC
    (tmp_path / "a.jpg").unlink()
    assert digest(uri, known) == UNREADABLE


@pytest.mark.parametrize("name", ["folder", "self", "zero\0byte", "x" * 300, "nowhere"])
def test_what_cannot_be_read_has_no_content(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "nowhere").symlink_to("gone.jpg")
    assert digest(str(tmp_path / name)) == UNREADABLE


def test_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    write(tmp_path / "b.jpg", b"abd")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    uri = str(tmp_path / "link.jpg")
    known = dict(contents_of([uri]))
    assert known[uri].digest == SHA256_OF_ABC
    (tmp_path / "link.jpg").unlink()
    (tmp_path / "link.jpg").symlink_to("b.jpg")
    os.utime(tmp_path / "b.jpg", ns=(AN_HOUR_AGO_NS + 1,) * 2)
    assert digest(uri, known) == digest(str(tmp_path / "b.jpg"))


def test_who_stops_listening_does_not_wait_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = [write(tmp_path / f"{n}.jpg") for n in range(9)]
    closing, opened = threading.Event(), []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            if cancel_futures:
                super().shutdown(wait=False, cancel_futures=True)
                closing.set()
            super().shutdown(wait=wait)

    def slowly(path: str, mode: str) -> Any:
        opened.append(path)
        assert path == uris[0] or closing.wait(60)
        return builtins.open(path, mode)

    monkeypatch.setattr(contents, "_AT_A_TIME", 1)
    monkeypatch.setattr(contents, "_READERS", 2)
    monkeypatch.setattr(contents, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(contents, "open", slowly, raising=False)
    answers = contents_of(uris)
    assert next(answers)[0] == uris[0]
    answers.close()  # type: ignore[attr-defined]
    assert set(opened) <= set(uris[:3])


# ----------------------------------------------------------------------------------------------------- drawn, in a bucket


def test_a_drawn_image_is_its_address_and_the_version_of_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    uris = ["shapes:train/1?size=64&seed=0", "shapes:train/2?size=64&seed=0"]
    before = {uri: content.digest for uri, content in contents_of(uris)}
    assert len({*before.values(), UNREADABLE}) == 3
    assert {uri: content.digest for uri, content in contents_of(uris)} == before
    monkeypatch.setattr(shapes, "DRAWING_VERSION", shapes.DRAWING_VERSION + 1)
    assert all(digest(uri) != before[uri] for uri in uris)


def put(uri: str, data: bytes = b"abc") -> str:
    fs, path = open_fs(uri)
    fs.pipe_file(path, data)
    return uri


def test_an_object_that_is_uploaded_anew_is_another(bucket: str) -> None:
    uri, other = put(f"{bucket}/again/a 100% #1.jpg"), put(f"{bucket}/again/b.jpg", b"abd")
    before = {u: content.digest for u, content in contents_of([uri, other])}
    assert len({*before.values(), UNREADABLE}) == 3
    put(uri, b"abx")  # of the same size
    after = {u: content.digest for u, content in contents_of([uri, other])}
    assert after[uri] not in (before[uri], UNREADABLE)
    assert after[other] == before[other]


def test_an_object_that_is_moved_is_the_same(bucket: str) -> None:
    assert digest(put(f"{bucket}/train/a.jpg")) == digest(put(f"{bucket}/test/b.jpg"))


def test_an_object_that_is_not_there_has_no_content(bucket: str) -> None:
    put(f"{bucket}/some/a.jpg")
    for uri in (f"{bucket}/some/b.jpg", f"{bucket}/none/b.jpg", f"{bucket}/som", f"{bucket}/some"):
        assert digest(uri) == UNREADABLE


def test_a_bucket_that_cannot_be_listed_is_an_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(open_fs(bucket)[0]), "_lsdir", refuse)
    with pytest.raises(DataError, match=rf"{bucket}/x: cannot list .*Access Denied"):
        digest(f"{bucket}/x/a.jpg")


@pytest.mark.parametrize("folders", [3, contents._FOLDERS + 1])
def test_folders_are_listed_and_no_request_is_made_for_an_image(
    bucket: str, folders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [
        put(f"{bucket}/{folders}/{n}/.{name}.jpg", f"{n} {name}".encode()) for n in range(folders) for name in "abc"
    ]
    other = put(join(bucket, "elsewhere/a.jpg"))
    requests = dict.fromkeys(("_lsdir", "_call_s3", "_info"), 0)  # a listing; all else about an object
    fs = type(open_fs(bucket)[0])
    for name in requests:
        monkeypatch.setattr(fs, name, counting(getattr(fs, name), requests))
    found = dict(contents_of([*uris, other]))
    assert set(found) == {*uris, other}
    assert len({content.digest for content in found.values()}) == len(uris) + 1
    assert UNREADABLE not in {content.digest for content in found.values()}
    assert requests["_lsdir"] == (folders + 1 if folders < contents._FOLDERS else 1)
    assert requests["_info"] == 0
    assert requests["_call_s3"] <= requests["_lsdir"]


def counting(method: Callable[..., Any], calls: dict[str, int]) -> Callable[..., Any]:
    def count(*args: Any, **kwargs: Any) -> Any:
        calls[method.__name__] += 1
        return method(*args, **kwargs)

    return count
