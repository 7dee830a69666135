"""Tables on consoles of any width: every figure and every word of every heading stands there whole."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from pipelines.analyse import noise as analyse_noise
from pipelines.analyse import prompts as analyse_prompts
from pipelines.analyse import similarity as analyse_similarity
from pipelines.cli.voice import ConsoleVoice
from pipelines.engine.voice import Kind, TextTable, Tone, Toned
from pipelines.evaluate import detections as evaluate_detections
from pipelines.evaluate import proposals as evaluate_proposals
from pipelines.evaluate import pseudo_labels as pseudo

THRESHOLDS = (0.5, 0.75, 0.9)
NARROW = (40, 80)


def printed(table: TextTable, width: int, *, soft_wrap: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, soft_wrap=soft_wrap)
    ConsoleVoice(console).table(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line.rstrip()) for line in text.splitlines() if line != table.title) <= width
    return text


def recall_table(*names: str) -> tuple[TextTable, list[str]]:
    """The table of recall of these rows, and its figures, all of them different."""
    figures = iter(range(101, 999))
    rows = []
    for name in names:
        recall = {way: {f"{t:g}": next(figures) / 1000 for t in THRESHOLDS} for way in ("one_to_one", "many_to_one")}
        rows.append({"name": name, "sources": [name], "points": next(figures), "boxes": next(figures), **recall})
    measured: dict[str, Any] = {"images": 7, "objects": 12, "cut": 0, "left_out": 0, "rows": rows}
    count = len(names)
    expected = [f"{n / 10:.1f}" for k in range(count) for n in range(101 + 8 * k, 107 + 8 * k)]
    expected += [f"{n:.1f}" for k in range(count) for n in range(107 + 8 * k, 109 + 8 * k)]
    return evaluate_proposals.text_table("val", measured, THRESHOLDS), expected


@pytest.mark.parametrize("width", NARROW)
@pytest.mark.parametrize("names", [["grid"], ["grid", "fine", "coarse", "cross", "selective-search", "whole-image"]])
def test_recall_keeps_all_its_numbers(names: list[str], width: int) -> None:
    table, figures = recall_table(*names)
    text = printed(table, width)
    assert sorted(re.findall(r"\d+\.\d\b(?!\d)(?<!R@0\.5)(?<!R@0\.9)", text)) == sorted(figures)
    assert "…" not in text


def test_recall_fits_beside_each_other_at_80_columns_with_whole_headings() -> None:
    table, _ = recall_table("grid", "fine", "selective-search")
    lines = [line.split() for line in printed(table, 80).splitlines()]
    assert lines[1] == ["R@0.5", "R@0.75", "R@0.9"]
    assert lines[2] == ["source", "points", "boxes", "R@0.5", "R@0.75", "R@0.9", "m:1", "m:1", "m:1"]
    assert [len(line) for line in lines[3:]] == [9, 9, 9]


def test_a_table_that_is_split_repeats_the_names_of_its_rows() -> None:
    table, _ = recall_table("grid", "selective-search")
    text = printed(table, 40)
    assert text.count("selective-search") == len(re.findall("^source ", text, re.MULTILINE)) == 3


def rows_of_detections() -> dict[str, Any]:
    keys = ("ap50_eleven_point", "ap50_area", "coco_ap", "coco_ap75", "corloc", "part")
    rows = [
        {"name": name, **{key: (10 * n + m + 1) / 100 for m, key in enumerate(keys)}}
        for n, name in enumerate(("detector", "whole image", "random proposal"))
    ]
    return {"images": 3, "objects": 5, "detections": 2.0, "classification_map": 0.5, "rows": rows}


def prompts_analysis() -> dict[str, Any]:
    recall = {"0.5": 0.822, "0.75": 0.617, "0.9": 0.316}
    random = {"points": 18.2, "boxes": 11.0, "recall": recall, "spread": {"0.5": 0.137, "0.75": 0.103, "0.9": 0.123}}
    fine = {"name": "fine", "sources": ["grid", "fine"], "points": 18.2, "boxes": 11.2, "recall": recall}
    return {
        "split": "train",
        "images": 5,
        "seeds": [0, 1, 2],
        "rows": [{**fine, "random": random, "dense_grid": random}],
    }


def noise_analysis() -> dict[str, Any]:
    bins = [{"count": 1000 + n, "error_rate": {"0.7": n / 100}} for n in range(analyse_noise.BINS)]
    return {"regions": 10000, "losses": {"cls": {"bins": bins}}}


SIMILARITY = {
    "split": "train",
    "images": ["a", "b"],
    "rows": [{"name": "grid + fine + coarse", "proposals": 212.5, "values": {}, "mean": 0.512, "spread": 0.223}],
}
PSEUDO: Mapping[str, Any] = {
    "images": 3, "objects": 5, "boxes": 2.5, "empty": 1,
    "rows": [{"iou": 0.5, "precision": 0.111, "recall": 0.222, "mean_precision": 0.333, "mean_recall": 0.444}],
}  # fmt: skip
TABLES = {
    "detections": (evaluate_detections.text_table("test", rows_of_detections()), ["11.0", "26.0", "random proposal"]),
    "pseudo labels": (pseudo.text_table("train", PSEUDO), ["11.1", "22.2", "33.3", "44.4"]),
    "prompts": (analyse_prompts.text_table(prompts_analysis(), THRESHOLDS), ["82.2 ±13.7", "61.7 ±10.3", "31.6 ±12.3"]),
    "noise": (analyse_noise.text_table(noise_analysis(), "cls"), ["1,009", "9.0", "0.9 to 1.0"]),
    "similarity": (analyse_similarity.text_table(SIMILARITY), ["212.5", "0.512", "0.223"]),
}


@pytest.mark.parametrize("soft_wrap", [True, False])
@pytest.mark.parametrize("width", [30, *NARROW])
@pytest.mark.parametrize("name", TABLES)
def test_no_table_loses_a_figure(name: str, width: int, soft_wrap: bool) -> None:
    table, figures = TABLES[name]
    text = printed(table, width, soft_wrap=soft_wrap)
    assert [figure for figure in figures if figure not in text] == []
    assert "…" not in text
    words = {word for column in table.columns for word in column.heading.split()}
    assert words <= set(text.split())


@pytest.mark.parametrize("width", [20, *NARROW, 200])
def test_texts_are_wrapped_and_nothing_of_them_is_lost(width: int) -> None:
    table = TextTable()
    table.add_columns(Kind.NAME, "instance", "key")
    table.add_columns(Kind.FIGURE, "seconds")
    table.add_columns(Kind.TEXT, "detail")
    table.add_row("propose", "0123456789ab", "1,235.6", "/data/with/a/long/name/that/no/space/breaks/picture.jpg")
    text = printed(table, width)
    assert "/data/with/a/long/name/that/no/space/breaks/picture.jpg" in re.sub(r"[ \n]", "", text)
    assert "1,235.6" in text


def test_markup_in_cells_is_text_and_tones_are_styles() -> None:
    table = TextTable("[bold]title")
    table.add_columns(Kind.NAME, "[red]", "state")
    table.add_row("[/]", Toned("done", Tone.GOOD))
    assert [line.split() for line in printed(table, 80).splitlines()] == [
        ["[bold]title"], ["[red]", "state"], ["[/]", "done"],
    ]  # fmt: skip
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", _environ={})
    ConsoleVoice(console).table(table)
    assert "\x1b[32mdone\x1b[0m" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_table_without_rows_or_title_shows_its_headings() -> None:
    table = TextTable()
    table.add_columns(Kind.NAME, "source")
    table.add_columns(Kind.FIGURE, "points")
    assert printed(table, 40).split() == ["source", "points"]


def test_a_row_of_another_length_is_refused() -> None:
    table = TextTable()
    table.add_columns(Kind.NAME, "a", "b")
    with pytest.raises(ValueError, match="expected 2 cells, got 1"):
        table.add_row("x")


def test_without_objects_there_is_no_column_of_dashes() -> None:
    recall: dict[str, dict[str, None]] = {
        way: dict.fromkeys(("0.5", "0.75", "0.9")) for way in ("one_to_one", "many_to_one")
    }
    row = {"name": "grid", "sources": ["grid"], "points": 4.0, "boxes": 1.0, **recall}
    measured = {"images": 2, "objects": None, "cut": None, "left_out": None, "rows": [row]}
    text = printed(evaluate_proposals.text_table("all", measured, THRESHOLDS), 80)
    assert "all: 2 images, no true boxes, so no recall" in text
    assert "–" not in text
    assert "R@" not in text
