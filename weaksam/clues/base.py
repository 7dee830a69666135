"""What gives clues (``ClueSource``), and a classifier that is trained on image-level labels to give them (``ClueNetwork``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weaksam.config import ClueNetworkConfig, CluesConfig
from weaksam.structures import ClassMaps


class ClueSource(Protocol):
    """What prompts are made from: class logits and activation maps of one image."""

    class_names: tuple[str, ...]  # class_index counts through these
    kinds: tuple[str, ...]  # of "fine", "coarse", "cross": the keys of the maps

    def logits(self, image: NDArray[np.uint8]) -> Tensor:
        """Return class logits float32 ``[C]`` of the upright RGB image ``[H, W, 3]``."""

    def class_maps(self, image: NDArray[np.uint8], class_index: Sequence[int]) -> Iterator[ClassMaps]:
        """Yield the maps of each asked class over the image, one class after the other; nothing for no class."""


class MakeSource(Protocol):
    """What makes a clue source that is not trained: the ``implementation`` of its options."""

    def __call__(
        self, config: CluesConfig, *, class_names: Sequence[str], kinds: Sequence[str], device: str | torch.device
    ) -> ClueSource:
        """Make the source.

        Args:
            config: its own options are ``config.source``.
            class_names: the data set's, in its order.
            kinds: kinds of maps that are wanted.
            device: where it computes.

        Raises:
            CheckpointError: its weights are missing or of another model.
            ConfigError: options that do not go together.
        """


class ClueNetwork(nn.Module, ABC):
    """A multi-label classifier with activation maps. Its constructor takes its options and the number of classes.

    Images are float ``[B, 3, H, W]``, normalised by ImageNet's statistics, with sides of at least ``smallest_side`` pixels.
    """

    config: ClueNetworkConfig
    num_classes: int
    smallest_side: int  # pixels; below it there would be no cell of a map
    depth: int  # attention layers; 0 without

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of "fine", "coarse", "cross": the maps that it makes."""
        return self.config.kinds

    @abstractmethod
    def classify(self, images: Tensor) -> Tensor:
        """Return class logits ``[B, C]``."""

    @abstractmethod
    def training_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss against float ``targets [B, C]`` (1 present, 0 absent), and the class logits ``[B, C]``."""

    @abstractmethod
    def activation_maps(
        self, images: Tensor, class_index: Sequence[int], kinds: Sequence[str], cross_layers: Sequence[int]
    ) -> dict[str, Tensor]:
        """Return maps of the asked classes, ``[B, len(class_index), M, h, w]`` per kind, not negative, not normalised.

        M is 1 for "coarse" and "fine"; for "cross" it runs over (head, layer), head-major, of the 1-based
        ``cross_layers`` in ascending order (all layers if empty).
        """

    @abstractmethod
    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """Start from the state dict of an ImageNet classifier of the same architecture, whose class head is dropped.

        Args:
            state: its names and tensors.
            where: the file, for messages.

        Raises:
            CheckpointError: keys or shapes do not fit, naming them.
        """
