"""Weights that change at their address: others are loaded, or it is said why not, and large files are read once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.s3_server import s3_server
from tests.support.web_server import WebServer, web_server
from weaksam.config import Weights, WeightsConfig
from weaksam.errors import CheckpointError
from weaksam.io import file_notes, node_cache, weights
from weaksam.io.cache_folder import cached_path, default_cache_dir
from weaksam.io.files import open_fs
from weaksam.io.weights import Published, fetch_weights, lacks, push_weights

OLD, NEW = b"old weights", b"new weights"  # of one size
LARGE = 16 * 2**20  # bytes, from which what is read is remembered
LONG_AGO_S = 1_000_000_000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lay(path: Path, content: bytes, changed_s: int = LONG_AGO_S, size: int = 0) -> Path:
    """Write over what lies at a path, last changed at some time; zeros fill it up to a size."""
    with path.open("wb") as file:
        file.write(content)
        file.truncate(max(size, len(content)))
    os.utime(path, (changed_s, changed_s))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))
    return default_cache_dir()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose SHA-256 was computed."""
    names: list[str] = []

    def counted(path: str | os.PathLike[str]) -> str:
        names.append(Path(path).name)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    monkeypatch.setattr(file_notes, "file_sha256", counted)
    monkeypatch.setattr(weights, "file_sha256", counted)
    return names


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock be so far ahead that every file on the disk is an old one."""
    now = time.time_ns
    monkeypatch.setattr(file_notes.time, "time_ns", lambda: now() + 100 * 10**9)


# --- others at the same address


@pytest.mark.parametrize("version", ["ETag", "Last-Modified", ""])
@pytest.mark.usefixtures("cache")
def test_overwritten_weights_of_a_web_server_are_fetched_again(tmp_path: Path, version: str) -> None:
    path = lay(tmp_path / "w.pth", OLD)
    with web_server(tmp_path, version) as server:
        uri = f"{server.uri}/w.pth"
        assert fetch_weights(uri).sha256 == sha256(OLD)
        server.asked.clear()
        assert fetch_weights(uri).sha256 == sha256(OLD)
        assert server.asked == (["HEAD"] if version else ["HEAD", "HEAD", "GET"])
        lay(path, NEW, LONG_AGO_S + 1)
        assert fetch_weights(uri).path.read_bytes() == NEW


@pytest.mark.usefixtures("cache")
def test_a_time_that_has_hardly_passed_names_no_version(tmp_path: Path) -> None:
    path, now = tmp_path / "w.pth", int(time.time()) + 1
    lay(path, OLD, now)
    with web_server(tmp_path) as server:
        assert fetch_weights(f"{server.uri}/w.pth").sha256 == sha256(OLD)
        lay(path, NEW, now)  # within the same second, as many bytes
        assert fetch_weights(f"{server.uri}/w.pth").sha256 == sha256(NEW)


@pytest.mark.usefixtures("cache")
def test_what_another_process_fetched_meanwhile_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path / "w.pth", OLD)
    started = time.time()
    with web_server(tmp_path, "") as server:
        first = fetch_weights(f"{server.uri}/w.pth")
        server.asked.clear()
        monkeypatch.setattr(weights.time, "time", lambda: started)
        assert fetch_weights(f"{server.uri}/w.pth") == first
        assert server.asked == []


@pytest.mark.usefixtures("cache")
def test_overwritten_weights_in_a_bucket_are_fetched_again() -> None:
    with s3_server() as bucket:
        fs, path = open_fs(f"{bucket}/w.pth")
        fs.pipe_file(path, OLD)
        first = fetch_weights(f"{bucket}/w.pth")
        changed_ns = first.path.stat().st_mtime_ns
        assert fetch_weights(f"{bucket}/w.pth") == first
        assert first.path.stat().st_mtime_ns == changed_ns
        fs.pipe_file(path, NEW)
        assert fetch_weights(f"{bucket}/w.pth").path.read_bytes() == NEW


@pytest.mark.parametrize("size", [0, LARGE])
@pytest.mark.usefixtures("cache", "later")
def test_a_local_file_that_looks_as_before_is_read_anew(tmp_path: Path, size: int) -> None:
    path = lay(tmp_path / "w.pth", OLD, size=size)
    first = fetch_weights(str(path)).sha256
    assert fetch_weights(str(path)).sha256 == first
    lay(path, NEW, size=size)  # the same size, time of modification and inode
    assert fetch_weights(str(path)).sha256 not in ("", first)


@pytest.mark.usefixtures("cache")
def test_what_was_fetched_before_versions_were_kept_is_fetched_again(tmp_path: Path) -> None:
    lay(tmp_path / "w.pth", NEW)
    with web_server(tmp_path, "ETag") as server:
        path = cached_path(f"{server.uri}/w.pth")
        path.parent.mkdir(parents=True)
        lay(path, OLD)
        assert fetch_weights(f"{server.uri}/w.pth").sha256 == sha256(NEW)


@pytest.mark.usefixtures("cache")
def test_a_file_damaged_in_the_cache_is_told_from_one_that_is_the_same(tmp_path: Path) -> None:
    lay(tmp_path / "w.pth", OLD)
    with web_server(tmp_path, "ETag") as server:
        lay(fetch_weights(f"{server.uri}/w.pth").path, b"damaged")
        assert fetch_weights(f"{server.uri}/w.pth").path.read_bytes() == OLD


@pytest.mark.usefixtures("cache")
def test_without_a_server_the_cached_file_is_used_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay(tmp_path / "w.pth", OLD)
    with web_server(tmp_path, "ETag") as server:
        first = fetch_weights(f"{server.uri}/w.pth")
        assert caplog.messages == []
    assert fetch_weights(f"{server.uri}/w.pth") == first
    (said,) = caplog.messages
    assert f"{server.uri}/w.pth: cannot ask whether these weights are still the same (Client" in said
    assert f"those in the cache are used: {first.path}, SHA-256 {sha256(OLD)}" in said
    with pytest.raises(CheckpointError, match=r"other\.pth: cannot fetch"):
        fetch_weights(f"{server.uri}/other.pth")


# --- one file for all processes of a run


@pytest.mark.parametrize("place", ["disk", "web"])
@pytest.mark.usefixtures("cache")
def test_weights_overwritten_since_they_were_seen_are_an_error(tmp_path: Path, place: str) -> None:
    path = lay(tmp_path / "w.pth", OLD)
    with web_server(tmp_path, "ETag") as server:
        uri = f"{server.uri}/w.pth" if place == "web" else str(path)
        seen = Weights(uri).as_seen()
        assert seen.fetch().path.read_bytes() == OLD
        lay(path, NEW)
        if place == "web":
            assert seen.fetch().path.read_bytes() == OLD  # this machine has what was seen
            lay(cached_path(uri), b"damaged")
        said = f"{uri}: expected SHA-256 {sha256(OLD)}, which this run began with, got {sha256(NEW)}: .* start the run again"
        with pytest.raises(CheckpointError, match=said):
            seen.fetch()


def test_a_machine_with_an_older_copy_fetches_what_was_seen(tmp_path: Path) -> None:
    path = lay(tmp_path / "w.pth", OLD)
    with web_server(tmp_path, "ETag") as server:
        places = [WeightsConfig(cache=str(tmp_path / node)) for node in ("driver", "node")]
        driver, node = (Weights(f"{server.uri}/w.pth").placed(place) for place in places)
        assert node.fetch().path.read_bytes() == OLD
        lay(path, NEW)
        on_node = driver.as_seen().placed(places[1]).fetch()
        assert on_node.path.parent == tmp_path / "node"
        assert on_node.path.read_bytes() == NEW


@pytest.mark.usefixtures("cache")
def test_a_server_is_not_asked_for_what_was_seen(tmp_path: Path) -> None:
    lay(tmp_path / "w.pth", OLD)
    with web_server(tmp_path, "ETag") as server:
        seen = Weights(f"{server.uri}/w.pth").as_seen()
        server.asked.clear()
        assert seen.fetch().known
        assert server.asked == []


def test_a_checksum_of_the_recipe_is_still_the_recipes(tmp_path: Path) -> None:
    path = lay(tmp_path / "w.pth", OLD)
    digest = sha256(OLD).upper()
    assert fetch_weights(str(path), sha256=digest, seen=digest).known
    seen = Weights(str(path), digest).as_seen()
    lay(path, NEW)
    with pytest.raises(CheckpointError, match="another or a damaged file; check the path"):
        seen.fetch()


# --- read once

COUNTED = """
import sys, time
from weaksam.io import file_notes, node_cache, weights
from weaksam.io.cache_folder import cached_path, default_cache_dir
read, now = file_notes.file_sha256, time.time_ns
def counted(path):
    with open(sys.argv[2], "a") as log:
        log.write("read\\n")
    return read(path)
weights.file_sha256 = file_notes.file_sha256 = counted
file_notes.time.time_ns = lambda: now() + 100 * 10**9
print(weights.fetch_weights(sys.argv[1]).sha256)
"""


@pytest.mark.usefixtures("cache")
def test_three_processes_read_a_large_file_once(tmp_path: Path) -> None:
    path, log = lay(tmp_path / "w.pth", OLD, size=LARGE), tmp_path / "log"
    command = [sys.executable, "-c", COUNTED, str(path), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=PATIENCE_S)[0].strip() for process in processes]
    assert said == [sha256(OLD + bytes(LARGE - len(OLD)))] * 3
    assert log.read_text() == "read\n"


@pytest.mark.usefixtures("cache")
def test_a_download_is_read_once(tmp_path: Path, read: list[str]) -> None:
    lay(tmp_path / "w.pth", OLD)
    with web_server(tmp_path, "ETag") as server:
        for _ in range(3):
            fetch_weights(f"{server.uri}/w.pth", seen=sha256(OLD))
    assert len(read) == 1


@pytest.mark.usefixtures("cache")
def test_a_file_that_was_written_just_now_is_not_trusted_to_stay(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(lay(tmp_path / "w.pth", OLD, size=LARGE))
    for _ in range(2):
        fetch_weights(path)
    assert len(read) == 2
    now = time.time_ns()
    monkeypatch.setattr(file_notes.time, "time_ns", lambda: now + 100 * 10**9)
    for _ in range(2):
        fetch_weights(path)
    assert len(read) == 3


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("text", ["", "{", "[]", "\0\0", '{"fetched": 3}', '{"fetched": {"by": "another version"}}'])
def test_a_damaged_note_is_made_again(tmp_path: Path, cache: Path, read: list[str], text: str) -> None:
    path = lay(tmp_path / "w.pth", OLD, size=LARGE)
    first = fetch_weights(str(path))
    (note,) = (cache / ".notes").iterdir()
    assert json.loads(note.read_text())["path"] == str(path)
    note.write_text(text)
    assert fetch_weights(str(path)) == first == fetch_weights(str(path))
    assert len(read) == 2


# --- a mirror


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[WebServer]:
    """The web server of weights that are published as ``w.pth``; the cache is empty."""
    assert not cache.exists()
    (tmp_path / "site").mkdir()
    lay(tmp_path / "site" / "w.pth", OLD)
    with web_server(tmp_path / "site") as server:
        entry = Published(uri=f"{server.uri}/w.pth", size_bytes=len(OLD), sha256=sha256(OLD), note="")
        monkeypatch.setitem(weights.PUBLISHED, "vit_b", entry)
        yield server


def test_published_weights_come_from_the_mirror_that_has_them(
    tmp_path: Path, published: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"{published.uri}/w.pth"
    with s3_server() as bucket:
        source = lay(tmp_path / "fetched", OLD)
        for mirror in (f"{bucket}/mirror", str(tmp_path / "mirror")):
            assert push_weights(source, uri, mirror) == f"{mirror}/w.pth"
            found = fetch_weights(uri, mirror=mirror)
            assert (found.path, found.known) == (cached_path(uri), True)
            assert found.path.read_bytes() == OLD
            found.path.unlink()
    assert published.asked == []
    assert caplog.messages == []
    assert [path.name for path in (tmp_path / "mirror").iterdir()] == ["w.pth"]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        pytest.param(None, "w.pth: cannot fetch the weights (FileNotFoundError", id="nothing"),
        pytest.param(NEW, f"w.pth: expected SHA-256 {sha256(OLD)}, got {sha256(NEW)}", id="another file"),
        pytest.param(OLD[:5], f"w.pth: expected SHA-256 {sha256(OLD)}, got {sha256(OLD[:5])}", id="half of it"),
    ],
)
def test_what_a_mirror_does_not_have_is_fetched_where_it_is_published_and_said(
    tmp_path: Path, published: WebServer, caplog: pytest.LogCaptureFixture, there: bytes | None, said: str
) -> None:
    mirror, uri = tmp_path / "mirror", f"{published.uri}/w.pth"
    mirror.mkdir()
    if there is not None:
        lay(mirror / "w.pth", there)
    assert fetch_weights(uri, mirror=str(mirror)).path.read_bytes() == OLD
    (message,) = caplog.messages
    assert message.startswith(f"{mirror}/{said}")
    assert message.endswith(f"; the weights are fetched from {uri} instead")


def test_what_neither_the_mirror_nor_the_publisher_has_names_both(tmp_path: Path, published: WebServer) -> None:
    (published.folder / "w.pth").unlink()
    uri = f"{published.uri}/w.pth"
    said = rf"{uri}: cannot fetch .*; nor are they in the mirror: {tmp_path}/mirror/w.pth: cannot fetch"
    with pytest.raises(CheckpointError, match=said):
        fetch_weights(uri, mirror=str(tmp_path / "mirror"))


def test_a_driver_may_ask_whether_a_mirror_has_published_weights(tmp_path: Path, published: WebServer) -> None:
    uri = f"{published.uri}/w.pth"
    assert lacks(str(tmp_path / "mirror"), uri).startswith(f"{tmp_path}/mirror/w.pth: FileNotFoundError")
    push_weights(lay(tmp_path / "fetched", OLD), uri, str(tmp_path / "mirror"))
    assert lacks(str(tmp_path / "mirror"), uri) == ""
    assert lacks("", uri) == lacks(str(tmp_path / "mirror"), "https://mine/own.pth") == ""


def test_a_mirror_is_asked_for_published_weights_alone(tmp_path: Path, published: WebServer) -> None:
    lay(published.folder / "own.pth", OLD)
    lay(tmp_path / "own.pth", NEW)
    own = fetch_weights(f"{published.uri}/own.pth", mirror=str(tmp_path))
    assert own.path.read_bytes() == OLD


@pytest.mark.parametrize("mirror", ["{tmp}/file/mirror", "s3://no-such-bucket/mirror"])
def test_a_mirror_that_cannot_be_written_is_named(tmp_path: Path, mirror: str) -> None:
    source = lay(tmp_path / "file", OLD)
    mirror = mirror.format(tmp=tmp_path)
    with s3_server(), pytest.raises(CheckpointError, match=f"{mirror}/w.pth: cannot write the weights there"):
        push_weights(source, "https://somewhere/w.pth", mirror)


# --- the cache folder


def test_a_home_that_cannot_be_written_gives_way_to_a_temporary_folder_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lay(tmp_path / "w.pth", OLD)
    lay(tmp_path / "home", b"a file")
    (tmp_path / "temporary").mkdir()
    monkeypatch.delenv("WEAKSAM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(node_cache.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    node_cache._temporary_folder.cache_clear()
    with web_server(tmp_path, "ETag") as server:
        found = [fetch_weights(f"{server.uri}/w.pth") for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].path.is_relative_to(tmp_path / "temporary" / f"weaksam-{os.getuid()}")
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}/home/.cache/weaksam: cannot be written to; what belongs there is kept in ")
    assert "set WEAKSAM_CACHE" in said


def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / f"weaksam-{os.getuid()}").symlink_to(tmp_path / "others")
    lay(tmp_path / "home", b"a file")
    monkeypatch.delenv("WEAKSAM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(node_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    node_cache._temporary_folder.cache_clear()
    with pytest.raises(
        CheckpointError, match=rf"no folder for fetched weights .*weaksam-{os.getuid()} is not mine.*set WEAKSAM"
    ):
        cached_path("https://somewhere/w.pth")


def test_a_cache_that_can_only_be_read_serves_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "w.pth", OLD)
    monkeypatch.setattr(file_notes, "_open", lambda _: None)
    with web_server(tmp_path) as server:
        uri = f"{server.uri}/w.pth"
        lay(cached_path(uri, tmp_path), OLD)
        assert fetch_weights(uri, seen=sha256(OLD), cache_dir=tmp_path).path == cached_path(uri, tmp_path)
        assert server.asked == []
