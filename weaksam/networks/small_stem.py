"""A small CNN that can stand in for the patch embedding of WeakTr, so that it learns from a few hundred images.

A transformer that starts from nothing on raw patches hardly learns to localise; eight 3x3 convolutions do, in a minute.
They are first trained as a classifier of their own (``SmallCnnClassifier``) and shipped, or trained along with the rest.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.io.state_dicts import load_strictly, read_state_dict

# (output channels, stride) of the 3x3 convolutions before the last one; their product of strides is the stem's.
LAYERS = ((32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1))


class SmallCnnStem(nn.Module):
    """Normalised images ``[B, 3, H, W]`` -> features ``[B, dim, H // 8, W // 8]``, not negative.

    Pixels right of and below the last whole 8 x 8 block are cut off first, as a patch embedding ignores them. 0.57 M
    parameters with ``dim`` 128. Each convolution is followed by batch normalisation and ReLU.
    """

    stride = 8

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, stride in (*LAYERS, (dim, 1)):
            layers += [
                nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # several times faster on a CPU
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        """Return the features; both sides of the images must be at least 8 pixels."""
        h, w = (side // self.stride * self.stride for side in images.shape[2:])
        features: Tensor = self.layers(images[:, :, :h, :w].contiguous(memory_format=torch.channels_last))
        return features


class SmallCnnClassifier(nn.Module):
    """The stem with a 1x1 class head, to train it on image-level labels; only ``stem`` is kept afterwards."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = SmallCnnStem(dim)
        self.head = nn.Conv2d(dim, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits ``[B, C]``: log-mean-exp over the pixels, between their mean and their maximum."""
        scores: Tensor = self.head(self.stem(images)).flatten(2)
        return scores.logsumexp(dim=2) - math.log(scores.shape[2])

    def training_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the multi-label soft margin loss against float ``targets [B, C]``, and the logits ``[B, C]``."""
        logits = self(images)
        return F.multilabel_soft_margin_loss(logits.float(), targets), logits


def load_builtin_classifier(path: Path | None = None) -> SmallCnnClassifier:
    """Return the shipped classifier of drawn shapes, float32, in evaluation mode; ``.stem`` is what WeakTr starts from."""
    path = path or BUILTIN_WEIGHTS["stem"].path
    state, metadata = read_state_dict(path)
    model = SmallCnnClassifier(int(metadata["dim"]), len(metadata["class_names"].split(",")))
    load_strictly(model, state, where=str(path))  # float16 convolutions are cast on the way
    return model.eval()
