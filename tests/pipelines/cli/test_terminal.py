from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import weaksam

ROOT = Path(weaksam.__file__).parents[1]
FULL = "/dev/full"
OPENED = "import sys\nfrom pipelines.cli import terminal\nterminal.open_streams()\n"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run code with the streams opened, in a process of its own whose output is kept as bytes."""
    return subprocess.run(
        [sys.executable, "-c", OPENED + code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
    )


def read_one_line(code: str) -> tuple[int, bytes, bytes]:
    """Run code whose standard output is closed once a line was read; returns exit code, that line and standard error."""
    with subprocess.Popen(
        [sys.executable, "-c", OPENED + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    return process.returncode, line, err


SHOWN = {
    # encoding: what is printed of a line that has everything
    "ascii": b"a - b ... 3 +-1 -> \\xe9 \\u65e5 +-|\n",
    "latin-1": b"a \xb7 b ... 3 \xb11 -> \xe9 \\u65e5 +-|\n",
    "utf-8": "a · b … 3 ±1 → é 日 ┌─│\n".encode(),
}


@pytest.mark.parametrize("encoding", SHOWN)
def test_a_stream_shows_what_its_encoding_can_and_loses_no_name(encoding: str) -> None:
    done = python('print("a · b … 3 ±1 → é 日 ┌─│")', PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, SHOWN[encoding], b"")


def test_names_that_are_no_unicode_are_shown_too() -> None:
    assert python('print("photo\\udcff.jpg")', PYTHONIOENCODING="utf-8").stdout == b"photo\\udcff.jpg\n"


def test_rich_draws_tables_of_ascii_there() -> None:
    code = "from rich.table import Table\nfrom rich.console import Console\nt = Table('a')\nt.add_row('1')\nConsole().print(t)"
    done = python(code, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert b"\\u" not in done.stdout


@pytest.mark.parametrize("columns", ["0", "1", "-80", "²", "9" * 12])
def test_what_is_no_width_is_not_taken_for_one(columns: str) -> None:
    code = "terminal.correct_width()\nfrom rich.console import Console\nprint(Console().width)"
    assert python(code, COLUMNS=columns).stdout == b"80\n"
    assert python(code, COLUMNS="40").stdout == b"40\n"


def test_whoever_only_shows_something_ends_as_a_filter_when_nobody_reads_on() -> None:
    code = "for n in range(10**6):\n    print(n)"
    assert read_one_line(code) == (141, b"0\n", b"")


def test_whoever_works_goes_on_and_says_so_once() -> None:
    code = (
        "terminal.go_on_unread()\n"
        "for n in range(10**5):\n    print(n)\nsys.stdout.flush()\nprint('later')\nsys.stdout.flush()\n"
        "print('done', file=sys.stderr)"
    )
    code, line, err = read_one_line(code)  # type: ignore[assignment]
    assert (code, line) == (0, b"0\n")
    assert err.splitlines() == [b"nobody reads standard output any more; the work goes on", b"done"]


def test_nobody_need_read_standard_error_either() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "print('x', file=sys.stderr)\nsys.stderr.flush()\nprint('whole')"
    done = subprocess.run(
        [sys.executable, "-c", OPENED + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=writing,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"whole\n")


@pytest.mark.skipif(not os.path.exists(FULL), reason="only Linux has it")
def test_a_log_on_a_full_disk_is_named() -> None:
    code = (
        "from pipelines.store.explain import explain\n"
        "try:\n    print('x', flush=True)\nexcept OSError as error:\n    terminal.say(f'error: {explain(error)}')"
    )
    with open(FULL, "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", OPENED + code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 0
    assert done.stderr.startswith(b"error: standard output: no space left on this disk")
    assert done.stderr.count(b"\n") == 1


def test_closed_streams_harm_no_file(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'file')!r}, 'w').write('content')\nimport os\nos.write(1, b'stray')"
    subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", OPENED + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert (tmp_path / "file").read_text() == "content"


def test_an_error_stands_where_the_headings_stand(tmp_path: Path) -> None:
    """In a log of standard output alone, too; but never twice in one place."""
    code = "terminal.go_on_unread()\nprint('propose', flush=True)\nterminal.say('error: full')"
    log = tmp_path / "log"
    for err, said in ((subprocess.PIPE, b"error: full\n"), (subprocess.STDOUT, None)):
        with log.open("wb") as out:
            done = subprocess.run(
                [sys.executable, "-c", OPENED + code],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=out,
                stderr=err,
                check=True,
            )
        assert log.read_text() == "propose\nerror: full\n"
        assert done.stderr == said


def test_last_words_are_last_whatever_threads_still_say(tmp_path: Path) -> None:
    """As Ray's do, of the tasks that an interrupt took from it."""
    code = (
        "import threading, time\n"
        "def speak():\n    while True:\n        print('noise', flush=True)\n"
        "threading.Thread(target=speak, daemon=True).start()\n"
        "time.sleep(0.05)\nterminal.close_streams('error: :key: interrupted')\ntime.sleep(0.05)\nimport os\nos._exit(7)"
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", OPENED + code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert done.returncode == 7
    said = log.read_text().splitlines()
    assert said.count("error: :key: interrupted") == 1
    assert said[-1] == "error: :key: interrupted"


def test_last_words_stand_where_the_headings_stand() -> None:
    done = python("terminal.go_on_unread()\nprint('propose')\nterminal.close_streams('error: full')\nprint('late')")
    assert (done.stdout, done.stderr) == (b"propose\nerror: full\n", b"error: full\n")
