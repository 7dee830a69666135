"""Label maps at test time: several scales and their mirror images, averaged; the most probable class of each pixel.

A picture of 81 classes and 24 megapixels has probabilities of 8 GB at its own size. They are kept as the passes have made them,
a sixteenth of a view's pixels each, and enlarged strip by strip: ``ClassProbabilities``. Whoever makes label maps reads the
strips from top to bottom and keeps what it needs of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from weaksam.chunks import chunk_size, in_chunks
from weaksam.config import PredictMapsConfig
from weaksam.mask_runs import MaskRuns
from weaksam.networks.pixels import SIDES_MULTIPLE
from weaksam.precision import computing, require_finite
from weaksam.segmentation.seeding import paint
from weaksam.segmentation.segmenters.base import Segmenter
from weaksam.segmentation.segmenters.samples import scaled_size

_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class ClassProbabilities:
    """How probable each class is of each pixel of one image, background first; the mean of several passes."""

    passes: tuple[Tensor, ...]  # float32 [C + 1, h, w] each, of cells that cover the image evenly
    size_hw: tuple[int, int]  # of the image

    def strips(self) -> Iterator[Tensor]:
        """Yield the probabilities ``[C + 1, rows, W]`` of the pixels, strip by strip from top to bottom.

        All passes together are those of bilinear interpolation of the whole. A strip takes 16 MiB on a CPU, or is one row of
        pixels if that takes more; on a GPU it takes what there is room for (``chunks``).
        """
        height, width = self.size_hw
        device, channels = self.passes[0].device, len(self.passes[0])
        row_bytes = channels * width * _FLOAT_BYTES
        # At once: the sum, a pass of the strip, and its rows before they are as wide as the image.
        rows = chunk_size(device, tensor_bytes=row_bytes, peak_bytes=3 * row_bytes)
        yield from in_chunks(height, rows, self._strip)

    def _strip(self, rows: slice) -> Tensor:
        total = _enlarged(self.passes[0], self.size_hw, rows)
        for one in self.passes[1:]:
            total += _enlarged(one, self.size_hw, rows)
        return total / len(self.passes)


def label_map_of(strips: Iterable[Tensor]) -> NDArray[np.uint8]:
    """Return the label map ``[H, W]`` of class probabilities: of each pixel the most probable class, of equal ones the first.

    Args:
        strips: ``[C + 1, rows, W]``, background first, from top to bottom; the whole ``[C + 1, H, W]`` is one strip.
    """
    return np.concatenate([strip.argmax(dim=0).to(torch.uint8).cpu().numpy() for strip in strips])


def superpixel_label_map(strips: Iterable[Tensor], superpixels: MaskRuns, level: Sequence[int]) -> NDArray[np.uint8]:
    """Return the label map ``[H, W]`` whose superpixels are of one class each, of the greatest mean probability (FMA method 7).

    A pixel that no superpixel covers keeps its own class. Where superpixels overlap, wholes lie over parts and these over
    subparts, and of one level the more confident ones over others, as in seeds; of equal classes the first is taken.

    Args:
        strips: see ``label_map_of``.
        superpixels: S, each of a pixel or more; S may be 0.
        level: S, see ``structures.WHOLE``.
    """
    own: list[NDArray[np.uint8]] = []
    sums: list[NDArray[np.float64]] = []  # [C + 1, S] of each strip
    top = 0
    for strip in strips:
        own.append(label_map_of([strip]))
        sums.append(superpixels.sums(strip.cpu().numpy(), first_row=top))
        top += strip.shape[1]
    means = sum(sums) / superpixels.areas()
    return paint(np.concatenate(own), superpixels, level, means.argmax(axis=0), means.max(axis=0))


def class_probabilities(
    segmenter: Segmenter, image: NDArray[np.uint8], config: PredictMapsConfig
) -> ClassProbabilities:
    """Ask a segmenter about one image, once for each scale, and for its mirror image if ``config.flip``.

    Each side of a view is rounded to a multiple of 32 alone, so that its cells cover the image; proportions change a little.

    Args:
        segmenter: on any device, in evaluation mode.
        image: ``[H, W, 3]`` RGB.
        config: scales, mirroring and precision.
    """
    device = next(segmenter.parameters()).device
    passes = []
    for scale in config.scales:
        view = _view(segmenter, image, scale).to(device)
        for mirror in (False, True) if config.flip else (False,):
            with computing(config.precision, segmenter, "predict_maps.precision"):
                found = segmenter.probabilities((view.flip(-1) if mirror else view)[None])[0]
            require_finite(found, "predict_maps.precision", config.precision)
            passes.append(found.flip(-1) if mirror else found)
    return ClassProbabilities(passes=tuple(passes), size_hw=(image.shape[0], image.shape[1]))


def _view(segmenter: Segmenter, image: NDArray[np.uint8], scale: float) -> Tensor:
    """Return an image at a scale as the segmenter wants it, float32 ``[3, h, w]``."""
    config = segmenter.config
    size = scaled_size(image.shape[:2], scale * config.side, config.max_side)
    whole = [max(1, round(side / SIDES_MULTIPLE)) * SIDES_MULTIPLE for side in size]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    resized = v2.functional.resize(pixels, whole, InterpolationMode.BILINEAR)
    return segmenter.backbone.pixels.normalise(resized.permute(1, 2, 0).numpy())


def _enlarged(probabilities: Tensor, size_hw: tuple[int, int], rows: slice) -> Tensor:
    """Return some rows ``[K, rows, W]`` of what bilinear interpolation of ``[K, h, w]`` to a size is, pixel centres aligned."""
    height, width = size_hw
    cells = probabilities.shape[1]
    at = (torch.arange(rows.start, rows.stop, device=probabilities.device) + 0.5) * (cells / height) - 0.5
    at = at.clamp(min=0, max=cells - 1)
    above = at.floor().long()
    below = (above + 1).clamp(max=cells - 1)
    between = torch.lerp(probabilities[:, above], probabilities[:, below], (at - above)[:, None])
    return F.interpolate(between[None], (len(at), width), mode="bilinear", align_corners=False)[0]
