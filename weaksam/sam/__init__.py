"""The Segment Anything model: whose it is, how it is prompted in batches, and the small one that ships.

This names the models and finds their files without torch, so that checksums can enter a stage's key before any model is
built; ``load.py`` builds one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from weaksam.config import SamConfig
from weaksam.errors import ConfigError
from weaksam.io.weights import PUBLISHED, Progress, WeightsFile, fetch_weights
from weaksam.registry import Registry

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

BUILTIN_SAM = Path(__file__).parent / "weights" / "small.safetensors"
# What builds each model with random weights. All are classes of the ``segment_anything`` package with other image encoders.
SAMS: Registry[Callable[[], Sam]] = Registry(
    "weaksam.sams",
    {
        "builtin": "weaksam.sam.small:build_small_sam",
        "vit_b": "segment_anything.build_sam:build_sam_vit_b",
        "vit_l": "segment_anything.build_sam:build_sam_vit_l",
        "vit_h": "segment_anything.build_sam:build_sam_vit_h",
    },
)


def sam_weights(
    config: SamConfig, *, cache_dir: str | os.PathLike[str] = "", progress: Progress | None = None
) -> WeightsFile:
    """Return the weights file that ``config`` means: its own, the built-in one, or the published one of the named model.

    Raises:
        CheckpointError: the file is missing, cannot be fetched, or fails its checksum.
        ConfigError: no weights are given for a model of which none are known.
    """
    uri = config.weights or (str(BUILTIN_SAM) if config.name == "builtin" else "")
    if not uri and config.name not in PUBLISHED:
        raise ConfigError(
            f"sam.weights: expected a file or an address for sam.name={config.name}, got nothing; give one"
        )
    return fetch_weights(
        uri or PUBLISHED[config.name].uri, sha256=config.sha256, cache_dir=cache_dir, progress=progress
    )
