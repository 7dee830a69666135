"""Activation maps of CLIP, to which nothing is taught: all that it is told are the names of classes (Lin et al., CVPR 2023).

The *coarse* map is softmax Grad-CAM at the resolution of patches: where an image looks like a class rather than like its other
classes or the background. The *fine* map is the same, spread to patches that attend to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from weaksam.config import ClipEsConfig, CluesConfig
from weaksam.errors import ConfigError
from weaksam.networks.clip.affinity import layers_attended, normalised_scores, spread
from weaksam.networks.clip.load import load_clip
from weaksam.networks.clip.softmax_cam import found_maps
from weaksam.networks.clip.towers import CLIP_PIXELS, Clip, resized_to_patches
from weaksam.structures import ClassMaps


def make_clip_es(
    config: CluesConfig, *, class_names: Sequence[str], kinds: Sequence[str], device: str | torch.device
) -> ClipEs:
    """See ``MakeSource``. The weights are those of ``config.source.clip``.

    Raises:
        CheckpointError: see ``load_clip``.
        ConfigError: a word that this CLIP does not know, no name of the background is left, there is no class, or
            ``config.weights`` is given.
    """
    assert isinstance(config.source, ClipEsConfig)
    if config.weights:
        raise ConfigError(f"weights: expected none beside clip_es, got {config.weights}; set source.clip.weights")
    return ClipEs(
        load_clip(config.source.clip, device),
        class_names=class_names,
        kinds=kinds,
        config=config.source,
        max_side=config.cam.max_side,
    )


class ClipEs:
    """A ``ClueSource`` around a frozen CLIP. An image is seen once, at its own size.

    Its logits are how much more an image looks like a class than like all of the background; 0 is as much.

    Args:
        clip: on its device.
        class_names: of the data set, in its order.
        kinds: of maps to give, of "fine" and "coarse".
        config: how classes and background are named, and maps spread.
        max_side: pixels; a longer image is first brought to it.

    Raises:
        ConfigError: see ``make_clip_es``.
    """

    def __init__(
        self, clip: Clip, *, class_names: Sequence[str], kinds: Sequence[str], config: ClipEsConfig, max_side: int
    ) -> None:
        self.class_names = tuple(class_names)
        self.kinds = tuple(kinds)
        self._clip = clip
        self._config = config
        self._max_side = max_side
        if not class_names:
            raise ConfigError("expected names of classes, which are all that CLIP is told, got a data set without any")
        names = [config.clip.names.get(name, name).replace("_", " ") for name in class_names]
        with torch.no_grad():
            texts = [config.template.replace("{}", name) for name in (*names, *_background(config, names))]
            self._texts = clip.embed_texts(texts)
        of_tower = layers_attended(config.affinity, clip.architecture.image_layers)
        self._attention_of = of_tower if "fine" in self.kinds else range(0)

    @torch.no_grad()
    def logits(self, image: NDArray[np.uint8]) -> Tensor:
        """See ``ClueSource``."""
        tower, C = self._clip.visual, len(self.class_names)
        known = tower.before_last_block(self._pixels(image))
        found = self._clip.logits(tower.embedding(known.tokens, known.activations), self._texts)[0].float()
        return found[:C] - found[C:].logsumexp(dim=0)

    def class_maps(self, image: NDArray[np.uint8], class_index: Sequence[int]) -> Iterator[ClassMaps]:
        """See ``ClueSource``; a map depends on which other classes are asked for. A map of zeros stays one."""
        if not class_index:
            return
        present = torch.zeros(1, len(self.class_names), dtype=torch.bool, device=self._texts.device)
        present[0, list(class_index)] = True
        found = found_maps(self._clip, self._pixels(image), present, self._texts, attention_of=self._attention_of)
        maps = {"coarse": normalised_scores(found.maps)}
        if "fine" in self.kinds:
            maps["fine"] = normalised_scores(spread(found.maps, found.attention[0], self._config.affinity))
        of_class = {index: place for place, index in enumerate(sorted(set(class_index)))}
        for index in class_index:
            place = of_class[index]
            yield ClassMaps(
                class_index=index, maps={kind: _enlarged(maps[kind][place], image.shape[:2]) for kind in self.kinds}
            )

    def _pixels(self, image: NDArray[np.uint8]) -> Tensor:
        resized = resized_to_patches(image, self._clip.architecture.patch, max_side=self._max_side)
        return CLIP_PIXELS.normalise(resized).to(self._texts.device)[None]


def _background(config: ClipEsConfig, names: Sequence[str]) -> list[str]:
    """Return the names of the background of which no class is named by the same words: a keyboard may be one of the classes."""
    words = {word for name in names for word in name.casefold().replace(",", " ").split()}
    left = [name for name in config.clip.background if not words & set(name.casefold().split())]
    if not left:
        raise ConfigError(
            f"background: expected a name that no class has, got {', '.join(config.clip.background)}; add another one"
        )
    return left


def _enlarged(scores: Tensor, size_hw: tuple[int, ...]) -> Tensor:
    """Enlarge a map ``[h, w]`` to ``[1, H, W]``."""
    return F.interpolate(scores[None, None], size=size_hw, mode="bilinear", align_corners=False)[0]
