"""CLIP's tokens: open_clip's tokenizer and vocabulary, which come with its package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from weaksam.errors import ConfigError

START, END = 49406, 49407  # of a text
SIZE = 49408  # of the whole vocabulary


class Vocabulary:
    """The tokens that a CLIP has learnt: all of them, or some, which are then numbered by their order among these.

    Args:
        known: numbers in the whole vocabulary; ``START`` and ``END`` are among them.
    """

    def __init__(self, known: Sequence[int] = range(SIZE)) -> None:
        self.known = known
        self._number = {token: number for number, token in enumerate(known)}
        self.start = self._number[START]
        self.end = self._number[END]

    def __len__(self) -> int:
        return len(self.known)

    def tokens(self, text: str) -> list[int]:
        """Return the numbers of a text's tokens, without start and end; whatever its case.

        Raises:
            ConfigError: a word of which not all tokens are known.
        """
        found: list[int] = []
        for word in text.split():
            numbers = [self._number.get(token) for token in all_tokens(word)]
            own = [number for number in numbers if number is not None]
            if len(own) < len(numbers):
                raise ConfigError(
                    f"{word!r}: this CLIP, which has learnt {len(self):,} tokens, does not know the word; take another name, "
                    "or a CLIP that knows it (clip.weights)"
                )
            found += own
        return found


def all_tokens(text: str) -> list[int]:
    """Return the numbers in the whole vocabulary of a text's tokens, without start and end."""
    numbers: list[int] = _tokenizer().encode(text)
    return numbers


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
