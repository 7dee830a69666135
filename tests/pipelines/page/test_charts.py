"""Charts as SVG."""

import numpy as np
import pytest

from pipelines.page.charts import Curve, Line, bar, bins, histogram, loss_chart, recall_chart
from tests.support.page import NASTY, Page


@pytest.mark.parametrize("steps", [[], [1], [7], [1, 2]])
def test_short_curves_are_drawn(steps):
    chart = loss_chart(steps, [Line(label=NASTY, css_class='"><b>', losses=[0.0] * len(steps))], label=f'"{NASTY}')
    parsed = Page(chart)
    assert parsed.open == []
    assert not {"script", "b"} & set(parsed.tags)
    assert sum(rect.get("class") == "hit" for rect in parsed.of("rect")) == len(steps)
    assert len(parsed.of("circle")) == len(steps)  # every point of a short line has its sign


def test_the_columns_of_tooltips_fill_the_drawing():
    columns = Page(loss_chart([1, 2, 4], [Line(label="a", css_class="line-0", losses=[1, 2, 3])], label="a")).of("rect")
    # The drawing runs from 34 to 350: step 1 stands at 34 + 316 / 4 = 113, step 2 at 192, step 4 at 350.
    assert [float(column["x"]) for column in columns] == [34, 152.5, 271]
    assert sum(float(column["width"]) for column in columns) == pytest.approx(316)


def test_shares_are_drawn_side_by_side():
    drawn = Page(bar({"correct": 0.5, "part": 0.25}, tooltip="half")).of("rect")
    assert [(rect["class"], rect["x"], rect["width"]) for rect in drawn] == [
        ("correct", "0.0", "50.0"), ("part", "50.0", "25.0"),
    ]  # fmt: skip


def test_names_in_charts_and_pictures_are_escaped():
    chart = recall_chart([Curve(label=NASTY, css_class='"><b>', recall={0.5: 1.0})], label=f'"{NASTY}')
    assert "script" not in Page(chart).tags
    assert "b" not in Page(chart).tags


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], (0, 1, []), id="empty"),
        pytest.param([7], (7, 1, [1]), id="one"),
        pytest.param([3, 3, 5], (3, 1, [2, 0, 1]), id="gap"),
        pytest.param([0, 59], (0, 2, [1] + [0] * 28 + [1]), id="width-two"),
        pytest.param([7, 104], (5, 5, [1] + [0] * 18 + [1]), id="width-five"),
    ],
)
def test_bins_are_round_and_at_most_thirty(values, expected):
    assert bins(values) == expected


def test_every_value_falls_into_a_bin():
    values = np.random.default_rng(0).integers(0, 5000, 400).tolist()
    start, width, counts = bins(values)
    assert sum(counts) == 400
    assert len(counts) <= 30
    assert start <= min(values)
    assert start + width * len(counts) > max(values)


def test_charts_without_data_draw_their_axes():
    assert "recall, %" in recall_chart([], label="none")
    assert "images" in histogram([], label="none", x_name="boxes")
