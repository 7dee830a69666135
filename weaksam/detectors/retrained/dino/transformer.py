"""The layers of DINO's encoder and decoder, and how positions are told to them (method 7.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from weaksam.config import DinoConfig
from weaksam.detectors.retrained.dino.deformable_attention import DeformableAttention, Geometry

MAP_TEMPERATURE = 20.0  # of the sines of cells (DINO)
QUERY_TEMPERATURE = 10_000.0  # of the sines of boxes (DAB-DETR)


def sine_embedding(coordinates: Tensor, dim: int, temperature: float) -> Tensor:
    """Write every coordinate as sines and cosines of ``dim / 2`` wavelengths, from 1 up to nearly ``temperature`` images.

    Args:
        coordinates: float32 ``[..., K]``, shares of the image.
        dim: numbers per coordinate, even.
        temperature: above 1.

    Returns:
        ``[..., K * dim]`` in [-1, 1].
    """
    exponents = torch.arange(dim // 2, device=coordinates.device) * (2 / dim)
    angles = coordinates[..., None] * (2 * math.pi) / temperature**exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class EncoderLayer(nn.Module):
    """Every cell looks around itself on all maps, then a feed-forward network; normed after each."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.attention = _deformable(config)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = _FeedForward(config)

    def forward(self, cells: Tensor, positions: Tensor, geometry: Geometry) -> Tensor:
        """Cells ``[B, T, dim]`` and their positions, of the same shape -> as the cells."""
        found = self.attention(cells + positions, geometry.centres_xy, cells, geometry)
        return self.feed_forward(self.norm(cells + self.dropout(found)))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Queries look at each other, then each around its box on all maps, then a feed-forward network; normed after each."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(config.dim, config.heads, config.dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(config.dim)
        self.attention = _deformable(config)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = _FeedForward(config)

    def forward(
        self, queries: Tensor, positions: Tensor, boxes: Tensor, cells: Tensor, geometry: Geometry, blocked: Tensor
    ) -> Tensor:
        """Refine what the queries know.

        Args:
            queries: ``[B, Q, dim]``.
            positions: ``[B, Q, dim]``, where their boxes are.
            boxes: float32 ``[B, Q, 4]`` cx, cy, w, h, shares of the image.
            cells: the encoder's ``[B, T, dim]``.
            geometry: of the cells.
            blocked: bool ``[B, Q, Q]``, True where the first query may not see the second.

        Returns:
            ``[B, Q, dim]``.
        """
        placed = queries + positions
        per_head = blocked.repeat_interleave(self.self_attention.num_heads, dim=0)
        seen, _ = self.self_attention(placed, placed, queries, attn_mask=per_head, need_weights=False)
        queries = self.self_norm(queries + self.dropout(seen))
        found = self.attention(queries + positions, boxes, cells, geometry)
        return self.feed_forward(self.norm(queries + self.dropout(found)))  # type: ignore[no-any-return]


class _FeedForward(nn.Module):
    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        hidden, output = nn.Linear(config.dim, config.feedforward_dim), nn.Linear(config.feedforward_dim, config.dim)
        self.layers = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(config.dropout), output, nn.Dropout(config.dropout))
        self.norm = nn.LayerNorm(config.dim)
        for layer in (hidden, output):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(values + self.layers(values))  # type: ignore[no-any-return]


def _deformable(config: DinoConfig) -> DeformableAttention:
    return DeformableAttention(config.dim, heads=config.heads, levels=config.levels, points=config.points)
