"""Build a SAM by name and load its weights strictly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from weaksam.config import SamConfig
from weaksam.io.state_dicts import load_strictly, read_state_dict
from weaksam.precision import use_tf32
from weaksam.sam import SAMS, sam_weights
from weaksam.sam.precision import halve

_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # channels of the patch embedding: tells a checkpoint's model
_OF_MOBILE_SAM = "image_encoder.patch_embed.seq.0.c.weight"


def load_sam(config: SamConfig, device: str | torch.device = "cpu") -> Sam:
    """Return the SAM that ``config`` names on ``device``: in eval mode, without gradients, in its precision.

    Raises:
        CheckpointError: the weights cannot be fetched, fail their checksum, cannot be read as plain tensors, or belong to
            another model; differing keys are named.
    """
    weights = sam_weights(config)
    model = SAMS[config.name]
    sam = model.build()
    state = read_state_dict(weights.path).tensors
    where = f"{config.weights or weights.path} as {config.name}"
    load_strictly(sam, model.named(state), where=where, cause=_cause(state, config.name))
    sam = sam.eval().requires_grad_(False).to(device)
    use_tf32(config.precision == "tf32", sam.device)
    return halve(sam) if config.precision == "fast" else sam


def _cause(state: Mapping[str, Tensor], asked: str) -> str:
    patch_embedding = state.get("image_encoder.patch_embed.proj.weight")
    name = None if patch_embedding is None else _WIDTHS.get(len(patch_embedding))
    if _OF_MOBILE_SAM in state:
        name = "vit_t"
    return f"they look like {name} weights: set name={name}" if name and name != asked else ""
