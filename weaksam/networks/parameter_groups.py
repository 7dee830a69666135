"""What learns of a network, grouped for an optimiser."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

# Of torchvision's Swin, and of the pixel decoder of transformers' Mask2Former.
_EMBEDDINGS = ("relative_position_bias_table", "level_embed")


class Rates(Protocol):
    """How fast the parts of a network learn."""

    @property
    def lr(self) -> float:
        """Of all but the backbone."""

    @property
    def backbone_lr_factor(self) -> float:
        """Of the backbone, as a share of ``lr``."""

    @property
    def weight_decay(self) -> float:
        """Of what decays."""


def parameter_groups(
    network: nn.Module, backbone: nn.Module, rates: Rates, *, still: tuple[type[nn.Module], ...] = ()
) -> list[dict[str, Any]]:
    """Group the parameters that learn: those of the backbone at a rate of their own, and after all others.

    Args:
        network: the whole of it.
        backbone: a part of it.
        rates: of both.
        still: layers whose weights do not decay; groups of these come after those of the same rate that do. Where there are
            such layers, embeddings that are parameters of other layers do not decay either.
    """
    of_backbone = {id(parameter) for parameter in backbone.parameters()}
    kept = {id(weight) for module in network.modules() if isinstance(module, still) for weight in module.parameters()}
    if still:
        kept |= {id(weight) for name, weight in network.named_parameters() if name.rpartition(".")[2] in _EMBEDDINGS}
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for p in learning if (id(p) in of_backbone, id(p) in kept) == (in_backbone, is_still)],
            "lr": rates.lr * (rates.backbone_lr_factor if in_backbone else 1),
            "weight_decay": 0.0 if is_still else rates.weight_decay,
        }
        for in_backbone in (False, True)
        for is_still in (False, True)
    ]
    return [group for group in groups if group["params"]]
