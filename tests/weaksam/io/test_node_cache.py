"""Files that processes of a machine share: made once, whole or not at all, and bounded."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weaksam.io.node_cache import cache_folder, ensure, trim, write_whole

DAY_S = 86_400.0

# Waits for a sign before it goes on to the end, or is killed in the middle.
MAKER = """
import sys, time
from pathlib import Path
from weaksam.io.node_cache import ensure

def make(file):
    file.write(b"half")
    file.flush()
    print("at work", flush=True)
    sys.stdin.readline()
    file.write(b" whole")

print(ensure(Path(sys.argv[1]), make), flush=True)
"""


def maker(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str], word: str = "") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if word:
        process.stdin.write(word)
        process.stdin.flush()
    return process.stdout.readline().strip()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def aged(path: Path, size: int, days: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path))
    assert cache_folder("images") == tmp_path / "images"
    monkeypatch.delenv("WEAKSAM_CACHE")
    assert cache_folder("images") == Path.home() / ".cache" / "weaksam" / "images"


def test_one_process_makes_a_file_and_the_other_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "of" / "all"
    with maker(path) as first, maker(path) as second:
        at_work, waiting = (first, second) if _is_at_work(first, second) is first else (second, first)
        assert not path.exists()
        assert said(at_work, "go on\n") == "True"
        assert said(waiting) == "False"  # nothing was asked of it
        waiting.communicate()
    assert path.read_bytes() == b"half whole"
    assert files(tmp_path) == ["of/all"]


def _is_at_work(*processes: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Return the process that has begun, once one has."""
    import select

    (stream, *_), _, _ = select.select([process.stdout for process in processes], [], [])
    (begun,) = [process for process in processes if process.stdout is stream]
    assert said(begun) == "at work"
    return begun


def test_what_a_killed_process_has_begun_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with maker(path) as killed:
        assert said(killed) == "at work"
        killed.kill()
        killed.communicate()
    assert files(tmp_path) == [".file.building"]
    with maker(path) as next_one:
        assert said(next_one) == "at work"
        assert said(next_one, "go on\n") == "True"
        next_one.communicate()
    assert path.read_bytes() == b"half whole"
    assert files(tmp_path) == ["file"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def make(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        ensure(tmp_path / "file", make)
    assert files(tmp_path) == []


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "file", b"one ", b"piece")
    write_whole(tmp_path / "deep" / "file", b"another")
    assert (tmp_path / "deep" / "file").read_bytes() == b"another"
    assert files(tmp_path) == ["deep/file"]


@pytest.mark.parametrize(
    ("limit", "spared_days", "left"),
    [
        pytest.param(100, 0, ["a/new", "old", "older"], id="room for all"),
        pytest.param(50, 0, ["a/new", "old"], id="the least recently used one goes first"),
        pytest.param(49, 0, ["a/new"], id="files go whole"),
        pytest.param(0, 0, [], id="no room"),
        pytest.param(0, 2.5, ["a/new", "old"], id="files in use stay"),
    ],
)
def test_the_least_recently_used_files_go_first(
    tmp_path: Path, limit: int, spared_days: float, left: list[str]
) -> None:
    for name, size, days in (("older", 20, 3), ("a/new", 30, 1), ("old", 20, 2)):
        aged(tmp_path / name, size, days)
    bytes_left = trim(tmp_path, limit, spare_used_after=time.time() - spared_days * DAY_S)
    assert files(tmp_path) == left
    assert bytes_left == sum((tmp_path / name).stat().st_size for name in left)


def test_what_nobody_uses_or_finishes_any_more_goes(tmp_path: Path) -> None:
    for name, days in (("month", 31), ("week", 7), (".dead.building", 2), (".living.building", 0.5)):
        aged(tmp_path / name, 10, days)
    trim(tmp_path, 1_000, spare_used_after=time.time())
    assert files(tmp_path) == [".living.building", "week"]
    trim(tmp_path, 0, spare_used_after=time.time())
    assert files(tmp_path) == [".living.building"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert trim(tmp_path / "nowhere", 0, spare_used_after=0) == 0
