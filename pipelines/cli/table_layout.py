"""Tables on a console lose nothing where it is narrow: no figure and no heading is ever cut.

Where the columns do not fit beside each other, a table of figures is printed as several below each other, each with the names
of its rows; where not even that fits, or long texts would have hardly any room, every cell gets a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.cli.tones import to_text
from pipelines.engine.voice import Kind, TextTable

_GAP = 2  # between columns
_LEAST_TEXT = 20  # characters a line that a column of texts is worth having with


class TableLayout:
    """A table as rich shows it."""

    def __init__(self, table: TextTable) -> None:
        self.title = table.title
        self.columns = table.columns
        self.rows = [[to_text(cell) for cell in row] for row in table.rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Lay the table out for a console's width."""
        if self.title:
            yield Text(self.title, style="italic")
        blocks = self._blocks(options.max_width)
        for n, block in enumerate(blocks):
            if n:
                yield ""
            yield self._beside(block, options.max_width)
        if not blocks:
            for n, row in enumerate(self.rows):
                if n:
                    yield ""
                yield self._below(row, options.max_width)

    def _blocks(self, most: int) -> list[list[int]]:
        """Return the columns, by index, of each table below the other; none where cells must stand below each other."""
        needed = [self._needed(n) for n in range(len(self.columns))]
        every = list(range(len(self.columns)))
        if _width(needed) <= most:
            return [every]
        kinds = [column.kind for column in self.columns]
        names = [n for n in every if kinds[n] is Kind.NAME]
        if Kind.TEXT in kinds or not names:
            return []
        blocks: list[list[int]] = [list(names)]
        for n in (n for n in every if n not in names):
            if len(blocks[-1]) > len(names) and _width([needed[m] for m in (*blocks[-1], n)]) > most:
                blocks.append(list(names))
            blocks[-1].append(n)
        fits = all(_width([needed[n] for n in block]) <= most for block in blocks)
        return blocks if fits else []

    def _needed(self, n: int) -> int:
        """Return the width below which a column would lose something, or a text its sense."""
        column = self.columns[n]
        heading = max((cell_len(word) for word in column.heading.split()), default=0)
        cells = self._widest_cell(n)
        return max(heading, min(cells, _LEAST_TEXT) if column.kind is Kind.TEXT else cells)

    def _widest_cell(self, n: int) -> int:
        lines = (line for row in self.rows for line in row[n].plain.splitlines())
        return max(map(cell_len, lines), default=0)

    def _beside(self, block: Sequence[int], most: int) -> Table:
        """Lay out columns beside each other."""
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
        widths = self._widths(block, most)
        with_texts = any(self.columns[n].kind is Kind.TEXT for n in block)
        for n in block:
            table.add_column(
                Text(self.columns[n].heading),
                justify="right" if self.columns[n].kind is Kind.FIGURE else "left",
                vertical="top" if with_texts else "bottom",
                width=widths[n],
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(*(row[n] for n in block))
        return table

    def _widths(self, block: Sequence[int], most: int) -> dict[int, int]:
        """Give every column what it needs: headings a line if all have room for it, texts what is left, the shortest first."""
        widths = {n: self._needed(n) for n in block}
        one_line = {n: max(width, cell_len(self.columns[n].heading)) for n, width in widths.items()}
        if _width(list(one_line.values())) <= most:
            widths = one_line
        wanted = {n: max(widths[n], self._widest_cell(n)) for n in block}
        texts = sorted((n for n in block if wanted[n] > widths[n]), key=lambda n: wanted[n])
        left = most - _width(list(widths.values()))
        for count, n in enumerate(texts):
            more = min(wanted[n] - widths[n], left // (len(texts) - count))
            widths[n] += more
            left -= more
        return widths

    def _below(self, row: Sequence[Text], most: int) -> Table:
        """Lay out a row's cells below each other, each beside its heading; empty ones are left out."""
        headings = max(cell_len(column.heading) for column in self.columns)
        table = Table(box=None, show_header=False, padding=(0, _GAP, 0, 0), pad_edge=False)
        table.add_column(width=min(headings, most // 2), overflow="fold")
        table.add_column(overflow="fold")
        for column, cell in zip(self.columns, row, strict=True):
            if cell.plain:
                table.add_row(Text(column.heading, style="bold"), cell)
        return table


def _width(columns: Sequence[int]) -> int:
    return sum(columns) + _GAP * (len(columns) - 1)
