"""Numbers as people read them and as JSON holds them."""

from __future__ import annotations

import math


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as per cent with one decimal; a dash for null."""
    return "–" if share is None else f"{100 * share:.1f}"


def loss_figure(loss: float) -> str:
    """Return a loss with three decimals; with three significant digits where decimals would show fewer of them."""
    return f"{loss:.3g}" if 0 < abs(loss) < 0.1 else f"{loss:.3f}"


def known(value: float) -> float | None:
    """Return a number as JSON holds it: null for NaN."""
    return None if math.isnan(value) else value


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    )
