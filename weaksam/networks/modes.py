"""Training and evaluation mode of networks, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Let a network be in training or evaluation mode in the body; then it is in the mode again that it was in."""
    before = network.training
    network.train(training)
    try:
        yield
    finally:
        network.train(before)
