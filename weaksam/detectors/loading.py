"""Build a detector of either family for training, write it, and read it: one file, whose metadata says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from weaksam.config import MilConfig, RetrainConfig
from weaksam.detectors.mil.base import WeakDetector
from weaksam.detectors.mil.checkpoint import ADVERSARY, METADATA_KEY, Checkpoint, read_checkpoint
from weaksam.detectors.retrained.base import RetrainedDetector
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import described_bytes, load_strictly, other_options
from weaksam.networks.backbone_weights import start_from
from weaksam.networks.pixels import PixelFormat
from weaksam.networks.roi_backbones import pixel_format as pixel_format_of
from weaksam.registry import load
from weaksam.structures import IMAGE_LABELS


def pixel_format(config: MilConfig) -> PixelFormat:
    """Return the input that a detector's weights want, without building it, for the processes that read images."""
    return pixel_format_of(config.backbone, load(config.detector.implementation).vgg)


def build_detector(config: MilConfig, num_classes: int) -> WeakDetector:
    """Build a detector for training: random, with the backbone weights that ``config.init`` names on top.

    Raises:
        ConfigError: options that do not go together.
        CheckpointError: the weights are missing, of another network, or known to want another input than the backbone's.
    """
    detector = _implemented(config, num_classes)
    start_from(detector.body, config.init, config.backbone)
    return detector


def build_retrained(config: RetrainConfig, num_classes: int) -> RetrainedDetector:
    """Build a detector for retraining: random, with the backbone weights that ``config.init`` names on top.

    Raises:
        ConfigError: options that do not go together.
        CheckpointError: the weights are missing, of another network, or of a detector, which has seen true boxes.
    """
    detector = _implemented_retrained(config, num_classes)
    start_from(detector.backbone, config.init, config.backbone)
    return detector


def detector_to_bytes(
    detector: WeakDetector | RetrainedDetector, class_names: Sequence[str], supervision: str = IMAGE_LABELS
) -> bytes:
    """Return one safetensors file with the weights, the adversary's too, and in its metadata what they are."""
    config = detector.config
    description = {
        "detector": config.detector.name,
        "backbone": config.backbone,
        "class_names": list(class_names),
        "supervision": supervision,
        "config": asdict(config),
    }
    return described_bytes(detector.state_dict(), METADATA_KEY, description)


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
    found, where = _read(path_or_file, config)
    names = found.class_names or tuple(class_names)
    if names and len(names) != found.num_classes:
        raise CheckpointError(f"{where}: expected {len(names)} classes ({', '.join(names)}), got {found.num_classes}")
    detector = _implemented(config, found.num_classes)
    fresh = {key: value for key, value in detector.state_dict().items() if key.startswith(ADVERSARY)}
    wanted = {key: value for key, value in found.state.items() if fresh or not key.startswith(ADVERSARY)}
    load_strictly(detector, fresh | wanted, where=where, cause=_cause(found, config))
    return detector.eval(), names


def load_retrained(
    path_or_file: str | Path | BinaryIO, config: RetrainConfig
) -> tuple[RetrainedDetector, tuple[str, ...], str]:
    """Read a retrained detector on the CPU in evaluation mode.

    Args:
        path_or_file: a local file, or one that is open for reading bytes.
        config: its detector and backbone must be the file's; all else is taken from it and not from the file.

    Returns:
        The detector, its class names and what it owes its boxes to: ``IMAGE_LABELS``, ``BOXES`` or ``MASKS`` of ``structures``.

    Raises:
        CheckpointError: the file is of another detector or backbone, or its keys do not fit (they are named).
    """
    if isinstance(path_or_file, str | Path):
        with open(path_or_file, "rb") as file:
            return load_retrained(file, config)
    found, where = _read(path_or_file, config)
    detector = _implemented_retrained(config, found.num_classes)
    detector.loss_history = None
    load_strictly(detector, found.state, where=where, cause=_cause(found, config))
    return detector.eval(), found.class_names, found.supervision


def class_names_in(path: str | Path) -> tuple[str, ...]:
    """Return the classes of the detector in a local file; () of a published one, which names none.

    Raises:
        CheckpointError: it is no detector.
    """
    with open(path, "rb") as file:
        return read_checkpoint(file, str(path)).class_names


def _implemented(config: MilConfig, num_classes: int) -> WeakDetector:
    detector: WeakDetector = load(config.detector.implementation)(config, num_classes)
    return detector


def _implemented_retrained(config: RetrainConfig, num_classes: int) -> RetrainedDetector:
    detector: RetrainedDetector = load(config.detector.implementation)(config, num_classes)
    return detector


def _cause(found: Checkpoint, config: MilConfig | RetrainConfig) -> str:
    """Say which of the detector's options are others than the file's, should its keys not fit."""
    return other_options(found.options.get("detector", {}), asdict(config.detector), "detector")


def _read(file: BinaryIO, config: MilConfig | RetrainConfig) -> tuple[Checkpoint, str]:
    """Return what a file holds, if it is what ``config`` says, and its name."""
    where = str(getattr(file, "name", "detector file"))
    found = read_checkpoint(file, where)
    wanted = config.detector.name
    if (found.detector, found.backbone) != (wanted, config.backbone):
        raise CheckpointError(
            f"{where}: expected {wanted} on {config.backbone}, got {found.detector} on {found.backbone}; set "
            f"detector={found.detector} and backbone={found.backbone}, or give other weights"
        )
    return found, where
