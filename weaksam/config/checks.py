"""How every option's range is checked."""

from __future__ import annotations

from collections.abc import Sequence

from weaksam.errors import OptionError

_LONGEST_SHOWN = 200  # characters of a value that a message repeats


def shortened(text: str) -> str:
    """Return as much of a value's text as fits a message: people must still find what was expected in it."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} …"


def require(holds: bool, option: str, expected: str, got: object) -> None:
    """Raise OptionError, naming the option, what it takes and what came, unless ``holds``."""
    if not holds:
        raise OptionError(option, f"expected {expected}, got {shortened(repr(got))}")


def require_length(*, steps: int, epochs: int) -> None:
    """Raise OptionError unless one of both says how long a training is, and the other, which may be 0, is not negative."""
    require(steps >= 0, "steps", "0 or more", steps)
    require(epochs >= 0, "epochs", "0 or more", epochs)
    require(steps >= 1 or epochs >= 1, "steps", "steps or epochs of 1 or more", steps)


def require_milestones(milestones: Sequence[float], *, steps: int, epochs: int) -> None:
    """Raise OptionError unless each is a share of the training below 1, or a step (an epoch if ``steps`` is 0) within it."""
    length, unit = (steps, "steps") if steps else (epochs, "epochs")
    ok = all(0 < m < 1 or 1 <= m < length for m in milestones)
    require(ok, "milestones", f"shares in (0, 1), or {unit} below {unit}={length}", milestones)
