"""Multi-scale deformable attention (Deformable DETR, section 4): a query looks at a few places of every map, which it chooses.

Where a query looks is in shares of its image, from the top left corner. A batch pads its images, so that an image may take a
part of a map only; ``Geometry`` knows which. A place outside the image reads 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Geometry(NamedTuple):
    """Where the cells of L maps lie, whose cells stand one after the other, the finest map first: T cells in all."""

    shapes_hw: tuple[tuple[int, int], ...]  # cells of each map
    image_share_xy: Tensor  # float32 [B, L, 2], part of each map's width and height that the image takes
    centres_xy: Tensor  # float32 [B, T, 2], of the cells, shares of the image; above 1 outside it
    real: Tensor  # bool [B, T], cells that show something of the image


class DeformableAttention(nn.Module):
    """Attention over the cells of ``levels`` maps, ``points`` places per map and head.

    What a query looks at at first is a star around its reference: head k in the k-th direction, point n at distance n.
    """

    def __init__(self, dim: int, *, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(dim=1, keepdim=True)  # onto a square
        star = directions[:, None, None] * torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(star.expand(heads, levels, points, 2).flatten())

    def forward(self, queries: Tensor, references: Tensor, values: Tensor, geometry: Geometry) -> Tensor:
        """Look around each query's reference; the places and the sums are in float32 whatever autocast says.

        Args:
            queries: ``[B, Q, dim]``, their positions added.
            references: float32, shares of the image: points ``[B, Q, 2]``, from which offsets count cells of each map, or
                boxes ``[B, Q, 4]`` cx, cy, w, h, at whose border the first star's farthest points lie.
            values: ``[B, T, dim]``.
            geometry: of the maps.

        Returns:
            ``[B, Q, dim]``.
        """
        values = self.value(values).masked_fill(~geometry.real[..., None], 0).unflatten(2, (self.heads, -1))
        with torch.autocast(queries.device.type, enabled=False):
            queries = queries.float()
            offsets = self.offsets(queries).unflatten(2, (self.heads, self.levels, self.points, 2))
            weights = self.weights(queries).unflatten(2, (self.heads, -1)).softmax(dim=3)
            locations = _locations(references[:, :, None, None, None], offsets, geometry)
            found = attend(values.float(), geometry.shapes_hw, locations, weights.view(offsets.shape[:-1]))
        return self.output(found)  # type: ignore[no-any-return]


def _locations(references: Tensor, offsets: Tensor, geometry: Geometry) -> Tensor:
    """References ``[B, Q, 1, 1, 1, 2 or 4]`` and offsets ``[B, Q, heads, L, points, 2]`` -> shares of each map, as offsets."""
    share = geometry.image_share_xy[:, None, None, :, None]
    if references.shape[-1] == 2:
        cells_wh = offsets.new_tensor([(w, h) for h, w in geometry.shapes_hw])
        return references * share + offsets / cells_wh[:, None]
    points = offsets.shape[-2]
    return (references[..., :2] + offsets * (references[..., 2:] / (2 * points))) * share


def attend(values: Tensor, shapes_hw: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor) -> Tensor:
    """Sum what lies at each location, read bilinearly, times its weight.

    Args:
        values: ``[B, T, heads, D]``, the cells of all maps.
        shapes_hw: cells of each of the L maps, T in all.
        locations: ``[B, Q, heads, L, points, 2]`` x, y, shares of each map; what lies outside [0, 1] reads 0.
        weights: ``[B, Q, heads, L, points]``.

    Returns:
        ``[B, Q, heads * D]``.
    """
    B, _, heads, D = values.shape
    of_maps = torch.split(values.permute(0, 2, 3, 1).flatten(0, 1), [h * w for h, w in shapes_hw], dim=2)
    # Queries go last: the sums over the few points then run along them, which a CPU does twice as fast.
    grids = (2 * locations - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)  # [B * heads, L, points, Q, 2]
    shares = weights.permute(0, 2, 3, 4, 1).flatten(0, 1)[:, None]  # [B * heads, 1, L, points, Q]
    total = values.new_zeros(())
    for level, (own, (h, w)) in enumerate(zip(of_maps, shapes_hw, strict=True)):
        read = F.grid_sample(own.reshape(-1, D, h, w), grids[:, level], align_corners=False)
        total = total + (read * shares[:, :, level]).sum(dim=2)  # [B * heads, D, points, Q] -> [B * heads, D, Q]
    return total.reshape(B, heads * D, -1).transpose(1, 2)
