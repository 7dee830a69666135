"""Which query is to find which object: the assignment of least cost (DETR, section 3.1; DINO's costs, method 7.1).

There are more queries than objects, so that most queries find nothing and learn to be background. Every object has one query,
however much objects overlap, and that is why the predictions need no suppression.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weaksam.detectors.retrained.dino.boxes import Objects, generalised_iou

CLASS_COST = 2.0
BOX_COST = 5.0
GIOU_COST = 2.0
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


@torch.no_grad()
def match(class_logits: Tensor, boxes_cxcywh: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
    """Find the assignment of least cost between the queries and the objects of one image.

    Args:
        class_logits: ``[Q, C]``.
        boxes_cxcywh: ``[Q, 4]``, what the queries predict.
        objects: N of them.

    Returns:
        Query indices, ascending, and the object of each, int64 ``[M]`` with M = min(Q, N); none occurs twice.

    Raises:
        FloatingPointError: a prediction or a box is not finite.
    """
    costs = matching_costs(class_logits, boxes_cxcywh, objects).cpu()
    if not costs.isfinite().all():
        raise FloatingPointError(
            f"expected finite costs of matching {costs.shape[0]} queries with {costs.shape[1]} objects, got NaN or infinity: "
            "the training diverged; lower the learning rate, or use precision fp32 or bf16"
        )
    queries, found = linear_sum_assignment(costs.numpy())
    device = class_logits.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(found, device=device)


def matching_costs(class_logits: Tensor, boxes_cxcywh: Tensor, objects: Objects) -> Tensor:
    """Return what it costs that a query finds an object, float32 ``[Q, N]``; arguments as in ``match``.

    The class cost is the focal loss of the object's class if it is there minus what it is if it is not; the box costs are the
    sum of the four distances, and 1 - GIoU.
    """
    with torch.autocast(class_logits.device.type, enabled=False):
        logits = class_logits.float()[:, objects.class_index]
        p = logits.sigmoid()
        there = FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * -F.logsigmoid(logits)
        not_there = (1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * -F.logsigmoid(-logits)
        boxes, wanted = boxes_cxcywh.float()[:, None], objects.boxes_cxcywh[None]
        distance = (boxes - wanted).abs().sum(dim=2)
        costs: Tensor = CLASS_COST * (there - not_there) + BOX_COST * distance
        return costs + GIOU_COST * (1 - generalised_iou(boxes, wanted))
