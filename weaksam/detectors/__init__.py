"""Weakly-supervised detectors: proposals and image-level labels in, classified and scored boxes out.

A detector of ``DETECTORS`` is built and trained (``build_detector``), written with ``detector_to_bytes`` and read by
``load_detector``; ``views.py`` feeds it, ``test_time.py`` runs it over images. To add one: a file with a ``WeakDetector``, a
line in ``DETECTORS``, a config of that name in ``MilConfig``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from safetensors.torch import save

from weaksam.clues.checkpoint import read_state_dict
from weaksam.clues.small_stem import load_builtin_classifier
from weaksam.config import MilConfig, require
from weaksam.detectors.bodies import PixelFormat
from weaksam.detectors.bodies import pixel_format as pixel_format_of
from weaksam.detectors.checkpoint import ADVERSARY, description, read_checkpoint
from weaksam.detectors.mist import Mist
from weaksam.detectors.oicr import Oicr
from weaksam.detectors.wsod import WeakDetector
from weaksam.errors import CheckpointError
from weaksam.sam.model import load_strictly
from weaksam.weights import PUBLISHED, fetch_weights

__all__ = ["DETECTORS", "WeakDetector", "build_detector", "detector_to_bytes", "load_detector", "pixel_format"]

DETECTORS: dict[str, type[WeakDetector]] = {
    "mist": Mist,
    "oicr": Oicr,
}


def pixel_format(config: MilConfig) -> PixelFormat:
    """Return the input that a detector's weights want, without building it, for the processes that read images."""
    return pixel_format_of(config.backbone, DETECTORS[config.detector].vgg)


def build_detector(config: MilConfig, num_classes: int) -> WeakDetector:
    """Build a detector for training: random, with the backbone weights that ``config.init`` names on top.

    Raises:
        ConfigError: options that do not go together.
        CheckpointError: the weights are missing, of another network, or known to want another input than the backbone's.
    """
    detector = DETECTORS[config.detector](config, num_classes)
    if config.init == "builtin":
        require(config.backbone == "small", "mil.init", "'builtin' with mil.backbone=small alone", config.backbone)
        detector.body.init_from(load_builtin_classifier().state_dict(), "mil.init: builtin")
    elif config.init:
        file = fetch_weights(config.init)
        known = next((name for name, p in PUBLISHED.items() if file.sha256.startswith(p.sha256)), config.backbone)
        if known != config.backbone:
            raise CheckpointError(
                f"mil.init: expected weights of {config.backbone}, but by its checksum {config.init} is {known}; set "
                "mil.backbone to what the weights are of"
            )
        state, _ = read_state_dict(file.path)
        detector.body.init_from(state, f"mil.init: {config.init} as {config.backbone}")
    return detector


def detector_to_bytes(detector: WeakDetector, class_names: Sequence[str]) -> bytes:
    """Return one safetensors file with the weights, the adversary's too, and in its metadata what they are."""
    name = next(name for name, kind in DETECTORS.items() if type(detector) is kind)
    metadata = description(name, detector.config.backbone, list(class_names), asdict(detector.config))
    return save({key: value.detach().cpu().contiguous() for key, value in detector.state_dict().items()}, metadata)


def load_detector(
    path_or_file: str | Path | BinaryIO, config: MilConfig, class_names: Sequence[str] = ()
) -> tuple[WeakDetector, tuple[str, ...]]:
    """Read a detector, ours or a published MIST or OICR, on the CPU in evaluation mode.

    The adversary is only there to train on: it gets the file's weights if the file has any and ``config`` wants one.

    Args:
        path_or_file: a local file, or one that is open for reading bytes.
        config: its detector and backbone must be the file's; all else is taken from it and not from the file.
        class_names: what a published file, which names none, stands for; not looked at for our own.

    Returns:
        The detector, and its class names: the file's own, else the given ones.

    Raises:
        CheckpointError: the file is of another detector or backbone, its keys do not fit (they are named), or
            ``class_names`` are of another number than its classes.
    """
    if isinstance(path_or_file, str | Path):
        with open(path_or_file, "rb") as file:
            return load_detector(file, config, class_names)
    where = str(getattr(path_or_file, "name", "detector file"))
    found = read_checkpoint(path_or_file, where)
    if (found.detector, found.backbone) != (config.detector, config.backbone):
        raise CheckpointError(
            f"{where}: expected {config.detector} on {config.backbone}, got {found.detector} on {found.backbone}; set "
            f"mil.detector={found.detector} and mil.backbone={found.backbone}, or give other weights"
        )
    names = found.class_names or tuple(class_names)
    if names and len(names) != found.num_classes:
        raise CheckpointError(f"{where}: expected {len(names)} classes ({', '.join(names)}), got {found.num_classes}")
    detector = DETECTORS[config.detector](config, found.num_classes)
    fresh = {key: value for key, value in detector.state_dict().items() if key.startswith(ADVERSARY)}
    wanted = {key: value for key, value in found.state.items() if fresh or not key.startswith(ADVERSARY)}
    load_strictly(detector, fresh | wanted, where=where)
    return detector.eval(), names
