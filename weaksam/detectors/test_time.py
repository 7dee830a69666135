"""Detection at test time: several scales and their mirror images, averaged, then suppression per class (method 4.7)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from weaksam.boxes import clip_boxes
from weaksam.config import DetectConfig
from weaksam.detectors.views import View, collate, mirrored, scaled
from weaksam.detectors.wsod import BOX_CODER, Prediction, WeakDetector
from weaksam.structures import Detections


def detect(
    detector: WeakDetector, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], config: DetectConfig
) -> Detections:
    """Find the objects of one image among its proposals.

    Scores and box deltas are averaged over all passes, per proposal and class, before anything is decoded or suppressed.
    Deltas do not depend on the scale: their mean is the box at the passes' mean centre with their mean log sides, where
    the published code averages the corners of each pass's boxes.

    Args:
        detector: on any device, in any mode.
        image: ``[H, W, 3]`` RGB.
        boxes_xyxy: ``[R, 4]`` proposals, pixels of the image, filtered already (``prepare_proposals``).
        config: scales, mirroring, suppression and cap.

    Returns:
        The best score first; boxes are cut to the image. Without proposals: no detections, and image scores of 0.
    """
    mean = _mean_prediction(detector, image, boxes_xyxy, config)
    boxes = torch.from_numpy(boxes_xyxy)[:, None].float()  # [R, 1, 4]
    if mean.deltas is not None:
        decoded = BOX_CODER.decode_single(mean.deltas.flatten(1), boxes[:, 0])
        boxes = decoded.view_as(mean.deltas)  # [R, C, 4]
    height, width = image.shape[:2]
    boxes = clip_boxes(boxes, (height, width)).expand(*mean.scores.shape, 4)
    proposal, class_index = (mean.scores > config.score_threshold).nonzero(as_tuple=True)
    boxes, scores = boxes[proposal, class_index], mean.scores[proposal, class_index]
    best = batched_nms(boxes, scores, class_index, config.nms_iou)[: config.max_detections]
    return Detections(
        boxes_xyxy=boxes[best].numpy(),
        class_index=class_index[best].numpy(),
        score=scores[best].numpy(),
        image_scores=mean.image_scores.numpy(),
    )


def _mean_prediction(
    detector: WeakDetector, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], config: DetectConfig
) -> Prediction:
    """Average the predictions of all passes, on the CPU; the deltas of mirrored ones are mirrored back."""
    device = next(detector.parameters()).device
    passes: list[Prediction] = []
    all_deltas: list[Tensor] = []
    for scale in config.scales:
        view = scaled(image, boxes_xyxy, scale, config.max_side)
        for mirror in (False, True) if config.flip else (False,):
            pixels, boxes = mirrored(*view) if mirror else view
            batch = collate([View(detector.body.normalise(pixels), torch.from_numpy(boxes))])
            prediction = detector.predict(*(tensor.to(device) for tensor in batch))
            passes.append(prediction)
            if prediction.deltas is not None:
                all_deltas.append(prediction.deltas * prediction.deltas.new_tensor([-1 if mirror else 1, 1, 1, 1]))
    return Prediction(
        image_scores=torch.stack([p.image_scores for p in passes]).mean(dim=0).cpu(),
        scores=torch.stack([p.scores for p in passes]).mean(dim=0).cpu(),
        deltas=torch.stack(all_deltas).mean(dim=0).cpu() if all_deltas else None,
    )
