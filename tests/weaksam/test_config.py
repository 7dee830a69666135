"""What options refuse, where a class has no test file of its own."""

from __future__ import annotations

import pytest

from weaksam.config import DinoConfig, MaskQueriesConfig, MilConfig, RetrainConfig, SegmenterConfig, WeakTrConfig
from weaksam.errors import ConfigError


@pytest.mark.parametrize("config", [MilConfig, RetrainConfig, SegmenterConfig])
@pytest.mark.parametrize(
    ("steps", "epochs", "message"),
    [
        (-1, 2, "steps: expected 0 or more, got -1"),
        (3, -2, "epochs: expected 0 or more, got -2"),
        (0, 0, "steps: expected steps or epochs of 1 or more, got 0"),
    ],
)
def test_a_training_has_a_length(
    config: type[MilConfig | RetrainConfig | SegmenterConfig], steps: int, epochs: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(steps=steps, epochs=epochs)
    assert config(steps=0, epochs=100).epochs == config(steps=100, epochs=0).steps == 100


@pytest.mark.parametrize("config", [DinoConfig, MaskQueriesConfig, WeakTrConfig])
@pytest.mark.parametrize("heads", [0, -2])
def test_attention_has_heads(config: type[DinoConfig | MaskQueriesConfig | WeakTrConfig], heads: int) -> None:
    with pytest.raises(ConfigError, match=f"heads: expected 1 or more, got {heads}"):
        config(heads=heads)
