"""Detection at test time: several scales and their mirror images, then suppression per class.

Weakly-supervised detectors score given proposals, so that their passes are averaged (method 4.7). Retrained ones find boxes of
their own, so that the passes are joined (method 6.3).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from weaksam.boxes import clip_boxes
from weaksam.config import DetectConfig
from weaksam.detectors.mil.base import BOX_CODER, Prediction, WeakDetector
from weaksam.detectors.mil.samples import View, collate, mirrored, scaled
from weaksam.detectors.retrained.base import PRECISION_OPTION, RetrainedDetector, Targets
from weaksam.detectors.retrained.samples import collate_boxes
from weaksam.masks import paste_masks
from weaksam.masks_np import Rle, mask_nms
from weaksam.precision import computing, require_finite
from weaksam.structures import Detections

NO_TARGETS = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def detect(
    detector: WeakDetector, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], config: DetectConfig
) -> Detections:
    """Find the objects of one image among its proposals.

    Scores and boxes are averaged over all passes, per proposal and class, before anything is suppressed. A pass's deltas do
    not depend on its scale, so they are applied to the proposals in the image's own pixels.

    Args:
        detector: on any device, in any mode.
        image: ``[H, W, 3]`` RGB.
        boxes_xyxy: ``[R, 4]`` proposals, pixels of the image, filtered already (``prepare_proposals``).
        config: scales, mirroring, suppression and cap.

    Returns:
        The best score first; boxes are cut to the image. Without proposals: no detections, and image scores of 0.
    """
    image_scores, all_scores, all_boxes = _mean_of_passes(detector, image, boxes_xyxy, config)
    proposal, class_index = (all_scores > config.score_threshold).nonzero(as_tuple=True)
    boxes, scores = all_boxes[proposal, class_index], all_scores[proposal, class_index]
    best = batched_nms(boxes, scores, class_index, config.nms_iou)[: config.max_detections]
    return Detections(
        boxes_xyxy=boxes[best].numpy(),
        class_index=class_index[best].numpy(),
        score=scores[best].numpy(),
        image_scores=image_scores.numpy(),
    )


def detect_alone(detector: RetrainedDetector, image: NDArray[np.uint8]) -> Detections:
    """Find the objects of one image without proposals, as ``detector.config.test`` says.

    With several passes (scales, mirror images) all that they find is suppressed together, per class, by boxes or, where the
    detector says so, by masks; a single pass has suppressed its own boxes if its detector wants that. A mask is that of the
    pass that its box is from. An image scores for a class what the best detection does.

    Args:
        detector: on any device, in any mode.
        image: ``[H, W, 3]`` RGB.

    Returns:
        The best score first; boxes are cut to the image.

    Raises:
        ConfigError: what the detector computed is no number, or was too large for half precision.
    """
    config = detector.config.test
    device = next(detector.parameters()).device
    height, width = image.shape[:2]
    boxes: list[Tensor] = []
    class_indices: list[Tensor] = []
    scores: list[Tensor] = []
    masks: list[Tensor] = []
    for scale in config.scales:
        view, _ = scaled(image, np.zeros((0, 4), np.float32), scale, config.max_side)
        to_image = torch.tensor([width / view.shape[1], height / view.shape[0]]).repeat(2)
        for mirror in (False, True) if config.flip else (False,):
            pixels = view[:, ::-1] if mirror else view
            batch = collate_boxes([(detector.backbone.pixels.normalise(pixels), NO_TARGETS)])
            with computing(config.precision, detector, PRECISION_OPTION):
                (found,) = detector.predict(batch.images.to(device), batch.sizes_hw.to(device))
            in_view = found.boxes_xyxy.float().cpu()
            if mirror:
                x1, y1, x2, y2 = in_view.unbind(dim=1)
                in_view = torch.stack([view.shape[1] - x2, y1, view.shape[1] - x1, y2], dim=1)
            if found.masks is not None:
                masks.append(found.masks.flip(-1) if mirror else found.masks)
            boxes.append(clip_boxes(in_view * to_image, (height, width)))
            class_indices.append(found.class_index.cpu())
            scores.append(found.score.float().cpu())
    all_boxes, class_index, score = torch.cat(boxes), torch.cat(class_indices), torch.cat(scores)
    mask_rle: list[Rle] | None = None
    if len(boxes) > 1 and masks and detector.options.masks_suppress:
        pasted = paste_masks(torch.cat(masks), all_boxes, (height, width))
        kept = mask_nms(pasted, score.numpy(), class_index.numpy(), config.nms_iou)[: config.max_detections]
        best, mask_rle = torch.from_numpy(kept), [pasted[n] for n in kept]
    elif len(boxes) > 1:
        best = batched_nms(all_boxes, score, class_index, config.nms_iou)[: config.max_detections]
    else:
        best = score.argsort(descending=True, stable=True)[: config.max_detections]
    if masks and mask_rle is None:
        mask_rle = paste_masks(torch.cat(masks)[best.to(device)], all_boxes[best], (height, width))
    image_scores = torch.zeros(detector.num_classes).scatter_reduce(0, class_index, score, "amax")
    return Detections(
        boxes_xyxy=all_boxes[best].numpy(),
        class_index=class_index[best].numpy(),
        score=score[best].numpy(),
        image_scores=image_scores.numpy(),
        mask_rle=mask_rle,
    )


def _mean_of_passes(
    detector: WeakDetector, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], config: DetectConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return image scores ``[C]``, scores ``[R, C]`` and boxes ``[R, C, 4]`` cut to the image, on the CPU."""
    device = next(detector.parameters()).device
    proposals = torch.from_numpy(boxes_xyxy).float()
    size_hw = (image.shape[0], image.shape[1])
    passes: list[Prediction] = []
    boxes: list[Tensor] = []
    for scale in config.scales:
        view = scaled(image, boxes_xyxy, scale, config.max_side)
        for mirror in (False, True) if config.flip else (False,):
            pixels, scaled_boxes = mirrored(*view) if mirror else view
            batch = collate([View(detector.body.normalise(pixels), torch.from_numpy(scaled_boxes))])
            with computing(config.precision, detector, "detect.precision"):
                prediction = detector.predict(*(tensor.to(device) for tensor in batch))
            require_finite(prediction.scores, "detect.precision", config.precision)
            passes.append(prediction)
            if prediction.deltas is not None:
                deltas = prediction.deltas.cpu() * torch.tensor([-1.0 if mirror else 1.0, 1.0, 1.0, 1.0])
                decoded = BOX_CODER.decode_single(deltas.flatten(1), proposals).view_as(deltas)
                boxes.append(clip_boxes(decoded, size_hw))
    scores = torch.stack([p.scores for p in passes]).mean(dim=0).cpu()
    image_scores = torch.stack([p.image_scores for p in passes]).mean(dim=0).cpu()
    if not boxes:
        return image_scores, scores, clip_boxes(proposals, size_hw)[:, None].expand(*scores.shape, 4)
    return image_scores, scores, torch.stack(boxes).mean(dim=0)
