"""Numbers as people read them."""

import pytest

from pipelines.store.numbers import duration, loss_figure


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (3599, "1 h 00 min"), (9000, "2 h 30 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("loss", "figure"),
    [
        (12.3456, "12.346"),
        (0.1, "0.100"),
        (0.01234, "0.0123"),
        (0.00031459, "0.000315"),
        (-0.0456, "-0.0456"),
        (0.0, "0.000"),
    ],
)
def test_a_small_loss_keeps_its_digits(loss: float, figure: str) -> None:
    assert loss_figure(loss) == figure
