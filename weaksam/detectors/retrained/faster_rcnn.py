"""Faster R-CNN with a feature pyramid, and RoI drop (method 6.1, 6.2).

    backbone -> pyramid -> region proposals -> sampled regions -> RoIAlign -> two layers -> classes, box deltas per class

Anchors, proposals, matching, sampling and suppression are torchvision's. The losses of the sampled regions are not, because
they have to stay per region for the drop. Nor are views scaled or normalised here, as torchvision's own model does: they
come that way.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from weaksam.config import FasterRcnnConfig, RetrainConfig, RoiDropConfig, require
from weaksam.config.precision import Precision
from weaksam.detectors.retrained.base import (
    PRECISION_OPTION,
    RetrainedDetector,
    Targets,
    TrainingLosses,
    ViewDetections,
)
from weaksam.losses.drop import RoiDrop, drops_at, roi_drop, roi_drop_counts
from weaksam.losses.history import history_of
from weaksam.networks.modes import in_mode
from weaksam.precision import require_finite
from weaksam.pseudo_labels.thresholds import knee, outlier_fence

ANCHORS_PER_IMAGE = 256  # sampled for the losses of the proposals; at most half of them foreground
MIN_IOU_ANCHOR = 0.7  # with a box, for an anchor to be foreground; the best anchors of a box are, whatever their IoU
MAX_IOU_ANCHOR = 0.3  # below it an anchor is background; in between it teaches nothing
PROPOSALS_NMS_IOU = 0.7
MIN_IOU = 0.5  # with a box, for a region to be foreground; all others are background
CODER_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
POOL_CELLS = 7  # side of the grid that a region is pooled to
SAMPLES_PER_CELL = 2  # along each side


class RoiLosses(NamedTuple):
    """What sampled regions cost, image after image; without gradient, float32 unless said otherwise."""

    loss_cls: Tensor  # [R]
    loss_reg: Tensor  # [R], in the unit that ``roi_drop`` wants; 0 for background
    foreground: Tensor  # bool [R]
    boxes_xyxy: Tensor  # [R, 4], pixels of the view
    target_index: Tensor  # int64 [R], the box of its image that a region is to find; -1 for background
    image_index: Tensor  # int64 [R]


class FasterRcnn(RetrainedDetector):
    """Two stages on a feature pyramid; parameters are named as in torchvision's, but for backbone and pyramid."""

    options: FasterRcnnConfig

    def __init__(self, config: RetrainConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        own, maps = self.options, len(self.backbone.channels)
        names = [str(level) for level in range(maps)]
        require(
            len(own.anchor_sides) == maps + 1,
            "anchor_sides",
            f"{maps + 1} sides, one per pyramid level of {config.backbone}",
            f"{len(own.anchor_sides)}: {own.anchor_sides}",
        )
        self.pyramid = FeaturePyramidNetwork(
            list(self.backbone.channels), own.pyramid_dim, extra_blocks=LastLevelMaxPool()
        )
        strides = (*self.backbone.strides, 2 * self.backbone.strides[-1])
        self.rpn = _ProposalNetwork(own, strides, config.test.precision)
        self.roi_heads = RoIHeads(
            MultiScaleRoIAlign(names, POOL_CELLS, SAMPLES_PER_CELL),
            TwoMLPHead(own.pyramid_dim * POOL_CELLS**2, own.head_dim),
            FastRCNNPredictor(own.head_dim, 1 + num_classes),
            fg_iou_thresh=MIN_IOU,
            bg_iou_thresh=MIN_IOU,
            batch_size_per_image=own.rois,
            positive_fraction=own.foreground_share,
            bbox_reg_weights=CODER_WEIGHTS,
            score_thresh=config.test.score_threshold,
            nms_thresh=config.test.nms_iou,
            detections_per_img=config.test.max_detections,
        )
        rules = {"tau_cls": (knee, math.inf), "tau_reg": (outlier_fence, math.inf)}
        self.loss_history = history_of(own.drop, rules)

    def training_losses(self, images: Tensor, sizes_hw: Tensor, targets: list[Targets], step: int) -> TrainingLosses:
        """See ``RetrainedDetector``: "rpn_objectness", "rpn_box", "class", "box".

        The last two are sums over the regions that the drop keeps, divided by the number of all sampled regions, or of those
        kept (``normaliser``). What is sampled comes from torch's global generator.
        """
        own = self.options
        views, features = self._features(images, sizes_hw)
        with in_mode(self.rpn, training=True):
            truth = [{"boxes": t.boxes_xyxy, "labels": t.class_index} for t in targets]
            proposals, of_proposals = self.rpn(views, features, truth)
        regions = self._sample(proposals, targets, self.roi_heads.fg_bg_sampler)
        loss_cls, loss_box, loss_reg = self._region_losses(images, features, regions)
        drop: RoiDrop | None = None
        normaliser = len(loss_cls)
        thresholds = self._drop_at(step, loss_cls, loss_reg, regions.foreground)
        if thresholds is not None:
            drop = roi_drop(loss_cls, loss_reg, regions.foreground, thresholds)
            loss_cls, loss_box = loss_cls[drop.keep], loss_box[drop.keep]
            if own.drop.normaliser == "kept":
                normaliser = len(loss_cls)
        losses = {
            "rpn_objectness": of_proposals["loss_objectness"],
            "rpn_box": of_proposals["loss_rpn_box_reg"],
            "class": loss_cls.sum() / max(normaliser, 1),
            "box": loss_box.sum() / max(normaliser, 1),
            **self.more_losses(images, features, regions, targets, None if drop is None else drop.keep),
        }
        return TrainingLosses(losses, roi_drop_counts(regions.foreground, drop, len(images)))

    def more_losses(
        self,
        images: Tensor,  # noqa: ARG002  (for subclasses)
        features: dict[str, Tensor],  # noqa: ARG002
        regions: Regions,  # noqa: ARG002
        targets: list[Targets],  # noqa: ARG002
        keep: Tensor | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Return what a subclass learns besides from the sampled regions, of which a drop keeps ``keep``, or all."""
        return {}

    def drop_in_numbers(self) -> RoiDropConfig:
        """Return the recipe's drop; thresholds that its losses have yet to choose are infinite: nothing is dropped."""
        drop: RoiDropConfig = self.options.drop if self.loss_history is None else self.loss_history.in_numbers()
        return drop

    def _drop_at(self, step: int, loss_cls: Tensor, loss_reg: Tensor, foreground: Tensor) -> RoiDropConfig | None:
        """Return how to drop at a step, with thresholds that are numbers; None where nothing drops (yet)."""
        drop = self.options.drop
        begin = drops_at(drop, step)
        if self.loss_history is None:
            return drop if begin else None
        self.loss_history.look(torch.stack([loss_cls.detach(), loss_reg], dim=1)[foreground], begin=begin)
        return self.drop_in_numbers() if self.loss_history.is_settled else None

    @torch.no_grad()
    def predict(self, images: Tensor, sizes_hw: Tensor) -> list[ViewDetections]:
        """See ``RetrainedDetector``."""
        with in_mode(self, training=False):
            views, features = self._features(images, sizes_hw)
            proposals, _ = self.rpn(views, features)
            logits, deltas = self._predictions(images, features, proposals)
            self.require_numbers(logits, deltas)
            found = self.roi_heads.postprocess_detections(logits, deltas, proposals, views.image_sizes)
            detections = [
                ViewDetections(boxes, labels - 1, scores) for boxes, scores, labels in zip(*found, strict=True)
            ]
            return self.with_masks(images, features, detections)

    def with_masks(
        self,
        images: Tensor,  # noqa: ARG002  (for subclasses)
        features: dict[str, Tensor],  # noqa: ARG002
        found: list[ViewDetections],
    ) -> list[ViewDetections]:
        """Return the detections with the masks that a subclass finds."""
        return found

    @torch.no_grad()
    def roi_losses(
        self,
        images: Tensor,
        sizes_hw: Tensor,
        targets: list[Targets],
        *,
        seed: int,
        rois: int = 50,
        foreground_share: float = 0.9,
    ) -> RoiLosses:
        """Measure the losses of sampled regions, in evaluation mode whatever the mode was (noise analysis, method 9.5).

        Args:
            images: as in ``training_losses``, like the next two.
            sizes_hw: as in ``training_losses``.
            targets: as in ``training_losses``.
            seed: decides what is sampled.
            rois: of each image, where it has as many.
            foreground_share: of these, at most.
        """
        devices = [images.device] if images.is_cuda else []
        with in_mode(self, training=False), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            views, features = self._features(images, sizes_hw)
            proposals, _ = self.rpn(views, features)
            regions = self._sample(proposals, targets, BalancedPositiveNegativeSampler(rois, foreground_share))
            loss_cls, _, loss_reg = self._region_losses(images, features, regions)
        counts = torch.tensor([len(boxes) for boxes in regions.boxes_xyxy], device=images.device)
        return RoiLosses(
            loss_cls=loss_cls,
            loss_reg=loss_reg,
            foreground=regions.foreground,
            boxes_xyxy=torch.cat(regions.boxes_xyxy),
            target_index=torch.where(regions.foreground, regions.target_index, -1),
            image_index=torch.arange(len(counts), device=images.device).repeat_interleave(counts),
        )

    def _features(self, images: Tensor, sizes_hw: Tensor) -> tuple[ImageList, dict[str, Tensor]]:
        """Return the views as torchvision wants them and the pyramid, finest first; float32, as boxes are computed from it."""
        maps = OrderedDict((str(level), features) for level, features in enumerate(self.backbone(images)))
        pyramid = {name: features.float() for name, features in self.pyramid(maps).items()}
        return ImageList(images, [(int(h), int(w)) for h, w in sizes_hw.tolist()]), pyramid

    def _sample(
        self, proposals: list[Tensor], targets: list[Targets], sampler: BalancedPositiveNegativeSampler
    ) -> Regions:
        """Choose among each image's proposals and true boxes what is learnt from."""
        truth = [t.boxes_xyxy.float() for t in targets]
        boxes = self.roi_heads.add_gt_proposals(proposals, truth)
        indices, labels = self.roi_heads.assign_targets_to_proposals(boxes, truth, [t.class_index + 1 for t in targets])
        chosen = [(fg | bg).nonzero()[:, 0] for fg, bg in zip(*sampler(labels), strict=True)]
        boxes = [of_image[c] for of_image, c in zip(boxes, chosen, strict=True)]
        indices = [of_image[c] for of_image, c in zip(indices, chosen, strict=True)]
        label = torch.cat([of_image[c] for of_image, c in zip(labels, chosen, strict=True)])
        # Where an image has no boxes all its regions are background, whose targets nothing looks at.
        matched = [t[i] if len(t) else b for t, i, b in zip(truth, indices, boxes, strict=True)]
        deltas = torch.cat(self.roi_heads.box_coder.encode(matched, boxes))
        return Regions(boxes, label, label > 0, torch.cat(indices), deltas)

    def _region_losses(
        self, images: Tensor, features: dict[str, Tensor], regions: Regions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return per region cross-entropy, smooth-L1 loss and what the drop judges by, ``[R]`` each."""
        logits, deltas = self._predictions(images, features, regions.boxes_xyxy)
        foreground = regions.foreground
        loss_cls = F.cross_entropy(logits, regions.label, reduction="none")
        own = deltas.view(len(deltas), -1, 4)[foreground, regions.label[foreground]]
        wanted = regions.target_deltas[foreground]
        zeros = torch.zeros_like(loss_cls)
        of_boxes = F.smooth_l1_loss(own, wanted, reduction="none", beta=self.options.beta).sum(dim=1)
        return (
            loss_cls,
            zeros.index_put((foreground,), of_boxes),
            zeros.index_put((foreground,), (own.detach() - wanted).abs().sum(dim=1)),
        )

    def _predictions(
        self, images: Tensor, features: dict[str, Tensor], boxes_xyxy: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return float32 class logits ``[R, 1 + C]``, the background first, and deltas ``[R, (1 + C) * 4]``."""
        # The pooling infers the strides from these sizes: those of the padded images, which are multiples of every stride.
        padded = [(images.shape[2], images.shape[3])] * len(images)
        pooled = self.roi_heads.box_roi_pool(features, boxes_xyxy, padded)
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits.float(), deltas.float()


class Regions(NamedTuple):
    """R sampled regions of a batch."""

    boxes_xyxy: list[Tensor]  # per image, pixels of the view
    label: Tensor  # int64 [R], 0 = background, else the class index + 1
    foreground: Tensor  # bool [R]
    target_index: Tensor  # int64 [R], of the box that it overlaps most if it is foreground
    target_deltas: Tensor  # [R, 4], of foreground alone


class _Anchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's, at the true strides: it divides the image's sides by the map's, which is wrong for a map rounded up."""

    def __init__(self, sides: Sequence[int], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__(tuple((side,) for side in sides), (tuple(ratios),) * len(sides))
        self.strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image, ``[A, 4]``, level after level."""
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        sizes = [features.shape[-2:] for features in feature_maps]
        anchors = torch.cat(self.grid_anchors(sizes, [[stride, stride] for stride in self.strides]))
        return [anchors] * len(image_list.image_sizes)


class _ProposalHead(RPNHead):  # type: ignore[misc]
    """torchvision's, with float32 results under autocast: boxes are computed from them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness logits and deltas per level."""
        logits, deltas = super().forward(x)
        return [values.float() for values in logits], [values.float() for values in deltas]


class _ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's, with a ``beta`` of the box loss, which there is always 1/9.

    In evaluation mode it raises ConfigError where it computed what is no number, which it would leave out of the proposals;
    ``precision`` is what that was computed in.
    """

    def __init__(self, config: FasterRcnnConfig, strides: Sequence[int], precision: Precision) -> None:
        training, testing = config.proposals_before_nms
        super().__init__(
            _Anchors(config.anchor_sides, config.anchor_ratios, strides),
            _ProposalHead(config.pyramid_dim, len(config.anchor_ratios)),
            fg_iou_thresh=MIN_IOU_ANCHOR,
            bg_iou_thresh=MAX_IOU_ANCHOR,
            batch_size_per_image=ANCHORS_PER_IMAGE,
            positive_fraction=0.5,
            pre_nms_top_n={"training": training, "testing": testing},
            post_nms_top_n={"training": config.proposals, "testing": config.proposals},
            nms_thresh=PROPOSALS_NMS_IOU,
        )
        self.beta = config.beta
        self.precision = precision

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the best boxes of each image ``[P, 4]``, and their objectness."""
        if not self.training:
            for values in (proposals, objectness):
                require_finite(values, PRECISION_OPTION, self.precision)
        found: tuple[list[Tensor], list[Tensor]] = super().filter_proposals(
            proposals, objectness, image_shapes, num_anchors_per_level
        )
        return found

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and boxes over a batch's sampled anchors, divided by their number."""
        foreground, background = (torch.cat(masks).nonzero()[:, 0] for masks in self.fg_bg_sampler(labels))
        sampled = torch.cat([foreground, background])
        own, wanted = pred_bbox_deltas[foreground], torch.cat(regression_targets)[foreground]
        of_boxes = F.smooth_l1_loss(own, wanted, reduction="sum", beta=self.beta) / max(len(sampled), 1)
        return F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled]), of_boxes
