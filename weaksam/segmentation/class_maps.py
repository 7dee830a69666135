"""The maps of an image's classes: those of prompts, refined by the affinity of CLIP's patches (FMA method 3.2, 4, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam.config import SeedConfig
from weaksam.networks.clip.affinity import layers_attended, spread
from weaksam.networks.clip.softmax_cam import class_probabilities, found_maps
from weaksam.networks.clip.towers import CLIP_PIXELS, resized_to_patches
from weaksam.segmentation.prompted import PromptedClip


class ClassMapper(Protocol):
    """Computes the maps that seeds are made of, of one image after the other."""

    def __call__(self, image: NDArray[np.uint8], class_index: Sequence[int]) -> Tensor:
        """Return the maps of the classes that an image shows.

        Args:
            image: ``[H, W, 3]`` RGB.
            class_index: N, ascending; N may be 0.

        Returns:
            float32 ``[N, h, w]`` over the whole image, on the device that computes; the higher, the more it is of the class.
        """


class PromptMapper:
    """The maps of prompts that no longer learn, at CLIP's own resolution; a ``ClassMapper``.

    Args:
        prompted: on its device.
        config: the size that CLIP sees, and how maps are spread.
    """

    def __init__(self, prompted: PromptedClip, config: SeedConfig) -> None:
        self._prompted = prompted
        self._config = config
        with torch.no_grad():
            self._texts = prompted.texts()
        self._attention_of = layers_attended(config.affinity, prompted.clip.architecture.image_layers)

    def __call__(self, image: NDArray[np.uint8], class_index: Sequence[int], zoom: float = 1.0) -> Tensor:
        """Return the maps of the classes that an image shows, h and w in patches, not normalised; see ``ClassMapper``.

        ``zoom`` is of the size that CLIP sees.
        """
        pixels, present = self._pixels(image, zoom), self._present(class_index)
        found = found_maps(self._prompted.clip, pixels, present, self._texts, attention_of=self._attention_of)
        return spread(found.maps, found.attention[0], self._config.affinity)

    @torch.no_grad()
    def probabilities(self, image: NDArray[np.uint8], class_index: Sequence[int]) -> Tensor:
        """Return CLIP's probabilities of the classes of an image, among all of them and the background: ``[N]`` in [0, 1]."""
        logits = self._prompted.clip.logits(self._prompted.images(self._pixels(image, 1.0)), self._texts)
        return class_probabilities(logits.float(), self._present(class_index))[0, list(class_index)]

    def _present(self, class_index: Sequence[int]) -> Tensor:
        """Mark the classes of one image: bool ``[1, C]``."""
        present = torch.zeros(1, self._prompted.num_classes, dtype=torch.bool, device=self._texts.device)
        present[0, list(class_index)] = True
        return present

    def _pixels(self, image: NDArray[np.uint8], zoom: float) -> Tensor:
        config, patch = self._config, self._prompted.clip.architecture.patch
        resized = resized_to_patches(image, patch, scale=zoom * config.scale, max_side=zoom * config.max_side)
        return CLIP_PIXELS.normalise(resized).to(self._texts.device)[None]
