"""Published WeakTr checkpoints by their key names.

Such a file is PyTorch's, ``{model, epoch, miou}`` or a bare state dict, and says nothing about itself: its sizes and its fusion
are read off its keys (method 1.2, 1.3), and then every key must fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from weaksam.clues.weaktr import WeakTr
from weaksam.config import WeakTrConfig
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import load_strictly

HEAD_DIM = 64  # of every published WeakTr and DeiT; the keys do not tell it
# Pooling of the published fusions; unlike the bottleneck's width it leaves no trace in the keys.
_POOL: Mapping[str, Literal["avg", "max"]] = {"uniform": "avg", "se": "avg", "feat": "max"}
_FUSION_PREFIX = "adaptive_attention_fusion."


def weaktr_from_published(state: Mapping[str, Tensor], where: str) -> WeakTr:
    """Build the WeakTr that a published state dict is of, any number of classes, with its weights.

    The fusion is told by its keys; without any it is "uniform", which is what the published gates come to.

    Args:
        state: names and tensors as in method 1.3.
        where: the file, for messages.

    Raises:
        CheckpointError: names or shapes are not those of a WeakTr classifier, naming them and the likely cause.
    """
    network = WeakTr(*_published_sizes(state, where))
    fitting = f"{where} as a WeakTr classifier of {network.depth} blocks with {network.config.fusion!r} fusion"
    load_strictly(network, state, where=fitting, cause=_likely_cause(state))
    return network


def _published_sizes(state: Mapping[str, Tensor], where: str) -> tuple[WeakTrConfig, int]:
    """Config and number of classes, from the shapes of a few tensors; the others are checked against them afterwards."""
    dimensions = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "head.weight": 4}
    wrong = [key for key, ndim in dimensions.items() if key not in state or state[key].ndim != ndim]
    if wrong:
        raise CheckpointError(
            f"{where}: expected a WeakTr classifier; missing or not of {'/'.join(map(str, dimensions.values()))} dimensions: "
            f"{', '.join(wrong)} ({_likely_cause(state)})"
        )
    num_classes, dim = state["cls_token"].shape[1:]
    depth = max(len({key.split(".")[1] for key in state if key.startswith("blocks.")}), 1)
    heads = max(dim // HEAD_DIM, 1)
    fusion_keys = {key.removeprefix(_FUSION_PREFIX) for key in state if key.startswith(_FUSION_PREFIX)}
    fusion: Literal["uniform", "se", "feat"] = "uniform"
    reduction = 1
    for name, key in (("feat", "attn_head_ffn.0.weight"), ("se", "fc.0.weight")):
        if key in fusion_keys:
            fusion = name  # type: ignore[assignment]
            reduction = heads * depth // max(len(state[_FUSION_PREFIX + key]), 1)
    config = WeakTrConfig(
        patch_size=state["patch_embed.proj.weight"].shape[2],
        dim=dim,
        depth=depth,
        heads=heads,
        position_grid=math.isqrt(max(state["pos_embed"].shape[1] - num_classes, 1)),
        fusion=fusion,
        fusion_reduction=reduction,
        fusion_pool=_POOL[fusion],
    )
    return config, num_classes


def _likely_cause(state: Mapping[str, Tensor]) -> str:
    if any(key.startswith("module.") for key in state):
        return "its names begin with 'module.': saved from a parallel wrapper; strip that prefix"
    if any(key.startswith(("encoder.", "decoder.")) for key in state):
        return "it looks like WeakTr's segmentation network; the file for CAM generation is needed"
    if "head.weight" in state and state["head.weight"].ndim == 2:
        return "it looks like a DeiT or ViT classifier: give it as init of WeakTr and train on it"
    if "conv1.weight" in state or "features.0.weight" in state:
        return "it looks like a convolutional network: give it as init of a ResNet CAM and train on it"
    return "it is of another model, or a damaged copy"
