"""What ``weaksam doctor`` says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: what was looked at, how it is, what was found and what to do about it."""

    name: str
    state: State
    detail: str
    remedy: str = ""
