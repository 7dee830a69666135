"""Classifier checkpoints: our own file, and the published WeakTr ones by their key names.

Our own is one safetensors file whose metadata says all that rebuilds the network: architecture, config, class names. A
published WeakTr checkpoint is a PyTorch file ``{model, epoch, miou}`` (or a bare state dict) that says nothing about
itself: its sizes and its fusion are read off its keys (method 1.2, 1.3), and then every key must fit. Pickled code is
never run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from weaksam.clues.weaktr import WeakTr
from weaksam.config import WeakTrConfig
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import described, is_safetensors, read_pickled, read_safetensors, refuse_nan

HEAD_DIM = 64  # of every published WeakTr and DeiT; the keys do not tell it
# Pooling of the published fusions; unlike the bottleneck's width it leaves no trace in the keys.
_POOL: Mapping[str, Literal["avg", "max"]] = {"uniform": "avg", "se": "avg", "feat": "max"}
_FUSION_PREFIX = "adaptive_attention_fusion."
METADATA_KEY = "classifier"  # of the metadata of our own files; the value is JSON
# Scores that published training loops leave beside the weights; numbers, not code.
_numpy_scalar = np.float64().__reduce__()[0]
_HARMLESS: list[Any] = [
    _numpy_scalar,
    (_numpy_scalar, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a PyTorch or safetensors file: the state dict on the CPU, and what our own files say of themselves.

    A PyTorch file may hold the state dict under "model" or "state_dict". The second value is ``{}`` for foreign files.

    Raises:
        CheckpointError: neither format, no state dict inside, or pickled objects other than tensors and numbers.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if is_safetensors(start):
        state, metadata = read_safetensors(path, str(path))
        refuse_nan(state, str(path))
        return state, described(metadata, METADATA_KEY, str(path))
    content = read_pickled(path, str(path), harmless=_HARMLESS)
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: expected a state dict (name -> tensor), got {_outline(content)}")
    refuse_nan(content, str(path))
    return content, {}


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
    own = network.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    reshaped = [
        f"{key} {list(state[key].shape)} (expected {list(own[key].shape)})"
        for key in sorted(set(own) & set(state))
        if state[key].shape != own[key].shape
    ]
    if missing or unexpected or reshaped:
        raise CheckpointError(
            f"{where}: expected a WeakTr classifier of {network.depth} blocks with {network.config.fusion!r} fusion; missing "
            f"{', '.join(missing) or 'nothing'}; unexpected {', '.join(unexpected) or 'nothing'}; of another shape "
            f"{', '.join(reshaped) or 'nothing'}. {_likely_cause(state)}"
        )
    network.load_state_dict(dict(state))
    return network


def _published_sizes(state: Mapping[str, Tensor], where: str) -> tuple[WeakTrConfig, int]:
    """Config and number of classes, from the shapes of a few tensors; the others are checked against them afterwards."""
    dimensions = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "head.weight": 4}
    wrong = [key for key, ndim in dimensions.items() if key not in state or state[key].ndim != ndim]
    if wrong:
        raise CheckpointError(
            f"{where}: expected a WeakTr classifier; missing or not of {'/'.join(map(str, dimensions.values()))} dimensions: "
            f"{', '.join(wrong)}. {_likely_cause(state)}"
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
        return "Its names begin with 'module.': saved from a parallel wrapper; strip that prefix."
    if any(key.startswith(("encoder.", "decoder.")) for key in state):
        return "It looks like WeakTr's segmentation network; the file for CAM generation is needed."
    if "head.weight" in state and state["head.weight"].ndim == 2:
        return "It looks like a DeiT or ViT classifier: give it as classifier.init and train on it."
    if "conv1.weight" in state or "features.0.weight" in state:
        return "It looks like a convolutional network: give it as classifier.resnet_cam.pretrained and train on it."
    return "It is of another model, or a damaged copy."


def _outline(content: object) -> str:
    if isinstance(content, dict):
        return f"a dict with {', '.join(f'{key}: {type(value).__name__}' for key, value in list(content.items())[:5])}"
    return type(content).__name__
