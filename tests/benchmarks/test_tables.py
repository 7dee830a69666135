"""Tables of measurements, and their places in documents."""

from pathlib import Path

from benchmarks.tables import markdown, write_between_marks


def test_a_table_s_columns_are_as_wide_as_their_widest_words() -> None:
    assert markdown(["at", "kills"], [["propose", "4"]]).splitlines() == [
        "| at      | kills |",
        "| --------|------ |",
        "| propose |     4 |",
    ]


def test_a_table_stands_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "RESULTS.md"
    document.write_text("before\n<!-- kills -->\nold\n<!-- /kills -->\nafter\n")
    write_between_marks(document, "kills", "| new |")
    assert document.read_text() == "before\n<!-- kills -->\n| new |\n<!-- /kills -->\nafter\n"
