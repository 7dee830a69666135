"""From a backbone's maps to what DINO's encoder reads: as many maps as wanted, of one width, with their geometry.

An image's result must not depend on how much a batch pads it: group norms measure the image's own cells only, and what lies
outside the image is 0 before every convolution that would see it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weaksam.detectors.retrained.dino.deformable_attention import Geometry

GROUPS = 32  # of the group norms (DINO)


class Neck(nn.Module):
    """Maps of several widths in, ``levels`` maps of width ``dim`` out; those that are not there are made with stride 2.

    Args:
        strides: pixels per cell of the maps that come in, from fine to coarse.
        channels: of these maps.
        levels: how many maps there shall be, not fewer than come in.
        dim: a multiple of 32.
    """

    def __init__(self, strides: tuple[int, ...], channels: tuple[int, ...], *, levels: int, dim: int) -> None:
        super().__init__()
        self.strides = list(strides)
        convolutions = [nn.Conv2d(width, dim, kernel_size=1) for width in channels]
        width = channels[-1]
        while len(self.strides) < levels:
            self.strides.append(2 * self.strides[-1])
            convolutions.append(nn.Conv2d(width, dim, kernel_size=3, stride=2, padding=1))
            width = dim
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(ImageGroupNorm(GROUPS, dim) for _ in convolutions)

    def forward(self, maps: list[Tensor], sizes_hw: Tensor) -> tuple[Tensor, Geometry]:
        """Project the maps and lay their cells out in one row.

        Args:
            maps: of a batch ``[B, channels, h, w]``.
            sizes_hw: int64 ``[B, 2]``, pixels of each image.

        Returns:
            The cells ``[B, T, dim]``, 0 where they show nothing of their image, and where they lie.
        """
        inside = real_cells(maps[-1].shape[2:], self.strides[len(maps) - 1], sizes_hw)
        sources = [*maps, maps[-1] * inside[:, None]]
        cells: list[Tensor] = []
        shapes: list[tuple[int, int]] = []
        for level, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            projected = convolution(sources[level])
            h, w = projected.shape[2:]
            normed = norm(projected, real_cells((h, w), self.strides[level], sizes_hw))
            if level >= len(maps):
                sources.append(normed)
            cells.append(normed.flatten(2).transpose(1, 2))
            shapes.append((h, w))
        return torch.cat(cells, dim=1), geometry_of(shapes, self.strides, sizes_hw)


class ImageGroupNorm(nn.GroupNorm):
    """A group norm that measures the cells of the image, not of what pads it; there it returns 0."""

    def forward(self, maps: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        """Maps ``[B, channels, h, w]`` and which cells count, bool ``[B, h, w]``, at least one -> float32 of that shape."""
        with torch.autocast(maps.device.type, enabled=False):
            B, channels, h, w = maps.shape
            groups = maps.float().reshape(B, self.num_groups, channels // self.num_groups, h, w)
            counts = real[:, None, None]
            size = counts.sum(dim=(2, 3, 4), keepdim=True) * groups.shape[2]
            mean = (groups * counts).sum(dim=(2, 3, 4), keepdim=True) / size
            centred = (groups - mean) * counts
            variance = centred.square().sum(dim=(2, 3, 4), keepdim=True) / size
            normed = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
            return torch.addcmul(self.bias[:, None, None], normed, self.weight[:, None, None]) * real[:, None]


def real_cells(shape_hw: tuple[int, ...], stride: int, sizes_hw: Tensor) -> Tensor:
    """Which cells of a map ``[h, w]`` show something of images of ``sizes_hw`` ``[B, 2]`` pixels: bool ``[B, h, w]``."""
    rows, columns = (torch.arange(n, device=sizes_hw.device) * stride for n in shape_hw)
    return (rows < sizes_hw[:, :1])[:, :, None] & (columns < sizes_hw[:, 1:])[:, None]


def geometry_of(shapes_hw: list[tuple[int, int]], strides: list[int], sizes_hw: Tensor) -> Geometry:
    """Say where the cells of maps of these shapes and strides lie in images of ``sizes_hw`` ``[B, 2]`` pixels."""
    sizes_xy = sizes_hw.flip(1).float()
    centres: list[Tensor] = []
    for (h, w), stride in zip(shapes_hw, strides, strict=True):
        rows, columns = ((torch.arange(n, device=sizes_hw.device) + 0.5) * stride for n in (h, w))
        centres.append(torch.cartesian_prod(rows, columns).flip(1))
    extents_xy = sizes_xy.new_tensor([(w * s, h * s) for (h, w), s in zip(shapes_hw, strides, strict=True)])
    real = [real_cells(shape, s, sizes_hw).flatten(1) for shape, s in zip(shapes_hw, strides, strict=True)]
    return Geometry(
        shapes_hw=tuple(shapes_hw),
        image_share_xy=sizes_xy[:, None] / extents_xy,
        centres_xy=torch.cat(centres)[None] / sizes_xy[:, None],
        real=torch.cat(real, dim=1),
    )
