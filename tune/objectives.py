"""What a sweep may optimise. More is always better; every figure is in [0, 1].

Each objective is read for one of two parts: trials are *selected* on one and *reported* on the other. For detectors the parts
are splits; pseudo labels exist for training images only, whose halves (by a hash of their ids) are the parts.

Label-free objectives know no true box: they are all that a weakly supervised project has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from scipy.stats import rankdata

from pipelines.evaluate_agreement import AGREEMENT
from pipelines.evaluate_proposals import METRICS_FILE
from pipelines.recipe import Recipe
from pipelines.runs import Instance
from pipelines.schemas import PSEUDO_LABELS, pseudo_labels_from_row
from pipelines.store import read_json
from weaksam.structures import PseudoGroundTruth

Part = Literal["select", "report"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an objective is read from."""

    recipe: Recipe
    instance: Instance  # finished
    part: Part
    split: str  # of that part


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One figure of a trial."""

    what: str  # for people
    instance: str  # name of the stage instance that holds it
    read: Callable[[Reading], float | None]  # None: there was nothing to measure
    label_free: bool = False
    # of detections on one split, as ``evaluate_detections.measure`` returns them; None: known at the end only
    early: Callable[[Mapping[str, Any]], float | None] | None = None


def _detections(figure: str, reading: Reading) -> float | None:
    metrics = read_json(reading.instance.file(METRICS_FILE))["detections"]
    return _of_detections(figure, metrics[reading.split]) if reading.split in metrics else None


def _of_detections(figure: str, measured: Mapping[str, Any]) -> float | None:
    holder = measured if figure == "classification_map" else next(iter(measured["rows"]), {})
    value = holder.get(figure)
    return None if value is None else float(value)


def _recall(threshold: str, reading: Reading) -> float | None:
    splits = read_json(reading.instance.file(METRICS_FILE))["splits"]
    rows = splits[reading.split]["rows"] if reading.split in splits else []
    best = max(rows, key=lambda row: len(row["sources"]), default=None)
    return None if best is None else best["one_to_one"].get(threshold)


def _agreement(figure: str, reading: Reading) -> float | None:
    value: float | None = read_json(reading.instance.file(METRICS_FILE))[AGREEMENT].get(reading.split, {}).get(figure)
    return value


def _label_agreement(reading: Reading) -> float | None:
    if reading.part == "report":
        return None  # it is no figure of quality
    (measured,) = read_json(reading.instance.file(METRICS_FILE))[AGREEMENT].values()
    value: float | None = measured["label_agreement"]
    return value


def _pseudo_labels(figure: str, reading: Reading) -> float | None:
    """Return precision, recall or F1 of one half of the pseudo labels."""
    from pipelines.evaluate_pseudo_labels import measure
    from weaksam.datasets import open_dataset

    table = reading.instance.table(PSEUDO_LABELS)
    columns = ("image_id", "split", "boxes_xyxy", "class_index", "score", "score_normalised")

    def rows() -> Iterator[tuple[str, str, PseudoGroundTruth]]:
        for row in table.iter_rows(columns):
            if half_of(row["image_id"]) == reading.part:
                yield row["image_id"], row["split"], pseudo_labels_from_row(row)

    measured = measure(rows(), table.class_names(), open_dataset(reading.recipe.data).ground_truth)
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
        early=partial(_of_detections, figure) if label == "final" else None,
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
        early=partial(_of_detections, "classification_map"),
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
