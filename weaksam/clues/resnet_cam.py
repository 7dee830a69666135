"""Class activation maps of a plain convolutional classifier (Zhou et al., CVPR 2016), any of torchvision's or timm's.

The backbone keeps everything before its global pooling; its classifier becomes a 1x1 convolution to the C classes. Average
pooling and a linear layer commute, so the class logits are the spatial mean of the class scores and the *coarse* map is
their ReLU. There is no fine or cross map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from weaksam.clues.base import ClueNetwork
from weaksam.config import ResNetCamConfig
from weaksam.errors import ConfigError
from weaksam.io.state_dicts import load_strictly

# Children of torchvision's classifiers at which the feature maps end.
POOL_OR_CLASSIFIER = ("avgpool", "fc", "classifier", "head", "heads")


class ResNetCam(ClueNetwork):
    """A convolutional backbone by name with a 1x1 class head, randomly initialised.

    Raises:
        ConfigError: the name is unknown, or its last features are not a ``[B, channels, h, w]`` map (transformers).
    """

    config: ResNetCamConfig
    depth = 0
    smallest_side = 64  # enough for every backbone, also for those that do not pad

    def __init__(self, config: ResNetCamConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = _build_backbone(config.backbone)
        self.head = nn.Conv2d(_channels(self.backbone, config.backbone), num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """ImageNet-normalised images ``[B, 3, H, W]`` -> class scores ``[B, C, h, w]``, not rectified."""
        scores: Tensor = self.head(self.backbone(images))
        return scores

    def training_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the multi-label soft margin loss and the class logits ``[B, C]``."""
        logits = self.classify(images)
        return F.multilabel_soft_margin_loss(logits.float(), targets), logits

    def classify(self, images: Tensor) -> Tensor:
        """Return class logits ``[B, C]``: the spatial mean of the scores."""
        scores: Tensor = self(images)
        return scores.mean(dim=(2, 3))

    def activation_maps(
        self,
        images: Tensor,
        class_index: Sequence[int],
        kinds: Sequence[str],
        cross_layers: Sequence[int],  # noqa: ARG002  (no attention here)
    ) -> dict[str, Tensor]:
        """See ``ClueNetwork``; "coarse" is the only kind."""
        return {kind: self(images)[:, list(class_index), None].relu() for kind in kinds}

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``ClueNetwork``; the same torchvision or timm model."""
        own = self.backbone.state_dict()
        kept = {key: value for key, value in state.items() if key in own or not key.startswith(POOL_OR_CLASSIFIER)}
        load_strictly(self.backbone, kept, where=f"{where} as {self.config.backbone}")


def _build_backbone(name: str) -> nn.Module:
    if name.startswith("timm:"):
        import timm  # slow to import, and needed for its own models only

        if not timm.is_model(name.removeprefix("timm:")):
            raise ConfigError(f"backbone: timm has no model {name.removeprefix('timm:')!r}")
        model: nn.Module = timm.create_model(name.removeprefix("timm:"), num_classes=0, global_pool="")
        return model
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(f"backbone: torchvision has no classifier {name!r}; timm's are written timm:<name>")
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for child_name, child in torchvision.models.get_model(name, weights=None).named_children():
        if child_name in POOL_OR_CLASSIFIER:
            break
        children[child_name] = child
    return nn.Sequential(children)


@torch.no_grad()
def _channels(backbone: nn.Module, name: str) -> int:
    """Number of channels of the features, counted on one blank image."""
    backbone.eval()
    try:
        features = backbone(torch.zeros(1, 3, 224, 448))
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(f"backbone: {name} takes no 224 x 448 image ({error})") from error
    finally:
        backbone.train()
    if features.ndim != 4 or features.shape[3] // features.shape[2] != 2:
        raise ConfigError(
            f"backbone: expected features [B, channels, h, w] of {name}, got {list(features.shape)} for a "
            "224 x 448 image; choose a convolutional network"
        )
    return int(features.shape[1])
