"""The arithmetic in which SAM's mask decoder spends its time, in implementations that give the same numbers.

To add one, write a class with the methods of ``DecoderKernels`` in a file of this folder and name it in ``KERNELS``, where
the first that runs a model is taken. A test compares each with the stock calls.
"""

from __future__ import annotations

from typing import Protocol

from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from torch import Tensor

from weaksam.sam.kernels.exact import ExactKernels
from weaksam.sam.kernels.half import HalfKernels
from weaksam.sam.kernels.stock import StockKernels


class DecoderKernels(Protocol):
    """One implementation; it has no state. P prompts, N image tokens, T tokens of a prompt, C channels."""

    def runs(self, sam: Sam) -> bool:
        """Whether this implementation is made for the sizes, the number type and the device of ``sam``."""

    def attend(
        self, transformer: TwoWayTransformer, tokens: Tensor, image: Tensor, image_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let the tokens of prompts and one image attend to each other.

        Args:
            transformer: of SAM's mask decoder.
            tokens: ``[P, T, C]``.
            image: ``[1, N, C]``, shared by all prompts.
            image_pe: ``[1, N, C]``, the image's position encoding.

        Returns:
            Tokens ``[P, T, C]`` and image tokens ``[P, N, C]``, up to rounding what ``transformer`` itself returns.
        """

    def mask_logits(self, decoder: MaskDecoder, image: Tensor, weights: Tensor) -> Tensor:
        """Upscale image tokens and weigh their channels into masks.

        Args:
            decoder: its upscaling doubles the grid of tokens twice and leaves c channels.
            image: ``[P, h, w, C]``, tokens of a part of the grid.
            weights: ``[P, K, c]``, of K masks a prompt.

        Returns:
            Logits ``[P, K, 4h, 4w]``.
        """


KERNELS: tuple[DecoderKernels, ...] = (HalfKernels(), ExactKernels(), StockKernels())


def choose_kernels(sam: Sam) -> DecoderKernels:
    """The first of ``KERNELS`` that runs ``sam``; the stock one runs any."""
    return next(kernels for kernels in KERNELS if kernels.runs(sam))
