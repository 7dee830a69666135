"""Numbers as people read them."""

import pytest

from pipelines.store.numbers import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (3599, "1 h 00 min"), (9000, "2 h 30 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
