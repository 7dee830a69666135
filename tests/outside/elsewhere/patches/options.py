"""Options of ``Patches``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from weaksam.config.clues import ClueNetworkConfig


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(ClueNetworkConfig):
    """How large the patches are."""

    implementation: ClassVar[str] = "elsewhere.patches.network:Patches"
    kinds: ClassVar[tuple[str, ...]] = ("coarse",)

    name: str = "patches"
    side: int = 8  # pixels
