"""The axes of charts."""

import pytest

from pipelines.page.axes import round_numbers


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        pytest.param(0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0], id="nothing"),
        pytest.param(0.2, 0.93, [0, 0.2, 0.4, 0.6, 0.8, 1.0], id="from-zero"),
        pytest.param(3, 7, [0, 2, 4, 6, 8], id="two"),
        pytest.param(-1, 4, [-1, 0, 1, 2, 3, 4], id="negative"),
        pytest.param(0, 1200, [0, 500, 1000, 1500], id="five-hundred"),
        pytest.param(-3, -2, [-3, -2, -1, 0], id="below-zero"),
    ],
)
def test_axes_have_round_numbers(low, high, expected):
    assert round_numbers(low, high) == pytest.approx(expected)
