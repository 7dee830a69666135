"""Tables of measurements in Markdown, and their places in documents: between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column names what the others measure."""
    widths = [max(len(line[n]) for line in (head, *lines)) for n in range(len(head))]
    rows = [
        " | ".join([name.ljust(widths[0]), *(word.rjust(width) for word, width in zip(words, widths[1:], strict=True))])
        for name, *words in (head, *lines)
    ]
    rule = "-|-".join("-" * width for width in widths)
    return "\n".join(f"| {row} |" for row in (rows[0], rule, *rows[1:]))


def write_between_marks(document: Path, name: str, table: str) -> None:
    """Put a table in its place in a document."""
    text, mark = document.read_text(encoding="utf-8"), f"<!-- {name} -->"
    begin, end = text.index(mark) + len(mark), text.index(f"<!-- /{name} -->")
    document.write_text(f"{text[:begin]}\n{table}\n{text[end:]}", encoding="utf-8")
