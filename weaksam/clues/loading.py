"""Build a network of ``CLUES`` for training, write it, read it, and make a clue source of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from weaksam.clues import CLUES
from weaksam.clues.base import ClueNetwork, ClueSource, MakeSource
from weaksam.clues.cam import MultiScaleCam
from weaksam.clues.published import weaktr_from_published
from weaksam.config import ClueNetworkConfig, CluesConfig, NoCluesConfig, Weights
from weaksam.errors import CheckpointError, ConfigError
from weaksam.io.state_dicts import described, described_bytes, load_strictly, read_state_dict
from weaksam.registry import load

METADATA_KEY = "classifier"  # of the metadata of our own files; the value is JSON

# The published COCO model has a slot per category id (slot = id - 1); these ids name no class (method 0.2).
COCO_SLOTS = 90
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


class Classifier(NamedTuple):
    """A network with its weights and what its outputs stand for; no names for published files, which hold none."""

    network: ClueNetwork
    class_names: tuple[str, ...]


def build_classifier(config: ClueNetworkConfig, num_classes: int) -> ClueNetwork:
    """Build a network for training: random, with the weights that ``config.init`` names on top.

    Raises:
        ConfigError: sizes that do not go together.
        CheckpointError: the initial weights are missing or of another network.
    """
    network: ClueNetwork = load(config.implementation)(config, num_classes)
    init = config.init
    if init:
        network.init_from(read_state_dict(init.fetch().path).tensors, init.uri)
    return network


def classifier_to_bytes(network: ClueNetwork, class_names: Sequence[str]) -> bytes:
    """Return one safetensors file with the weights, and in its metadata what rebuilds the network."""
    description = {
        "architecture": network.config.name,
        "config": {name: value for name, value in vars(network.config).items() if not isinstance(value, Weights)},
        "class_names": list(class_names),
    }
    return described_bytes(network.state_dict(), METADATA_KEY, description)


def load_classifier(path: Path) -> Classifier:
    """Read our own classifier file or a published WeakTr checkpoint, on the CPU.

    Raises:
        CheckpointError: not such a file, or its keys do not fit, naming them.
    """
    state, metadata = read_state_dict(path)
    description = described(metadata, METADATA_KEY, str(path))
    if not description:
        return Classifier(weaktr_from_published(state, str(path)), ())
    try:
        names = tuple(description["class_names"])
        config = CLUES[description["architecture"]](**description["config"])
        if not isinstance(config, ClueNetworkConfig):
            raise TypeError("a clue source that is not trained")
        if (depth := getattr(config, "depth", 0)) > len(state):  # before so many blocks are made
            raise ValueError(f"{depth} blocks in {len(state)} tensors")
        network: ClueNetwork = load(config.implementation)(config, len(names))
        load_strictly(network, state, where=description["architecture"])
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: expected a classifier of this version of weaksam, got {description.get('architecture')!r} that does "
            f"not fit it: {str(error)[:300]!a}; train it again"
        ) from error
    return Classifier(network, names)


def load_clues(
    config: CluesConfig,
    *,
    class_names: Sequence[str] = (),
    class_slots: Sequence[int] = (),
    kinds: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> ClueSource:
    """Return the clue source that ``config`` chooses: a trained network with multi-scale inference, or one made as it is.

    Args:
        config: options of the inference, and the weights.
        class_names: the data set's, in its order; empty = the classifier's own.
        class_slots: for each of ``class_names`` the classifier's own class number; empty = by name for our own files; for
            published files in order, or by COCO's category ids for 80 names and 90 slots.
        kinds: kinds of maps that are wanted, to spare the others; empty = all that the network has.
        device: where the network runs and the maps lie.

    Raises:
        CheckpointError: the weights are missing or of another network.
        ConfigError: the network does not know a class of the data set, has no such maps or fewer layers than asked for, the
            weights are of another kind than ``config.source``, or that is none.
    """
    if isinstance(config.source, NoCluesConfig):
        raise ConfigError(
            "source: expected one that computes activation maps, got none; choose another one, or prompt with a grid alone"
        )
    if not config.source.trained:
        make: MakeSource = load(config.source.implementation)
        return make(config, class_names=class_names, kinds=tuple(kinds) or config.source.kinds, device=device)
    network, known = load_classifier(config.weights.fetch().path)
    if network.config.name != config.source.name:
        raise ConfigError(
            f"weights: expected those of {config.source.name}, but {config.weights} holds a {type(network).__name__}"
        )
    names = tuple(class_names) or known or tuple(f"class {slot}" for slot in range(network.num_classes))
    return MultiScaleCam(
        network.to(device),
        class_names=names,
        class_slots=tuple(class_slots) or _slots(names, known, network.num_classes, str(config.weights)),
        kinds=tuple(kinds) or network.kinds,
        config=config.cam,
    )


def _slots(names: tuple[str, ...], known: tuple[str, ...], num_classes: int, where: str) -> tuple[int, ...]:
    if known:
        if missing := [name for name in names if name not in known]:
            raise ConfigError(
                f"weights: {where} knows the classes {', '.join(known)}; the data set also has {', '.join(missing)}; "
                "train a classifier on this data set, or give its images without labels"
            )
        return tuple(known.index(name) for name in names)
    if len(names) == num_classes:
        return tuple(range(num_classes))
    if num_classes == COCO_SLOTS and len(names) == COCO_SLOTS - len(COCO_UNUSED_IDS):
        return tuple(slot for slot in range(COCO_SLOTS) if slot + 1 not in COCO_UNUSED_IDS)
    raise ConfigError(
        f"weights: {where} has {num_classes} classes without names, the data set has {len(names)}; choose weights "
        "for this data set, or train a classifier on it"
    )
