"""Which classes of an image give clues: its labels where they are known, else what the classifier sees (method 1.7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam.clues.base import ClueSource
from weaksam.config import CluesConfig


def present_classes(
    clues: ClueSource, image: NDArray[np.uint8], labels: Sequence[int] | None, config: CluesConfig
) -> list[int]:
    """Return the classes whose maps are worth computing, as ``gate`` says; the network runs only if its logits count."""
    known = labels is not None and config.gating == "labels"
    return gate(torch.empty(0) if known else clues.logits(image), labels, config)


def gate(logits: Tensor, labels: Sequence[int] | None, config: CluesConfig) -> list[int]:
    """Decide which classes are present (method 1.7).

    Args:
        logits: ``[C]``; not looked at where labels decide.
        labels: class indices known to be present, ``()`` for none of the classes; None = unknown.
        config: with gating "labels", known labels decide; otherwise the logits above ``cam.gate_logit`` do (higher is
            stricter), and the best one if none is.

    Returns:
        Ascending class indices.
    """
    if labels is not None and config.gating == "labels":
        return sorted(set(labels))
    above: list[int] = torch.nonzero(logits > config.cam.gate_logit).flatten().tolist()
    return above or [int(logits.argmax())]
