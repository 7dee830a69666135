"""What trainings and evaluations leave behind, made by hand."""

from pipelines.training.task import Progress


def row_of_scalars(step, *, steps=8, **losses):
    return Progress(
        step=step, steps=steps, epoch=0.0, loss=sum(losses.values()), losses=losses, lr=0.1, images_per_s=1.0, eta_s=0.0
    )


def row_of_metrics(name, ap50, corloc, shares=(0.5, 0.3, 0.2)):
    correct, part, elsewhere = shares
    return {
        "name": name, "ap50_eleven_point": ap50, "ap50_area": 0.111, "corloc": corloc, "corloc_without_difficult": 0.0,
        "correct": correct, "part": part, "elsewhere": elsewhere, "coco_ap": 0.222, "coco_ap50": 0.0, "coco_ap75": 0.333,
    }  # fmt: skip


def row_of_class(name, ap50, corloc=0.5):
    return {
        "name": name, "objects": 7, "ap50_eleven_point": ap50, "ap50_area": ap50, "corloc": corloc, "part": 0.125,
        "classification_ap": 0.5,
    }  # fmt: skip


def metrics(names=("cat", "dog", "emu"), **changes):
    """Two classes measured and one without objects; a split whose true boxes are not known."""
    worse, better, none = names
    measured = {
        "images": 9, "detections": 12.5, "objects": 1234, "classification_map": 0.875,
        "rows": [
            row_of_metrics("detector", 0.4567, 0.654),
            row_of_metrics("whole image", 0.1234, 0.2345, (0.1, 0.0, 0.9)),
            row_of_metrics("random proposal", 0.05, 0.07, (None, None, None)),
        ],
        "classes": [row_of_class(worse, 0.25), row_of_class(none, None, None), row_of_class(better, 0.75)],
        **changes,
    }  # fmt: skip
    unknown = {"images": 3, "detections": 4.0, "objects": None, "classification_map": None, "rows": [], "classes": []}
    return {"class_names": list(names), "detections": {"test": unknown, "val": measured}}


PROMPTS = {  # of ``analyse.prompts``
    "split": "train",
    "images": 5,
    "seeds": [0, 1, 2],
    "rows": [
        {
            "name": "grid",
            "sources": ["grid"],
            "points": 9.0,
            "boxes": 2.0,
            "recall": {"0.5": 0.5, "0.75": 0.2, "0.9": 0.0},
        },
        {
            "name": "fine",
            "sources": ["grid", "fine"],
            "points": 11.0,
            "boxes": 4.0,
            "recall": {"0.5": 0.9, "0.75": 0.8, "0.9": 0.7},
            "random": {
                "points": 11.0,
                "boxes": 4.5,
                "recall": {"0.5": 0.6, "0.75": 0.3, "0.9": 0.1},
                "spread": {"0.5": 0.04, "0.75": 0.02, "0.9": 0.01},
            },
            "dense_grid": {"points": 16.0, "boxes": 5.0, "recall": {"0.5": 0.95, "0.75": 0.5, "0.9": 0.2}},
        },
    ],
}


SIMILARITY = {
    "split": "train",
    "images": ["a", "b"],
    "rows": [
        {"name": "all", "proposals": 2.5, "values": {"a": 0.25, "b": 0.75}, "mean": 0.5, "spread": 0.5},
        {"name": "grid", "proposals": 1.5, "values": {"a": None, "b": 0.5}, "mean": 0.5, "spread": 0.0},
        {"name": "fine", "proposals": 0.0, "values": {"a": None, "b": None}, "mean": None, "spread": None},
    ],
}

_QUALITY = [{"iou": 0.5, "precision": 0.5, "recall": 0.25}, {"iou": 0.75, "precision": None, "recall": 0.125}]
PSEUDO_BOXES = {
    "class_names": ["cat"],
    "supervision": "image-labels",
    "pseudo_labels": {
        "train": {
            "images": 8, "boxes": 1.5, "empty": 2, "objects": 16, "rows": _QUALITY,
            "classes": [{"name": "cat", "objects": 16, "rows": _QUALITY}],
        }
    },
}  # fmt: skip


def _row_of_masks(name, ap):
    return {
        "name": name,
        "images": 9,
        "ap": ap,
        "ap25": 0.75,
        "ap50": 0.5,
        "ap70": 0.25,
        "ap75": 0.125,
        "ap50_area": 0.5,
    }


OF_MASKS = {  # under "masks" of the detections of a split
    "without_mask": 1234,
    "rows": [
        _row_of_masks("masks", 0.3),
        _row_of_masks("boxes, filled", 0.2),
        _row_of_masks("ellipses in the boxes", None),
    ],
    "grabcut": {"masks": 4, "fell_back": 1},
    "worst": [{"image_id": "val-00001", "mean_iou": 0.0625}],
    "classes": [_row_of_masks("cat", 0.375), _row_of_masks("emu", None)],
}


def _row_of_pseudo_masks(name, iou):
    return {
        "name": name,
        "images": 8,
        "iou": iou,
        "boundary_f": 0.5,
        "ap": 0.25,
        "ap50": 0.5,
        "precision": 0.25,
        "recall": None,
    }


PSEUDO_MASKS = {
    "class_names": ["cat"],
    "supervision": "image-labels",
    "pseudo_masks": {
        "test": {
            "images": 3, "masks": 1.5, "without_mask": 0, "objects": None, "rows": [], "histogram": [], "classes": [],
            "worst": [],
        },
        "train": {
            "images": 8, "masks": 1.5, "without_mask": 1234, "objects": 16,
            "rows": [_row_of_pseudo_masks("pseudo masks", 0.7), _row_of_pseudo_masks("boxes, filled", 0.6)],
            "histogram": [3, 0, 5, 8], "grabcut": {"masks": 0, "fell_back": 0},
            "classes": [
                {**_row_of_pseudo_masks("cat", 0.875), "objects": 16},
                {**_row_of_pseudo_masks("emu", None), "objects": 0},
            ],
            "worst": [{"image_id": "train-00001", "mean_iou": 0.0625}, {"image_id": "gone", "mean_iou": 0.25}],
        },
    },
}  # fmt: skip


def _row_of_maps(name, mean_iou):
    return {"name": name, "mean_iou": mean_iou, "boundary_iou": 0.25, "pixel_accuracy": 0.75}


def _class_of_maps(name, pixels, iou):
    return {"name": name, "pixels": pixels, "iou": iou, "boundary_iou": 0.125, "precision": 0.5, "recall": iou}


def label_maps(mean_iou=0.625, seeds=None):
    """Two classes, of which one occurs nowhere, beside background; a split whose true maps are not known."""
    rows = [_row_of_maps("label maps", mean_iou), _row_of_maps("background alone", 0.375),
            _row_of_maps("the largest class alone", 0.25)]  # fmt: skip
    counts = {"undecided": 0.0625, "seeds": seeds}
    unknown = {**counts, "images": 3, "measured": 0, "rows": [], "classes": [], "confusion": [], "worst": [],
               "conditions": []}  # fmt: skip
    known = {
        **counts, "images": 8, "measured": 7, "rows": rows,
        "classes": [_class_of_maps("background", 400, 0.875), _class_of_maps("cat", 100, 0.4375),
                    _class_of_maps("emu", 0, None)],
        "confusion": [[390, 10, 0], [60, 40, 0], [0, 0, 0]],
        "worst": [{"image_id": "train-00001", "mean_iou": 0.0625}, {"image_id": "gone", "mean_iou": 0.25}],
        "conditions": [{"condition": "classes in the image", "group": "1", "pairs": 5, "mean_iou": 0.5},
                       {"condition": "classes in the image", "group": "2", "pairs": 0, "mean_iou": None}],
    }  # fmt: skip
    return {
        "class_names": ["cat", "emu"], "supervision": "image-labels", "label_maps": {"test": unknown, "train": known},
    }  # fmt: skip


CLASSIFIER = {
    "class_names": ["cat", "dog"],
    "supervision": "image-labels",
    "classifier": {
        "train": {
            "images": 8, "mean_ap": 0.875, "classes": [{"name": "cat", "images": 5, "ap": 0.75},
                                                       {"name": "dog", "images": 4, "ap": 1.0}],
        },
        "test": {
            "images": 1234, "mean_ap": 0.5, "classes": [{"name": "cat", "images": 0, "ap": None},
                                                        {"name": "dog", "images": 7, "ap": 0.5}],
        },
    },
}  # fmt: skip

AGREEMENT = {
    "agreement": {
        "val": {
            "images": 1500, "classification_map": 0.75, "agreement": 0.625, "agreement_with_teacher": 0.5,
            "agreement_of_views": None,
        }
    }
}  # fmt: skip
LABEL_AGREEMENT = {"agreement": {"train": {"images": 9, "label_agreement": 0.375}}}
