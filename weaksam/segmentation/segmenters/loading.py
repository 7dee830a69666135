"""Build a segmenter for training, write it, and read it: one file, whose metadata says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from weaksam.config import SegmenterConfig
from weaksam.errors import CheckpointError, DataError
from weaksam.io.state_dicts import described, described_bytes, load_strictly, other_options, read_state_dict
from weaksam.label_maps import MOST_CLASSES
from weaksam.networks.backbone_weights import start_from
from weaksam.registry import load
from weaksam.segmentation.segmenters.base import Segmenter

METADATA_KEY = "segmenter"  # of the file's metadata; the value is JSON


class LoadedSegmenter(NamedTuple):
    """What a file holds."""

    segmenter: Segmenter  # on the CPU, in evaluation mode
    class_names: tuple[str, ...]
    supervision: str  # what it owes its maps to: ``IMAGE_LABELS``, ``BOXES`` or ``MASKS`` of ``structures``


def build_segmenter(config: SegmenterConfig, num_classes: int) -> Segmenter:
    """Build a segmenter for training: random, with the backbone weights that ``config.init`` names on top.

    Raises:
        ConfigError: options that do not go together.
        DataError: more classes than a label map has numbers for.
        CheckpointError: the weights are missing, of another network, or have seen true boxes or masks.
    """
    segmenter = _implemented(config, num_classes)
    start_from(segmenter.backbone, config.init, config.backbone)
    return segmenter


def segmenter_to_bytes(segmenter: Segmenter, class_names: Sequence[str], supervision: str) -> bytes:
    """Return one safetensors file with the weights, and in its metadata what they are."""
    config = segmenter.config
    values = {
        "network": config.network.name,
        "backbone": config.backbone,
        "class_names": list(class_names),
        "supervision": supervision,
        "config": asdict(config),
    }
    return described_bytes(segmenter.state_dict(), METADATA_KEY, values)


def load_segmenter(path: Path, config: SegmenterConfig) -> LoadedSegmenter:
    """Read a segmenter.

    Args:
        path: a local file.
        config: its network and backbone must be the file's; all else is taken from it and not from the file.

    Raises:
        CheckpointError: it is no segmenter of ours, is of another network or backbone, or its keys do not fit (they are named).
    """
    state, metadata = read_state_dict(path)
    found = _Described.of(metadata, str(path))
    if (found.network, found.backbone) != (config.network.name, config.backbone):
        raise CheckpointError(
            f"{path}: expected {config.network.name} on {config.backbone}, got {found.network} on {found.backbone}; set "
            f"network={found.network} and backbone={found.backbone}, or give other weights"
        )
    segmenter = _implemented(config, len(found.class_names))
    cause = other_options(found.options, asdict(config.network), "network")
    load_strictly(segmenter, state, where=str(path), cause=cause)
    return LoadedSegmenter(segmenter.eval(), found.class_names, found.supervision)


def described_in(path: Path) -> tuple[tuple[str, ...], str]:
    """Return the classes and the supervision of the segmenter in a local file; raise CheckpointError if it is none of ours."""
    found = _Described.of(read_state_dict(path).metadata, str(path))
    return found.class_names, found.supervision


class _Described(NamedTuple):
    """What a file says of itself."""

    network: str
    backbone: str
    class_names: tuple[str, ...]
    supervision: str
    options: Mapping[str, Any]  # of the network; {} where the file does not say

    @classmethod
    def of(cls, metadata: dict[str, str], where: str) -> _Described:
        said = described(metadata, METADATA_KEY, where)
        words = [said.get(key) for key in ("network", "backbone", "supervision")]
        names = said.get("class_names")
        if not isinstance(names, list) or not all(isinstance(word, str) for word in (*words, *names)):
            raise CheckpointError(
                f"{where}: expected a segmenter that weaksam trained, got other weights; give the file that "
                "train-segmenter wrote"
            )
        network, backbone, supervision = map(str, words)
        config = said.get("config")
        options = config.get("network") if isinstance(config, dict) else {}
        return cls(network, backbone, tuple(names), supervision, options if isinstance(options, dict) else {})


def _implemented(config: SegmenterConfig, num_classes: int) -> Segmenter:
    if num_classes > MOST_CLASSES:
        raise DataError(
            f"expected at most {MOST_CLASSES} classes, whose numbers a label map has room for, got {num_classes}"
        )
    segmenter: Segmenter = load(config.network.implementation)(config, num_classes)
    return segmenter
