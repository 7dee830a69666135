import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from tests.support.s3_server import s3_server
from tests.support.web_server import web_server
from weaksam.config import SamConfig, Weights
from weaksam.errors import CheckpointError
from weaksam.io import downloads, weights
from weaksam.io.cache_folder import cached_path, default_cache_dir
from weaksam.io.weights import PUBLISHED, Published, WeightsFile, fetch_weights
from weaksam.sam import sam_weights

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a web server that serves ``tmp_path/site``, which holds ``w.pth``."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "w.pth").write_bytes(CONTENT)
    os.utime(folder / "w.pth", (10**9, 10**9))
    with web_server(folder) as server:
        yield server.uri


def kept(cache: Path) -> list[str]:
    """Names of the files in a cache, whole or not; what is remembered of them lies in a folder of its own."""
    return sorted(path.name for path in cache.iterdir() if path.is_file())


def test_a_local_file_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(CONTENT)
    for uri in (str(path), f"file://{path}"):
        found = fetch_weights(uri, cache_dir=tmp_path / "cache")
        assert (found.path, found.sha256, found.known) == (path, SHA256, False)
    assert not (tmp_path / "cache").exists()


def test_a_checksum_that_matches_makes_a_file_known(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(CONTENT)
    assert fetch_weights(str(path), sha256=SHA256.upper()).known


def test_an_empty_file_has_the_checksum_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    assert fetch_weights(str(tmp_path / "w.pth")).sha256 == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("uri", "sha256", "message"),
    [
        pytest.param("{tmp}/none.pth", "", "found nothing", id="missing"),
        pytest.param("{tmp}", "", "found a folder", id="folder"),
        pytest.param("{tmp}/w.pth", OTHER, f"expected SHA-256 {OTHER}, got {SHA256}", id="another file"),
        pytest.param("{tmp}/w.pth", "abc", "64 hex digits", id="not a checksum"),
        pytest.param("{tmp}/w.pth", "z" * 64, "64 hex digits", id="not hexadecimal"),
        pytest.param("nosuch://host/w.pth", "", "cannot fetch", id="unknown protocol"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, uri: str, sha256: str, message: str) -> None:
    (tmp_path / "w.pth").write_bytes(CONTENT)
    with pytest.raises(CheckpointError, match=message):
        fetch_weights(uri.format(tmp=tmp_path), sha256=sha256, cache_dir=tmp_path / "cache")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_an_address_is_fetched_once_and_reported(site: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    cache = tmp_path / "cache"
    found = fetch_weights(f"{site}/w.pth", cache_dir=cache, progress=lambda done, total: seen.append((done, total)))
    assert found.path == cached_path(f"{site}/w.pth", cache)
    assert found.path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    (tmp_path / "site" / "w.pth").unlink()
    assert fetch_weights(f"{site}/w.pth", cache_dir=cache) == found


def test_a_download_with_the_wrong_checksum_is_not_kept(site: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"w.pth: expected SHA-256 {OTHER}, got {SHA256}"):
        fetch_weights(f"{site}/w.pth", sha256=OTHER, cache_dir=tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


def test_a_missing_address_names_itself_and_leaves_nothing(site: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{site}/none.pth: cannot fetch"):
        fetch_weights(f"{site}/none.pth", cache_dir=tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


def test_a_file_damaged_in_the_cache_is_fetched_anew(site: str, tmp_path: Path) -> None:
    path = fetch_weights(f"{site}/w.pth", sha256=SHA256, cache_dir=tmp_path).path
    path.write_bytes(b"damaged")
    assert fetch_weights(f"{site}/w.pth", sha256=SHA256, cache_dir=tmp_path).path.read_bytes() == CONTENT


def test_the_same_name_at_two_addresses_is_kept_apart(tmp_path: Path) -> None:
    first, second = cached_path("https://a/w.pth?download=1", tmp_path), cached_path("https://b/w.pth", tmp_path)
    assert first != second
    assert first.name.endswith("-w.pth")


def test_of_many_at_once_one_fetches_and_all_get_the_whole_file(site: str, tmp_path: Path) -> None:
    reports: list[int] = []

    def fetch(n: int) -> WeightsFile:
        return fetch_weights(f"{site}/w.pth", cache_dir=tmp_path / "c", progress=lambda *_: reports.append(n))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(fetch, range(16)))
    assert len(set(reports)) == 1
    assert {f.sha256 for f in found} == {SHA256}
    assert kept(tmp_path / "c") == [found[0].path.name]


def test_the_published_checksum_is_expected_of_its_address(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(sha256: str) -> None:
        published = Published(uri=f"{site}/w.pth", size_bytes=len(CONTENT), sha256=sha256, note="")
        monkeypatch.setitem(weights.PUBLISHED, "vit_b", published)

    publish(SHA256[:8])
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "good"))
    assert sam_weights(SamConfig(name="vit_b")).known
    publish(OTHER[:8])
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "bad"))
    with pytest.raises(CheckpointError, match="expected SHA-256 00000000"):
        sam_weights(SamConfig(name="vit_b"))
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "own"))
    own = SamConfig(name="vit_b", weights=Weights(f"{site}/w.pth", SHA256))
    assert sam_weights(own).known


def test_published_checksums_are_hexadecimal_and_addresses_are_distinct() -> None:
    assert all(len(p.sha256) in (8, 64) and int(p.sha256, 16) for p in PUBLISHED.values())
    assert len({p.uri for p in PUBLISHED.values()}) == len(PUBLISHED)


def test_the_cache_moves_with_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "weights"
    monkeypatch.delenv("WEAKSAM_CACHE")
    assert default_cache_dir() == Path.home() / ".cache" / "weaksam" / "weights"


def test_a_bucket_is_fetched_from_and_its_mistakes_are_named(tmp_path: Path) -> None:
    with s3_server() as bucket:
        with fsspec.open(f"{bucket}/weights/w.pth", "wb") as file:
            file.write(CONTENT)
        found = fetch_weights(f"{bucket}/weights/w.pth", sha256=SHA256, cache_dir=tmp_path)
        assert found.path.read_bytes() == CONTENT
        with pytest.raises(CheckpointError, match=f"{bucket}/none.pth: cannot fetch"):
            fetch_weights(f"{bucket}/none.pth", cache_dir=tmp_path)
        with pytest.raises(CheckpointError, match="not kept"):
            fetch_weights(f"{bucket}/weights/w.pth", sha256=OTHER, cache_dir=tmp_path / "other")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_cannot_keep_a_download_is_told_from_a_fault_of_the_address(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Disk:
        def get_file(self, _: str, target: str, **__: object) -> None:
            Path(target).write_bytes(CONTENT[:10])
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(downloads, "_open", lambda uri, _: (Disk(), uri))
    with pytest.raises(CheckpointError, match=f"{tmp_path}/cache: cannot keep .*{os.strerror(number)}.*WEAKSAM_CACHE"):
        fetch_weights(f"{site}/w.pth", cache_dir=tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_made_is_told(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "home"))
    with pytest.raises(CheckpointError, match=r"home/weights: no folder .*Not a directory.*set WEAKSAM_CACHE"):
        fetch_weights(f"{site}/w.pth")
