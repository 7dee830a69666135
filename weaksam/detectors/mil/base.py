"""What the weakly-supervised detectors share: WSDDN's two streams, refinement branches, box branches (method 4.2 - 4.4).

Images and their proposals go in, padded as in ``losses/mil.py``:

    features -> RoI max pooling -> head -+-> class stream, detection stream -> which proposals make the image's labels
                                         +-> branch 1, taught by the two streams' scores
                                         +-> branch 2, taught by branch 1, and so on

The layers run over the proposals that are there, of all images at once; only their logits are laid out as ``[B, R, ...]``.
How pseudo labels are mined and what else differs stands in ``mist.py`` and ``oicr.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

from weaksam.chunks import chunk_size, in_chunks
from weaksam.config import MilConfig, MilDetectorConfig
from weaksam.detectors.mil.dropblock import ConcreteDropBlock
from weaksam.losses.mil import PseudoLabels, box_loss, image_loss, refinement_loss, wsddn_scores
from weaksam.networks.modes import in_mode
from weaksam.networks.roi_backbones import VggVariant, build_roi_backbone

NUM_BRANCHES = 3
# What a proposal holds at most, in copies of its pooled features: those, and the widest layers of ResNet-50's fourth stage.
_PEAK_IN_POOLED = 4
# Deltas are offsets of the centre and logarithms of the sides, times these weights (Fast R-CNN's; method 4.4).
BOX_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0), math.log(1000 / 16))


class Outputs(NamedTuple):
    """Logits of every proposal; those of padding are 0."""

    class_logits: Tensor  # [B, R, C], or [B, R, 1 + C] with the background first
    detection_logits: Tensor  # the same shape
    refined_logits: tuple[Tensor, ...]  # per branch [B, R, 1 + C], the background first
    deltas: tuple[Tensor, ...]  # per branch [B, R, 1 + C, 4]; () without box branches


class Prediction(NamedTuple):
    """What a detector says of one image; float32."""

    image_scores: Tensor  # [C] in [0, 1], how likely each class is in the image
    scores: Tensor  # [R, C] in [0, 1], 0 for padding
    deltas: Tensor | None  # [R, C, 4] for ``BOX_CODER``; None: the proposals are the boxes


class WeakDetector(nn.Module, ABC):
    """A two-stream detector with refinement branches and random weights; its subclasses say what they do differently."""

    vgg: ClassVar[VggVariant]
    predictor_std: ClassVar[float]  # of the normal distribution that new predictors start from
    background_in_streams: ClassVar[bool]  # a background column, which no image has, in both streams
    image_loss_epsilon: ClassVar[float]
    image_loss_mean: ClassVar[bool]  # over classes, or their sum
    refinement_epsilon: ClassVar[float]
    regresses_boxes: ClassVar[bool]
    options: MilDetectorConfig  # of the chosen detector

    def __init__(self, config: MilConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.options = config.detector
        self.num_classes = num_classes
        self.body = build_roi_backbone(config.backbone, vgg=self.vgg, dropout=config.dropout)
        self.body.freeze(config.freeze_stages, "freeze_stages")
        dim, columns = self.body.dim, 1 + num_classes
        streams = columns if self.background_in_streams else num_classes
        self.class_stream = nn.Linear(dim, streams)
        self.detection_stream = nn.Linear(dim, streams)
        self.refinements = nn.ModuleList(nn.Linear(dim, columns) for _ in range(NUM_BRANCHES))
        boxes = NUM_BRANCHES if self.regresses_boxes else 0
        self.box_branches = nn.ModuleList(nn.Linear(dim, 4 * columns) for _ in range(boxes))
        self.adversary = self.build_adversary()
        for layer in (self.class_stream, self.detection_stream, *self.refinements, *self.box_branches):
            nn.init.normal_(layer.weight, std=self.predictor_std)
            nn.init.zeros_(layer.bias)

    @abstractmethod
    def mine(self, boxes_xyxy: Tensor, scores: Tensor, real: Tensor, labels: Tensor) -> PseudoLabels:
        """Return what a branch learns from ``scores [B, R, C]`` of the one before, which carry no gradient."""

    def branch_weight(self, branch: int) -> float:  # noqa: ARG002  (for subclasses)
        """Return the weight of the losses of a branch, counted from 0."""
        return 1.0

    def build_adversary(self) -> ConcreteDropBlock | None:
        """Return what hides parts of the pooled features while training, or None."""
        return None

    def forward(self, images: Tensor, boxes_xyxy: Tensor, real: Tensor) -> Outputs:
        """Compute the logits of all proposals.

        Args:
            images: normalised, ``[B, 3, H, W]``.
            boxes_xyxy: ``[B, R, 4]`` pixels of these images.
            real: bool ``[B, R]``, which proposals are there; R may be 0.
        """
        image_index, _ = real.nonzero(as_tuple=True)
        pooled = self.body.pool(self.body.features(images), boxes_xyxy[real], image_index)
        return self._outputs(self.body.head(pooled if self.adversary is None else self.adversary(pooled)), real)

    def _outputs(self, hidden: Tensor, real: Tensor) -> Outputs:
        """Compute the logits from what the head says of each proposal, ``[N, dim]``."""
        return Outputs(
            class_logits=_lay_out(self.class_stream(hidden), real),
            detection_logits=_lay_out(self.detection_stream(hidden), real),
            refined_logits=tuple(_lay_out(branch(hidden), real) for branch in self.refinements),
            deltas=tuple(
                _lay_out(branch(hidden), real).view(*real.shape, 1 + self.num_classes, 4)
                for branch in self.box_branches
            ),
        )

    def training_losses(self, images: Tensor, boxes_xyxy: Tensor, real: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the parts of the loss, weighted already: their sum is the loss.

        Args:
            images: as in ``forward``, like the next two.
            boxes_xyxy: as in ``forward``.
            real: as in ``forward``.
            labels: bool ``[B, C]``, the classes in each image.

        Returns:
            "image", "refine1".. and, with box branches, "box1".., each a float32 scalar: the mean over the B images. An image
            without proposals adds 0.
        """
        outputs = self(images, boxes_xyxy, real)
        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits, real)
        in_streams = torch.cat([labels.new_zeros(len(labels), scores.shape[2] - self.num_classes), labels], dim=1)
        of_image = image_loss(scores, in_streams, real, epsilon=self.image_loss_epsilon, mean=self.image_loss_mean)
        losses = {"image": of_image.mean()}
        teacher = self._foreground(scores)
        for branch, logits in enumerate(outputs.refined_logits):
            pseudo = self.mine(boxes_xyxy, teacher.detach(), real, labels)
            weight = self.branch_weight(branch)
            per_image = refinement_loss(logits, pseudo, real, epsilon=self.refinement_epsilon)
            losses[f"refine{branch + 1}"] = weight * per_image.mean()
            if outputs.deltas:
                targets = _encode(pseudo.target_boxes_xyxy, boxes_xyxy)
                losses[f"box{branch + 1}"] = weight * box_loss(outputs.deltas[branch], targets, pseudo, real).mean()
            teacher = self._foreground(logits.float().softmax(dim=2))
        return losses

    @torch.no_grad()
    def predict(self, images: Tensor, boxes_xyxy: Tensor, real: Tensor) -> Prediction:
        """Score the proposals of one image (B = 1), in evaluation mode whatever the mode was: the mean of the branches."""
        with in_mode(self, training=False):
            outputs = self._outputs(self._seen(images, boxes_xyxy[real]), real)
        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits, real)
        refined = torch.stack([self._foreground(logits.float().softmax(dim=2)) for logits in outputs.refined_logits])
        deltas = torch.stack(outputs.deltas).float().mean(dim=0)[0, :, 1:] if outputs.deltas else None
        return Prediction(
            image_scores=self._foreground(scores).sum(dim=1)[0].clamp(max=1),
            scores=(refined.mean(dim=0) * real[..., None])[0],
            deltas=deltas,
        )

    def _seen(self, images: Tensor, boxes_xyxy: Tensor) -> Tensor:
        """What the head says of N proposals of one image, ``[N, dim]``, as many at a time as memory allows."""
        features = self.body.features(images)

        def see(some: slice) -> Tensor:
            boxes = boxes_xyxy[some]
            return self.body.head(self.body.pool(features, boxes, boxes.new_zeros(len(boxes), dtype=torch.int64)))

        pooled_bytes = self.body.channels * self.body.pool_size**2 * 4
        at_once = chunk_size(features.device, tensor_bytes=pooled_bytes, peak_bytes=_PEAK_IN_POOLED * pooled_bytes)
        seen = list(in_chunks(len(boxes_xyxy), at_once, see))
        return torch.cat(seen) if seen else see(slice(0))

    def adversary_parameters(self) -> tuple[nn.Parameter, ...]:
        """Return what the adversary learns; () without one."""
        return () if self.adversary is None else tuple(self.adversary.parameters())

    def detector_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the detector itself learns: neither the adversary's nor frozen parameters."""
        return (parameter for _, parameter in self._named_detector_parameters())

    def parameter_groups(self, config: MilConfig) -> list[dict[str, Any]]:
        """Group ``detector_parameters`` for an optimiser (method 4.6); groups that would be empty are left out.

        Weights learn at ``lr`` and decay, biases at ``bias_lr_factor`` times it and do not. Where ``refine_lr_factor`` is
        not 1, the refinement branches learn at that many times ``lr`` and decay, biases too.
        """
        refinements = {id(parameter) for parameter in self.refinements.parameters()}
        apart = refinements if config.refine_lr_factor != 1 else set()
        weights: list[nn.Parameter] = []
        biases: list[nn.Parameter] = []
        refined: list[nn.Parameter] = []
        for name, parameter in self._named_detector_parameters():
            (refined if id(parameter) in apart else biases if name.endswith("bias") else weights).append(parameter)
        groups = [
            {"params": weights, "lr": config.lr, "weight_decay": config.weight_decay},
            {"params": biases, "lr": config.lr * config.bias_lr_factor, "weight_decay": 0.0},
            {"params": refined, "lr": config.lr * config.refine_lr_factor, "weight_decay": config.weight_decay},
        ]
        return [group for group in groups if group["params"]]

    def _named_detector_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and not name.startswith("adversary."):
                yield name, parameter

    def _foreground(self, scores: Tensor) -> Tensor:
        return scores[..., scores.shape[-1] - self.num_classes :]


def _lay_out(values: Tensor, real: Tensor) -> Tensor:
    """``[N, D]`` of the proposals that are there -> ``[B, R, D]``, 0 elsewhere."""
    rows = values.new_zeros(*real.shape, values.shape[1])
    rows[real] = values
    return rows


def _encode(target_xyxy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """What takes each box of ``[B, R, 4]`` to its target; NaN for padding, which ``box_loss`` does not look at."""
    encoded: Tensor = BOX_CODER.encode_single(target_xyxy.flatten(0, 1), boxes_xyxy.float().flatten(0, 1))
    return encoded.view_as(target_xyxy)
