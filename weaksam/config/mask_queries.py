"""Options of Mask2Former's pixel decoder and queries, whatever these are to find."""

from __future__ import annotations

from dataclasses import dataclass

from weaksam.config.checks import require


@dataclass(frozen=True, kw_only=True)
class MaskQueriesConfig:
    """Mask2Former on top of a backbone; the defaults are the published ones."""

    dim: int = 256  # of queries and maps; a multiple of 32
    heads: int = 8
    encoder_layers: int = 6  # of the pixel decoder
    encoder_feedforward_dim: int = 1024
    decoder_layers: int = 9
    feedforward_dim: int = 2048
    queries: int = 100
    points: int = 12544  # of a mask at which its loss is taken, three quarters of them where it is least certain

    def __post_init__(self) -> None:
        require(self.heads >= 1, "heads", "1 or more", self.heads)
        require(self.dim % 32 == 0 and self.dim % self.heads == 0, "dim", "a multiple of 32 and of heads", self.dim)
        require(self.decoder_layers >= 1, "decoder_layers", "1 or more", self.decoder_layers)
        require(self.queries >= 1, "queries", "1 or more", self.queries)
        require(self.points >= 4, "points", "4 or more", self.points)
