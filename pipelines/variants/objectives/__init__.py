"""Objectives: the figures that tables have as columns and that sweeps compare trials by, all by name.

To add one: an ``Objective`` in a module, and a line below or an entry point of the group ``weaksam.objectives``.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from weaksam.errors import ConfigError
from weaksam.registry import Registry

if TYPE_CHECKING:
    from pipelines.variants.objectives.base import Objective

_HERE = "pipelines.variants.objectives"

OBJECTIVES: Registry[Objective] = Registry(
    "weaksam.objectives",
    {
        # of the retrained detector; tables may read those of detections from another instance of evaluate
        "ap50": f"{_HERE}.detections:AP50_AREA",
        "voc_ap50": f"{_HERE}.detections:AP50_ELEVEN_POINT",
        "map": f"{_HERE}.detections:COCO_AP",
        "coco_ap50": f"{_HERE}.detections:COCO_AP50",
        "coco_ap75": f"{_HERE}.detections:COCO_AP75",
        "corloc": f"{_HERE}.detections:CORLOC",
        "part": f"{_HERE}.detections:PART",
        "whole_image_voc_ap50": f"{_HERE}.detections:WHOLE_IMAGE_AP50",
        "whole_image_corloc": f"{_HERE}.detections:WHOLE_IMAGE_CORLOC",
        # of the weakly-supervised detector
        "mil_ap50": f"{_HERE}.detections:MIL_AP50",
        "mil_corloc": f"{_HERE}.detections:MIL_CORLOC",
        # of the retrained detector's masks, and of the pseudo masks that it learnt from
        "mask_ap": f"{_HERE}.masks:AP",
        "mask_ap25": f"{_HERE}.masks:AP25",
        "mask_ap50": f"{_HERE}.masks:AP50",
        "mask_ap70": f"{_HERE}.masks:AP70",
        "mask_ap75": f"{_HERE}.masks:AP75",
        "filled_box_ap50": f"{_HERE}.masks:FILLED_AP50",
        "pseudo_mask_iou": f"{_HERE}.masks:PSEUDO_IOU",
        "pseudo_mask_boundary_f": f"{_HERE}.masks:PSEUDO_BOUNDARY_F",
        # of the segmenter's label maps, and of what needs no method; tables may read them from another instance of evaluate
        "miou": f"{_HERE}.label_maps:MEAN_IOU",
        "boundary_iou": f"{_HERE}.label_maps:BOUNDARY_IOU",
        "background_miou": f"{_HERE}.label_maps:BACKGROUND_IOU",
        "largest_class_miou": f"{_HERE}.label_maps:LARGEST_CLASS_IOU",
        "bound_miou": f"{_HERE}.label_maps:BOUND_IOU",  # where the maps are seeds
        # of seeds, on the training images
        "pixel_seed_miou": f"{_HERE}.label_maps:PIXEL_IOU",
        "coarse_seed_miou": f"{_HERE}.label_maps:COARSE_IOU",
        "fine_seed_miou": f"{_HERE}.label_maps:FINE_IOU",
        "fine_seed_boundary_iou": f"{_HERE}.label_maps:FINE_BOUNDARY_IOU",
        # of pseudo labels
        "pseudo_precision": f"{_HERE}.pseudo_labels:PRECISION",
        "pseudo_recall": f"{_HERE}.pseudo_labels:RECALL",
        "pseudo_f1": f"{_HERE}.pseudo_labels:F1",
        # of the classifier whose maps are clues
        "classifier_map": f"{_HERE}.classifier:MEAN_AP",
        # of proposals, all of them or those that the weakly-supervised detector learns from
        "points": f"{_HERE}.proposals:POINTS",
        "boxes": f"{_HERE}.proposals:BOXES",
        "recall50": f"{_HERE}.proposals:RECALL_50",
        "recall75": f"{_HERE}.proposals:RECALL_75",
        "recall90": f"{_HERE}.proposals:RECALL_90",
        "mil_boxes": f"{_HERE}.proposals:LEARNT_BOXES",
        "mil_recall50": f"{_HERE}.proposals:LEARNT_RECALL_50",
        "mil_recall75": f"{_HERE}.proposals:LEARNT_RECALL_75",
        "mil_recall90": f"{_HERE}.proposals:LEARNT_RECALL_90",
        # label-free
        "classification_map": f"{_HERE}.agreement:CLASSIFICATION_MAP",
        "agreement": f"{_HERE}.agreement:AGREEMENT_OF_DETECTORS",
        "label_agreement": f"{_HERE}.agreement:LABEL_AGREEMENT",
        "rank": f"{_HERE}.agreement:MEAN_RANK",
        "seed_agreement": f"{_HERE}.label_maps:AGREEMENT_OF_SEEDS",
        "seed_clip_score": f"{_HERE}.label_maps:CLIP_SCORE",
        # what it took
        "proposed_images": f"{_HERE}.efficiency:PROPOSED_IMAGES",
        "propose_seconds": f"{_HERE}.efficiency:PROPOSE_SECONDS",
        "train_classifier_seconds": f"{_HERE}.efficiency:TRAIN_CLASSIFIER_SECONDS",
        "train_mil_seconds": f"{_HERE}.efficiency:TRAIN_MIL_SECONDS",
        "retrain_seconds": f"{_HERE}.efficiency:RETRAIN_SECONDS",
        "train_mil_memory": f"{_HERE}.efficiency:TRAIN_MIL_MEMORY",
        # of the regions that Faster R-CNN samples when RoI drop begins
        "regions_wrong": f"{_HERE}.noise:WRONG",
        "regions_dropped": f"{_HERE}.noise:DROPPED",
        "dropped_wrong": f"{_HERE}.noise:WRONG_AMONG_DROPPED",
    },
)


def check_objective(name: str, where: str) -> None:
    """Raise ConfigError, with the nearest name, if there is no objective of this name; ``where`` a file names it."""
    if name not in OBJECTIVES:
        close = difflib.get_close_matches(name, OBJECTIVES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{where}: expected one of {', '.join(OBJECTIVES)}, got {name}{hint}")
