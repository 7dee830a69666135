"""How every option's range is checked."""

from __future__ import annotations

from weaksam.errors import ConfigError


def require(holds: bool, where: str, expected: str, got: object) -> None:
    """Raise ConfigError, naming the option, what it takes and what came, unless ``holds``."""
    if not holds:
        raise ConfigError(f"{where}: expected {expected}, got {got!r}")
