"""Backbones that several families use, and where the weights of the one that ships lie."""

from __future__ import annotations

from pathlib import Path

BUILTIN_STEM = Path(__file__).parent / "weights" / "small_stem.safetensors"
