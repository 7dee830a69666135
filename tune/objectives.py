"""What a sweep may optimise. More is always better; every figure is in [0, 1].

Each objective is read for one of two parts: trials are *selected* on one and *reported* on the other. For detectors the parts
are splits; pseudo labels exist for training images only, whose halves (by a hash of their ids) are the parts. Agreement is
known where the teacher looked.

Label-free objectives know no true box: they are all that a weakly supervised project has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from scipy.stats import rankdata

from pipelines.evaluate.agreement import AGREEMENT, classification_map, image_labels
from pipelines.evaluate.detections import MeasuredImage
from pipelines.products.measured import Evaluation
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.recipe.model import Recipe
from pipelines.store.instances import Instance

Part = Literal["select", "report"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an objective is read from."""

    recipe: Recipe
    instance: Instance  # finished
    part: Part
    split: str  # of that part


@dataclass(frozen=True, kw_only=True)
class EarlyDetections:
    """What a detector that is still learning finds in one split."""

    recipe: Recipe
    split: str
    class_names: Sequence[str]
    images: Sequence[MeasuredImage]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One figure of a trial."""

    what: str  # for people
    instance: str  # name of the stage instance that holds it
    read: Callable[[Reading], float | None]  # None: there was nothing to measure
    label_free: bool = False
    early: Callable[[EarlyDetections], float | None] | None = None  # None: known at the end only

    @property
    def of_student(self) -> bool:
        """Whether it is of what the trial retrains, and so differs from seed to seed."""
        return self.instance in ("evaluate.final", "evaluate.agreement")

    def splits(self, recipe: Recipe, part: Part) -> dict[str, tuple[str, ...]]:
        """Return the fields of a recipe among whose splits (() = all) that of a part must be for this to be known there."""
        student, teacher = recipe.retrain.test.splits, recipe.detect.splits
        found = {"data.splits": recipe.data.splits}
        if self.instance == "evaluate.final":
            found["retrain.test.splits"] = student
        elif self.instance == "evaluate.agreement":  # of reported images only what needs no teacher is asked for
            found |= {"retrain.test.splits": student, **({"detect.splits": teacher} if part == "select" else {})}
        elif self.instance == "evaluate.mil":
            found["detect.splits"] = teacher
        elif self.instance == "evaluate.proposals":
            found["propose.splits"] = recipe.propose.splits
        else:
            return {}
        return found

    def where(self, part: Part, split: str) -> str:
        """Return which images a figure is of, for people, where the split of that part is ``split``."""
        if self.instance == "evaluate.label-agreement":
            return "the training images"
        if self.instance == "label":
            return {"select": "half of the training images", "report": "the other half of the training images"}[part]
        return split


def _detections(figure: str, reading: Reading) -> float | None:
    metrics = Evaluation(reading.instance).read()["detections"]
    return _of_detections(figure, metrics[reading.split]) if reading.split in metrics else None


def _of_detections(figure: str, measured: Mapping[str, Any]) -> float | None:
    holder = measured if figure == "classification_map" else next(iter(measured["rows"]), dict[str, Any]())
    value = holder.get(figure)
    return None if value is None else float(value)


def _early_detections(figure: str, seen: EarlyDetections) -> float | None:
    from pipelines.evaluate.detections import measure
    from weaksam.datasets import open_dataset

    truth = open_dataset(seen.recipe.data).ground_truth
    measured = measure(seen.images, seen.class_names, truth, seen.recipe.evaluate)
    return _of_detections(figure, measured[seen.split]) if seen.split in measured else None


def _early_classification_map(seen: EarlyDetections) -> float | None:
    from weaksam.datasets import open_dataset

    labels = image_labels(open_dataset(seen.recipe.data), seen.split)
    return classification_map({image.image_id: image.detections for image in seen.images}, labels)


def _recall(threshold: str, reading: Reading) -> float | None:
    splits = Evaluation(reading.instance).read()["splits"]
    rows = splits[reading.split]["rows"] if reading.split in splits else []
    best = max(rows, key=lambda row: len(row["sources"]), default=None)
    return None if best is None else best["one_to_one"].get(threshold)


def _agreement(figure: str, reading: Reading) -> float | None:
    value: float | None = Evaluation(reading.instance).read()[AGREEMENT].get(reading.split, {}).get(figure)
    return value


def _label_agreement(reading: Reading) -> float | None:
    if reading.part == "report":
        return None  # it is no figure of quality
    (measured,) = Evaluation(reading.instance).read()[AGREEMENT].values()
    value: float | None = measured["label_agreement"]
    return value


def _pseudo_labels(figure: str, reading: Reading) -> float | None:
    """Return precision, recall or F1 of one half of the pseudo labels."""
    from pipelines.evaluate.pseudo_labels import measure
    from weaksam.datasets import open_dataset

    table = PseudoLabelTable(reading.instance)
    half = (image for image in table.images() if half_of(image.image_id) == reading.part)
    measured = measure(half, table.class_names, open_dataset(reading.recipe.data).ground_truth)
    for of_split in measured.values():
        if of_split["rows"]:
            at_half = of_split["rows"][0]  # IoU .5
            precision, recall = at_half["precision"] or 0.0, at_half["recall"] or 0.0
            f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            return {"precision": precision, "recall": recall, "f1": f1}[figure]
    return None


def half_of(image_id: str) -> Part:
    """Return the part that a training image belongs to, always the same."""
    return "select" if hashlib.sha256(image_id.encode()).digest()[0] % 2 == 0 else "report"


def _detected(label: str, figure: str, what: str) -> Objective:
    return Objective(
        what=what,
        instance=f"evaluate.{label}",
        read=partial(_detections, figure),
        early=partial(_early_detections, figure) if label == "final" else None,
    )


RANK = "rank"
RANKED = ("classification_map", "agreement")  # what RANK combines

OBJECTIVES: dict[str, Objective] = {
    "ap50": _detected("final", "ap50_area", "AP50 of the retrained detector"),
    "map": _detected("final", "coco_ap", "COCO AP of the retrained detector"),
    "corloc": _detected("final", "corloc", "CorLoc of the retrained detector"),
    "mil_ap50": _detected("mil", "ap50_area", "AP50 of the weakly-supervised detector"),
    "mil_corloc": _detected("mil", "corloc", "CorLoc of the weakly-supervised detector"),
    "pseudo_precision": Objective(
        what="precision of the pseudo boxes at IoU .5", instance="label", read=partial(_pseudo_labels, "precision")
    ),
    "pseudo_recall": Objective(
        what="recall of the pseudo boxes at IoU .5", instance="label", read=partial(_pseudo_labels, "recall")
    ),
    "pseudo_f1": Objective(
        what="F1 of the pseudo boxes at IoU .5", instance="label", read=partial(_pseudo_labels, "f1")
    ),
    **{
        f"recall{100 * threshold:.0f}": Objective(
            what=f"proposal recall at IoU {threshold:g}",
            instance="evaluate.proposals",
            read=partial(_recall, f"{threshold:g}"),
        )
        for threshold in (0.5, 0.75, 0.9)
    },
    "classification_map": Objective(
        what="classification mAP of the retrained detector's image scores",
        instance="evaluate.agreement",
        read=partial(_agreement, "classification_map"),
        label_free=True,
        early=_early_classification_map,
    ),
    "agreement": Objective(
        what="agreement of teacher and student under mirroring and scaling",
        instance="evaluate.agreement",
        read=partial(_agreement, "agreement"),
        label_free=True,
    ),
    "label_agreement": Objective(
        what="agreement of the pseudo labels of an image and of its mirror image",
        instance="evaluate.label-agreement",
        read=_label_agreement,
        label_free=True,
    ),
    RANK: Objective(
        what="mean of the ranks of " + " and ".join(RANKED) + " among all trials",
        instance="evaluate.agreement",
        read=lambda _reading: None,  # a trial alone has no rank: see ``mean_ranks``
        label_free=True,
    ),
}


def mean_ranks(columns: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return for each of N trials the mean of its ranks, 1 for the best and 0 for the worst in every column.

    Args:
        columns: figures of N trials each. A trial without one of them has no rank.
    """
    complete = [all(value is not None for value in row) for row in zip(*columns, strict=True)]
    ranked = [
        (rankdata([value for value, whole in zip(column, complete, strict=True) if whole]) - 1)
        / max(sum(complete) - 1, 1)
        for column in columns
    ]
    means = iter([sum(ranks) / len(columns) for ranks in zip(*ranked, strict=True)])
    return [float(next(means)) if whole else None for whole in complete]
