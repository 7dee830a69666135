"""The streams that people read: they show what their encoding can, and nobody need read them to the end.

A command that only shows something ends when nobody reads on (``weaksam status RUN | head -1``), as other filters do. One
that works goes on and says so on standard error.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from contextlib import suppress
from typing import Any

from rich.console import Console

EXIT_UNREAD = 141  # as shells tell the end of a filter by SIGPIPE: 128 + 13

_HANDLER = "weaksam.like"
_LIKE = {
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "·": "-",
    "•": "*",
    "×": "x",
    "±": "+-",
    "✓": "ok",
    "→": "->",
    "←": "<-",
    "►": ">",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "“": '"',
    "”": '"',
    "„": '"',
    "’": "'",
    "‘": "'",
    "│": "|",
    "┃": "|",
    "║": "|",
}
_WIDTHS = range(10, 10_000)  # columns that a table can be shown in
_HORIZONTAL = "─━═╌╍┄┅┈┉╴╶╸╺╼╾"

_working = False  # whether the command does more than to show something


def open_streams() -> None:
    """Make standard output and standard error fit for ``main``: see this module."""
    global _working
    _working = False
    codecs.register_error(_HANDLER, _like)
    for descriptor in (0, 1, 2):
        _occupy(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _Stream(stream))


def correct_width() -> None:
    """Let consoles see for themselves how wide they are if ``COLUMNS`` is no width: some pseudo-terminals set it to 0."""
    columns = os.environ.get("COLUMNS", "")
    if columns and not (columns.isdecimal() and len(columns) < 6 and int(columns) in _WIDTHS):
        del os.environ["COLUMNS"]


def go_on_unread() -> None:
    """Say that this command works: it is not to end because nobody reads what it says."""
    global _working
    _working = True


def close_streams(last_words: str = "") -> None:
    """Let out what was said, then the last words where ``say`` would say them, and nothing that libraries still say."""
    heard = {sys.stderr, sys.stdout} if _working and _is_file_of_its_own(sys.stdout) else {sys.stderr}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Stream):
            stream.flush()
            kept = os.dup(stream.fileno())
            os.dup2(nowhere, stream.fileno())  # from here on threads of libraries speak to nobody
            if last_words and stream in heard:
                with suppress(OSError):
                    os.write(kept, f"{last_words}\n".encode(stream.encoding, _HANDLER))
            os.close(kept)
    os.close(nowhere)


def say(line: str) -> None:
    """Say a line on standard error, as it is. Of a command that works, also in a log that takes standard output alone."""
    _print(line, stderr=True)
    if _working and _is_file_of_its_own(sys.stdout):
        _print(line)  # where the headings are to which it belongs


class _Stream(io.TextIOWrapper):
    """Standard output or error, undisturbed by the end of whoever reads it.

    Errors are caught here and not in the raw stream below: a signal that came between its write and its return would have
    the buffer write the same text again.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        stream.flush()
        raw = io.FileIO(stream.fileno(), "w", closefd=False)
        line_buffering = stream.line_buffering
        super().__init__(io.BufferedWriter(raw), stream.encoding, _HANDLER, line_buffering=line_buffering)

    def write(self, text: str) -> int:
        """See ``io.TextIOBase``."""
        try:
            return super().write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        """See ``io.IOBase``."""
        try:
            super().flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # where what is left in the buffer goes
        os.close(nowhere)
        if self.fileno() == 2:
            return
        if not isinstance(error, BrokenPipeError):
            error.filename = "standard output"
            raise error
        if not _working:
            raise SystemExit(EXIT_UNREAD)
        _print("nobody reads standard output any more; the work goes on", stderr=True)


def _occupy(descriptor: int) -> None:
    """Open the null device in the place of a closed stream, which the next file that is opened would take otherwise."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def _print(line: str, *, stderr: bool = False) -> None:
    Console(stderr=stderr, soft_wrap=True).print(line, markup=False, emoji=False, highlight=False)


def _like(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks by something alike, or else by its number, so that no name is lost."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = "".join(map(_alike, error.object[error.start : error.end]))
    try:
        found.encode(error.encoding)
    except UnicodeEncodeError:
        found = found.encode("ascii", "backslashreplace").decode("ascii")
    return found, error.end


def _alike(character: str) -> str:
    if character in _LIKE:
        return _LIKE[character]
    if character in _HORIZONTAL:
        return "-"
    name = unicodedata.name(character, "")
    return "+" if name.startswith("BOX DRAWINGS") else "*" if name.startswith("BRAILLE") else character


def _is_file_of_its_own(stream: Any) -> bool:
    """Whether a stream goes elsewhere than to a terminal or to where standard error goes."""
    try:
        here, error = os.fstat(stream.fileno()), os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or a test's
        return False
    return not stream.isatty() and (here.st_dev, here.st_ino) != (error.st_dev, error.st_ino)
