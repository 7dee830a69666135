"""What the paper published, which ``weaksam table`` prints beside its own measurements.

Per cent unless a name says otherwise, as printed. VOC 2007's average precision is the 11-point one, VOC 2012's is that of the
evaluation server (area under the curve), COCO's is COCO's.
"""

from __future__ import annotations

from collections.abc import Mapping

# Said beside the figures: what would read differently with us of the very same boxes.
RECALL_READS_HIGHER = (
    "The published recall compares boxes counted from pixel 0 with true ones counted from pixel 1. Ours does not: of the same "
    "boxes it reads higher, most of all at IoU .9."
)
CORLOC_READS_DIFFERENTLY = (
    "The published CorLoc of MIST compares boxes with true ones a pixel off. Ours does not: close to IoU .5 the two "
    "differ."
)
PEAKS_ARE_PADDED = (
    "The published peaks of a map with fewer than 25 maxima are filled up with pixels that are none, where these pass the "
    "threshold: some of the published boxes come from such prompts. Ours are maxima only."
)

Figures = Mapping[str, float]  # name of a measure -> what was published

SELECTIVE_SEARCH, WEAKSAM = "Selective Search", "WeakSAM"
FULLY_SUPERVISED = "Faster R-CNN, fully supervised"

# (detector, proposals) in the order of Table 1; the ones after MIST are trained on pseudo ground truth.
TABLE_1_ROWS = (
    ("OICR", SELECTIVE_SEARCH),
    ("OICR", WEAKSAM),
    ("MIST", SELECTIVE_SEARCH),
    ("MIST", WEAKSAM),
    ("OICR + Faster R-CNN", WEAKSAM),
    ("MIST + Faster R-CNN", WEAKSAM),
    ("OICR + DINO", WEAKSAM),
    ("MIST + DINO", WEAKSAM),
    (FULLY_SUPERVISED, "–"),
)


def _table_1(*columns: tuple[float | None, ...], names: tuple[str, ...]) -> dict[tuple[str, str], Figures]:
    """Return what was published of one data set: per measure one number for each row."""
    rows = zip(*columns, strict=True)
    return {
        row: {name: value for name, value in zip(names, values, strict=True) if value is not None}
        for row, values in zip(TABLE_1_ROWS, rows, strict=True)
    }


TABLE_1: dict[str, dict[tuple[str, str], Figures]] = {
    "voc07": _table_1((41.2, 58.9, 54.9, 67.4, 65.7, 71.8, 66.1, 73.4, 69.9), names=("AP50",)),
    "voc12": _table_1((37.9, 58.4, 52.1, 66.9, 62.9, 69.2, 63.7, 70.2, None), names=("AP50",)),
    "coco14": _table_1(
        (8.0, 19.9, 11.4, 22.9, 22.3, 23.8, 24.9, 26.6, 21.2),
        (18.9, 32.1, 24.3, 35.2, 36.5, 38.5, 36.9, 39.3, 41.5),
        (7.0, 20.6, 9.4, 24.6, 23.0, 25.1, 26.8, 29.0, None),
        names=("AP", "AP50 COCO", "AP75"),
    ),
}

# VOC 2007: boxes an image and recall on trainval; AP50 of MIST on test.
TABLE_4: dict[str, Figures] = {
    SELECTIVE_SEARCH: {"boxes": 2001, "R@.5": 92.6, "R@.75": 57.7, "R@.9": 19.2, "AP50": 54.9},
    "grid": {"boxes": 129, "R@.5": 79.6, "R@.75": 50.7, "R@.9": 24.3, "AP50": 45.2},
    "+ fine": {"boxes": 151, "R@.5": 88.9, "R@.75": 67.0, "R@.9": 37.2, "AP50": 63.3},
    "+ coarse": {"boxes": 174, "R@.5": 90.6, "R@.75": 70.1, "R@.9": 40.1, "AP50": 65.5},
    "+ cross": {"boxes": 213, "R@.5": 95.6, "R@.75": 75.0, "R@.9": 42.1, "AP50": 67.4},
}

# VOC 2007 on four GPUs of 24 GB.
TABLE_6: dict[str, Figures] = {
    SELECTIVE_SEARCH: {"boxes": 2001, "propose h": 11.6, "train h": 16, "MiB a GPU": 17810},
    WEAKSAM: {"boxes": 213, "propose h": 4, "train h": 9, "MiB a GPU": 5667},
}

# VOC 2007 trainval, the detectors with test-time augmentation.
TABLE_10: dict[tuple[str, str], Figures] = {
    ("OICR", SELECTIVE_SEARCH): {"CorLoc": 60.6},
    ("OICR", WEAKSAM): {"CorLoc": 74.5},
    ("MIST", SELECTIVE_SEARCH): {"CorLoc": 68.8},
    ("MIST", WEAKSAM): {"CorLoc": 82.9},
}
