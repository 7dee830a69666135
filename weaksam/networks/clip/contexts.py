"""Learnt contexts of prompts: free vectors beside the fixed tokens of a class's name (Zhou et al., CoOp; FMA method 2).

    name at the end     start, context, name, ".", end
    name in front       start, name, context, ".", end
    without a name      start, context, ".", end

A name's tokens are those of its text; only the context learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from weaksam.config.clip import PromptLayoutConfig
from weaksam.errors import ConfigError


class Tokenizer(Protocol):
    """How texts become numbers of tokens."""

    start: int  # number of the token that begins a text
    end: int  # of that which ends it

    def tokens(self, text: str) -> Sequence[int]:
        """Return the numbers of a text's tokens, without start and end."""


class Prompts(nn.Module):
    """The prompts of G names, whose contexts learn.

    Args:
        names: of the classes, then of the background; "" for a prompt that is learnt alone. An underscore counts as a space.
        tokenizer: of the texts.
        embedding: ``[vocabulary, Dt]`` of tokens.
        layout: see there.

    Raises:
        ConfigError: several prompts without a name that share a context, and would all be the same.
    """

    context: nn.Parameter  # [length, Dt], or [G, length, Dt]
    last: Tensor  # int64 [G], the position of the end of each prompt

    def __init__(
        self, names: Sequence[str], tokenizer: Tokenizer, embedding: Tensor, layout: PromptLayoutConfig
    ) -> None:
        super().__init__()
        nameless = sum(not name for name in names)
        if nameless > 1 and not layout.specific:
            raise ConfigError(
                f"specific: expected true with {nameless} prompts without a name, which would all be the same"
            )
        self.layout = layout
        shape = (layout.length, embedding.shape[1])
        self.context = nn.Parameter(
            torch.empty((len(names), *shape) if layout.specific else shape).normal_(std=layout.std)
        )
        texts = [list(tokenizer.tokens(name.replace("_", " "))) if name else [] for name in names]
        stop = list(tokenizer.tokens("."))
        last = [1 + layout.length + len(text) + len(stop) for text in texts]
        self.register_buffer("last", torch.tensor(last), persistent=False)
        # Tokens of each prompt, with those of the end where its context stands and behind its own end.
        rows = torch.full((len(names), max(last) + 1), tokenizer.end)
        at = torch.zeros(len(names), layout.length, dtype=torch.int64)
        for row, text, place in zip(rows, texts, at, strict=True):
            first = 1 + (len(text) if layout.name == "front" else 0)
            place[:] = torch.arange(first, first + layout.length)
            fixed = torch.ones(len(row), dtype=torch.bool)
            fixed[place] = False
            given = [tokenizer.start, *text, *stop, tokenizer.end]
            row[fixed.nonzero()[: len(given), 0]] = torch.tensor(given)
        self.register_buffer("_fixed", embedding.detach()[rows], persistent=False)
        self.register_buffer("_at", at, persistent=False)

    def forward(self) -> Tensor:
        """Return the prompts ``[G, T, Dt]``, as long as the longest of them; ``last`` says where each ends."""
        fixed, at = self._fixed, self._at
        assert isinstance(fixed, Tensor)
        assert isinstance(at, Tensor)
        context = self.context if self.layout.specific else self.context.expand(len(at), -1, -1)
        return fixed.scatter(1, at[..., None].expand_as(context), context)
