"""CLIP's tokens: open_clip's tokenizer and vocabulary, which come with its package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

START, END = 49406, 49407  # of a text


def tokens(text: str) -> Sequence[int]:
    """Return the numbers of a text's tokens, without start and end; whatever its case."""
    numbers: list[int] = _tokenizer().encode(text)
    return numbers


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
