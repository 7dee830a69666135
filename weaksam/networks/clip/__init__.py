"""CLIP's towers and what is read off them: class activation maps and the affinity of patches."""

from __future__ import annotations

from dataclasses import replace

from weaksam.config import ClipConfig
from weaksam.io.weights import PUBLISHED

NAME = "clip_vit_b_16"  # of the published weights


def with_weights_named(config: ClipConfig) -> ClipConfig:
    """Return the same options with the published weights named where none are given."""
    return config if config.weights else replace(config, weights=replace(config.weights, uri=PUBLISHED[NAME].uri))
