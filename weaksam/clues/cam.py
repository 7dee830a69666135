"""Activation maps of one image at several scales and mirrored, as WeakTr infers them (method 1.6).

The same for every network: the low-resolution maps of all passes are summed at full resolution and each map is then
stretched to [0, 1]. Only asked classes are computed, and one class at a time is brought to full resolution, since 48
cross-attention maps of one 500 x 375 image are 36 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from weaksam.chunks import in_chunks
from weaksam.clues.base import ClueNetwork
from weaksam.config import CamConfig
from weaksam.errors import ConfigError
from weaksam.precision import computing, require_finite
from weaksam.structures import ClassMaps
from weaksam.transforms import normalise

_OPTION = "clues.cam.precision"


class MultiScaleCam:
    """The clue source around a network: logits and full-resolution maps of one image, in evaluation mode, no gradient.

    One image at a time and one pass after the other, so that an image's maps do not depend on its neighbours.

    Args:
        network: with its weights, on its device; put into evaluation mode.
        class_names: one per class of the data set; ``class_index`` counts through these.
        class_slots: for each of them the network's own class number.
        kinds: kinds of maps to give, a subset of the network's.
        config: scales, layers and precision.

    Raises:
        ConfigError: a kind or a layer that the network does not have.
    """

    def __init__(
        self,
        network: ClueNetwork,
        *,
        class_names: Sequence[str],
        class_slots: Sequence[int],
        kinds: Sequence[str],
        config: CamConfig,
    ) -> None:
        if unknown := sorted(set(kinds) - set(network.kinds)):
            raise ConfigError(
                f"kinds: {', '.join(unknown)} asked for, but {type(network).__name__} gives "
                f"{', '.join(network.kinds)} only; drop it, or choose another clue source"
            )
        if "cross" in kinds and (deep := [layer for layer in config.cross_layers if layer > network.depth]):
            raise ConfigError(
                f"cross_layers: expected layers of 1..{network.depth}, the depth of this network, got {deep}; choose some of "
                "these, or [] for all"
            )
        self.network = network.eval()
        self.class_names = tuple(class_names)
        self.kinds = tuple(kinds)
        self._slots = tuple(class_slots)
        self._config = config
        self._device = next(network.parameters()).device

    @torch.no_grad()
    def logits(self, image: NDArray[np.uint8]) -> Tensor:
        """Return class logits float32 ``[C]``, in the order of ``class_names``, of the image ``[H, W, 3]`` at its own size."""
        with self._precision():
            logits = self.network.classify(self._resized(image, 1.0)[None])[0]
        return logits.float()[list(self._slots)]

    def class_maps(self, image: NDArray[np.uint8], class_index: Sequence[int]) -> Iterator[ClassMaps]:
        """Yield the maps of each asked class over the image ``[H, W, 3]``, in that order; nothing for no class.

        The network runs when the first item is asked for; each class is enlarged when its turn comes. A map of
        zeros stays one.
        """
        if not class_index:
            return
        passes = self._low_resolution(image, [self._slots[index] for index in class_index])
        for nth, index in enumerate(class_index):
            maps = {kind: self._enlarged([one[kind][nth] for one in passes], image.shape[:2]) for kind in self.kinds}
            yield ClassMaps(class_index=index, maps=maps)

    @torch.no_grad()
    def _low_resolution(self, image: NDArray[np.uint8], slots: Sequence[int]) -> list[dict[str, Tensor]]:
        """Per scale and kind, the map of the image plus the map of its mirror image, mirrored back: ``[K, M, h, w]``.

        Enlarging is linear and symmetric, so that the two may be added before it, at half the price. In half precision they
        stay apart: as published, each is enlarged as it is and added in single precision, which leaves fewer ties.
        """
        passes = []
        for scale in self._config.scales:
            resized = self._resized(image, scale)
            with self._precision():
                upright = self.network.activation_maps(resized[None], slots, self.kinds, self._config.cross_layers)
                mirrored = self.network.activation_maps(
                    resized.flip(-1)[None], slots, self.kinds, self._config.cross_layers
                )
            if self._config.autocast_fp16:
                passes.append({kind: upright[kind][0] for kind in self.kinds})
                passes.append({kind: mirrored[kind][0].flip(-1) for kind in self.kinds})
            else:
                passes.append({kind: upright[kind][0].float() + mirrored[kind][0].flip(-1) for kind in self.kinds})
                for maps in passes[-1].values():
                    require_finite(maps, _OPTION, self._config.precision)
        return passes

    @torch.no_grad()
    def _enlarged(self, passes: Sequence[Tensor], size_hw: tuple[int, ...]) -> Tensor:
        """Sum of maps ``[M, h, w]`` of differing h, w, enlarged to ``[M, H, W]`` and each stretched to [0, 1]."""
        enlarged = torch.empty(len(passes[0]), *size_hw, device=passes[0].device)

        def enlarge(some: slice) -> None:
            total = enlarged[some].zero_()
            for maps in passes:  # half precision is enlarged as such and added in single
                total += F.interpolate(maps[None, some], size=size_hw, mode="bilinear", align_corners=False)[0]
            low = total.amin(dim=(1, 2), keepdim=True)
            high = total.amax(dim=(1, 2), keepdim=True)
            total.sub_(low).div_(high - low + 1e-8)

        for _ in in_chunks(len(enlarged), len(enlarged), enlarge):
            pass
        return enlarged

    def _resized(self, image: NDArray[np.uint8], scale: float) -> Tensor:
        """Normalised float32 ``[3, h, w]`` at ``scale``; a side is never below the network's smallest."""
        height, width = image.shape[:2]
        scale *= min(1.0, self._config.max_side / max(height, width))
        size_wh = (
            max(round(width * scale), self.network.smallest_side),
            max(round(height * scale), self.network.smallest_side),
        )
        pixels = np.array(Image.fromarray(image).resize(size_wh, Image.Resampling.BICUBIC))
        return normalise(torch.from_numpy(pixels).to(self._device).permute(2, 0, 1))

    def _precision(self) -> AbstractContextManager[Any]:
        if self._config.autocast_fp16:
            return torch.autocast(self._device.type, dtype=torch.float16)
        return computing(self._config.precision, self.network, _OPTION)
