"""Which SAM: the built-in small one or segment-anything's ViT-B, ViT-L and ViT-H, with weights loaded strictly.

All four are the same classes of the ``segment_anything`` package and differ in their image encoder. How a SAM is prompted
stands in ``prompting``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from segment_anything.build_sam import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import Sam
from torch import Tensor, nn

from weaksam.config import SamConfig
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import read_pickled, read_safetensors, refuse_nan
from weaksam.io.weights import sam_weights
from weaksam.sam.small import build_small_sam

SAMS: dict[str, Callable[[], Sam]] = {
    "builtin": build_small_sam,
    "vit_b": build_sam_vit_b,
    "vit_l": build_sam_vit_l,
    "vit_h": build_sam_vit_h,
}

_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # channels of the patch embedding: tells a checkpoint's model
_SHOWN_KEYS = 5


def load_sam(config: SamConfig, device: str | torch.device = "cpu") -> Sam:
    """Return the SAM that ``config`` names on ``device``: in eval mode, without gradients.

    Raises:
        CheckpointError: the weights cannot be fetched, fail their checksum, cannot be read as plain tensors, or belong to
            another model; differing keys are named.
    """
    weights = sam_weights(config)
    sam = SAMS[config.name]()
    state = read_state_dict(weights.path)
    load_strictly(sam, state, where=f"{config.weights or weights.path} as sam.name={config.name}", cause=_cause(state))
    return sam.eval().requires_grad_(False).to(device)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a flat state dict from ``.safetensors`` or a ``torch.save`` file, on the CPU, executing nothing.

    Raises:
        CheckpointError: the file is damaged or holds anything but tensors by name.
    """
    is_safetensors = path.suffix == ".safetensors"
    state = read_safetensors(path, str(path))[0] if is_safetensors else read_pickled(path, str(path))
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        held = sorted(map(str, state))[:_SHOWN_KEYS] if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path}: expected tensors by name (a state dict), got {held}; save the inner state dict")
    refuse_nan(state, str(path))
    return state


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, where: str, cause: str = "") -> None:
    """Load ``state`` into ``module``; raise CheckpointError naming every kind of difference before anything is changed."""
    expected = module.state_dict()
    missing = [key for key in expected if key not in state]
    surplus = [key for key in state if key not in expected]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    kinds = {"missing": missing, "surplus": surplus, "of another shape": reshaped}
    if any(kinds.values()):
        text = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds.items() if keys)
        raise CheckpointError(f"{where}: the weights belong to another model{cause}: {text}")
    module.load_state_dict(state)


def _cause(state: Mapping[str, Tensor]) -> str:
    patch_embedding = state.get("image_encoder.patch_embed.proj.weight")
    name = None if patch_embedding is None else _WIDTHS.get(len(patch_embedding))
    return f" (they look like {name} weights: set sam.name={name})" if name else ""


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN_KEYS]) + (", …" if len(keys) > _SHOWN_KEYS else "")
