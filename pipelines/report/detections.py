"""What the report shows of trainings and detectors: loss curves, measures beside the trivial detectors, the worst failures.

A failure is judged as ``PartDomination`` judges: by the best-scoring detection of each class that the image contains. True
boxes are given by the caller; a split whose true boxes are not known has no failures.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluate.detections import DETECTOR, WHOLE_IMAGE
from pipelines.recipe.config import ReportConfig
from pipelines.recipe.model import verb_of
from pipelines.report import charts, pictures
from pipelines.store.instances import Instance
from pipelines.store.numbers import percent
from pipelines.store.schemas import DETECTIONS, detections_from_row
from pipelines.training.fit import CHECKPOINTS
from pipelines.training.loss_drop import dropped_shares
from weaksam.datasets.ground_truth import true_objects
from weaksam.errors import ImageError
from weaksam.io.files import join
from weaksam.structures import IMAGE_LABELS, Detections, GroundTruth

if TYPE_CHECKING:
    from pipelines.training.task import Progress

TRAININGS = ("train-classifier", "train-mil", "retrain")  # verbs
VERDICTS = {"correct": "correct", "part": "part", "elsewhere": "elsewhere", "undetected": "missed class"}
_FAILURE_BYTES = 2**20  # of encoded pictures, beside those of the gallery
_MOST_POINTS = 120  # of a loss curve, a third of the drawing's width
_LINE_COLOURS = 8  # CSS classes line-0, line-1, …
_COLUMNS = ("image_id", "split", "size_hw", "boxes_xyxy", "class_index", "score", "image_scores")


# ------------------------------------------------------------------------------------------------------------------- curves


def trainings(upstream: Mapping[str, Instance]) -> list[dict[str, Any]]:
    """Return the loss curves of every training that has written scalars: ``name``, ``what``, ``chart`` and ``legend``."""
    names = [name for name in upstream if verb_of(name) in TRAININGS]
    if not names:
        return []
    from pipelines.training.checkpoints import read_scalars  # with torch

    found = ((n, read_scalars(join(upstream[n].file(CHECKPOINTS), upstream[n].key))) for n in names)
    return [_training(name, rows) for name, rows in found if rows]


def _training(name: str, rows: Sequence[Progress]) -> dict[str, Any]:
    points, averaged = averages(rows)
    parts = list(points[0][1])
    labels = {part: part for part in parts}
    if len(parts) == 2:  # the total and its only part
        del labels[parts[1]]
        labels["total"] = f"total = {parts[1]}"
    lines = [
        charts.Line(label=label, css_class=f"line-{n % _LINE_COLOURS}", losses=[losses[part] for _, losses in points])
        for n, (part, label) in enumerate(labels.items())
    ]
    smoothed = f", each point a mean over {averaged:,} steps" if averaged > 1 else ""
    last = ", ".join(f"{label} {points[-1][1][part]:.3g}" for part, label in labels.items())
    what = f"{name}: loss by step{smoothed}. Last: {last}{_dropped(rows)}"
    return {
        "name": name,
        "what": what,
        "chart": charts.loss_chart([step for step, _ in points], lines, label=what),
        "legend": [(line.label, line.css_class, charts.legend_sign(n)) for n, line in enumerate(lines)],
    }


def _dropped(rows: Sequence[Progress]) -> str:
    """Say what a loss drop dropped over the whole training; nothing where none is counted."""
    shares = dropped_shares(rows)
    return "".join(f". Dropped: {percent(share)} % of the {what}" for what, share in shares.items())


def averages(rows: Sequence[Progress], most: int = _MOST_POINTS) -> tuple[list[tuple[int, dict[str, float]]], int]:
    """Average neighbouring rows of the scalars, which are means over steps themselves, into at most ``most`` points.

    Args:
        rows: in step order, one or more.
        most: 1 or more.

    Returns:
        (last step, "total" and the parts of the loss, means over the steps since the point before) of each point, and the
        largest number of steps that a point stands for; the last point may stand for fewer.
    """
    steps = np.diff([0, *(row.step for row in rows)])
    group = math.ceil(len(rows) / most)
    points, widest = [], 0
    for first in range(0, len(rows), group):
        some, weights = rows[first : first + group], steps[first : first + group]
        table = [{"total": row.loss, **row.losses} for row in some]
        means = {name: float(np.average([row[name] for row in table], weights=weights)) for name in table[0]}
        points.append((some[-1].step, means))
        widest = max(widest, int(weights.sum()))
    return points, widest


# ----------------------------------------------------------------------------------------------------------------- measures


def evaluations(metrics: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return what ``evaluate_detections`` measured, split by split, with headings and bars; classes best first."""
    return [
        _evaluation(_heading(name, split, content.get("supervision", IMAGE_LABELS)), measured)
        for name, content in metrics
        for split, measured in content["detections"].items()
    ]


def _evaluation(heading: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    by_ap50 = sorted(measured["classes"], key=lambda row: _or_less(row["ap50_eleven_point"]), reverse=True)
    classes = [
        {
            **row,
            "ap50_bar": _bar({"AP50": row["ap50_eleven_point"]}),
            "corloc_bar": _bar({"CorLoc": row["corloc"]}),
        }
        for row in by_ap50
    ]
    rows = [
        {**row, "bar": _bar({verdict: row[verdict] for verdict in ("correct", "part", "elsewhere")})}
        for row in measured["rows"]
    ]
    return {"heading": heading, **measured, "rows": rows, "classes": classes}


def _or_less(share: float | None) -> float:
    return -1.0 if share is None else share


def _bar(shares: Mapping[str, float | None]) -> Any:
    """Draw shares as one bar; nothing where they are not known."""
    known = {name: share for name, share in shares.items() if share is not None}
    return charts.bar(known, tooltip=", ".join(f"{name} {percent(s)} %" for name, s in known.items())) if known else ""


def tiles(evaluated: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the detector's figures for the top of the page: (name, figure, what the whole image as only box gets)."""
    found = []
    for evaluation in evaluated:
        rows = {row["name"]: row for row in evaluation["rows"]}
        for name, measure in (("AP50", "ap50_eleven_point"), ("CorLoc", "corloc")):
            if rows and rows[DETECTOR][measure] is not None:
                remark = f"whole image {percent(rows[WHOLE_IMAGE][measure])} %"
                found.append((f"{name}, {evaluation['heading']}", f"{percent(rows[DETECTOR][measure])} %", remark))
    return found


def _heading(name: str, split: str, supervision: str = IMAGE_LABELS) -> str:
    marked = "" if supervision == IMAGE_LABELS else f" (supervision: {supervision})"
    return f"{name.partition('.')[2]} on {split}{marked}"


# ----------------------------------------------------------------------------------------------------------------- failures


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A class that an image contains and whose top detection is wrong or missing."""

    image_id: str
    class_index: int
    verdict: str  # "part", "elsewhere" or "undetected"
    score: float  # of the top detection; 0 of a missed class
    boxes_xyxy: NDArray[np.float32]  # [1, 4] the top detection, or [0, 4]
    objects_xyxy: NDArray[np.float32]  # [G, 4] the class's objects


def failures(
    upstream: Mapping[str, Instance],
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
    read_image: Callable[[str], NDArray[np.uint8]],
    config: ReportConfig,
) -> list[dict[str, Any]]:
    """Pick and draw the worst failures of every detector on every split that has some.

    Args:
        upstream: instances by name; those of ``detect`` are looked at.
        ground_truth: split -> image id -> true objects; empty for a split whose true boxes are not known.
        read_image: image id -> upright RGB image; raises ImageError for one that cannot be read any more.
        config: how many, how large.

    Returns:
        ``heading``, ``entries`` (``image_id``, ``verdict``, ``what``, ``picture``, ``trouble``) and ``left_out``, the
        number of those that would make the page too large.
    """
    shown = []
    for name, instance in upstream.items():
        if verb_of(name) != "detect":
            continue
        table = instance.table(DETECTIONS)
        class_names = table.class_names()
        images = (
            (r["image_id"], r["split"], (r["size_hw"][0], r["size_hw"][1]), detections_from_row(r))
            for r in table.iter_rows(_COLUMNS)
        )
        worst = worst_failures(images, ground_truth, len(class_names), config.failures)
        shown += [(_heading(name, split), class_names, of_split) for split, of_split in worst.items()]
    return [
        {"heading": heading, **_drawn(of_split, class_names, read_image, config.gallery_side, len(shown))}
        for heading, class_names, of_split in shown
    ]


def worst_failures(
    images: Iterable[tuple[str, str, tuple[int, int], Detections]],
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
    num_classes: int,
    most: int,
) -> dict[str, list[Failure]]:
    """Pick the most confident failures in one pass; no more than ``most`` per split are held at any time.

    Each image can fail once, with the class of its worst failure. The best-scoring wrong detection is the worst failure;
    missed classes come last. Equal scores are ordered by image id, then by class, so that the order of images is of no
    matter.

    Args:
        images: (image id, split, (height, width), detections), in any order.
        ground_truth: as in ``failures``.
        num_classes: C.
        most: 0 or more.

    Returns:
        split -> failures, worst first; splits in name order, without those that have none.
    """
    worst: dict[str, list[Failure]] = {}
    for image_id, split, size_hw, found in images:
        truth = ground_truth(split)
        failure = None
        if image_id in truth:
            failure = _worst_of(image_id, found, true_objects(truth, image_id, size_hw), num_classes)
        if failure is not None:
            of_split = worst.setdefault(split, [])
            bisect.insort(of_split, failure, key=_order)
            del of_split[most:]
    return {split: worst[split] for split in sorted(worst) if worst[split]}


def _worst_of(image_id: str, found: Detections, truth: GroundTruth, num_classes: int) -> Failure | None:
    from weaksam.metrics.localisation import PartDomination  # with torch

    judge = PartDomination(num_classes)
    judge.add(image_id, found, truth)
    counts = judge.scores()
    verdicts = {"part": counts.part, "elsewhere": counts.elsewhere, "undetected": counts.undetected}
    failed = (
        _failure(image_id, class_index, verdict, found, truth)
        for verdict, of_class in verdicts.items()
        for class_index in np.flatnonzero(of_class).tolist()
    )
    return min(failed, key=_order, default=None)


def _failure(image_id: str, class_index: int, verdict: str, found: Detections, truth: GroundTruth) -> Failure:
    mine = np.flatnonzero(found.class_index == class_index)
    top = mine[np.argsort(-found.score[mine], kind="stable")[:1]]
    return Failure(
        image_id=image_id,
        class_index=class_index,
        verdict=verdict,
        score=float(found.score[top].sum()),
        boxes_xyxy=found.boxes_xyxy[top],
        objects_xyxy=truth.boxes_xyxy[truth.class_index == class_index],
    )


def _order(failure: Failure) -> tuple[float, str, int]:
    return (-failure.score, failure.image_id, failure.class_index)


def _drawn(
    worst: Sequence[Failure],
    class_names: Sequence[str],
    read_image: Callable[[str], NDArray[np.uint8]],
    side: int,
    groups: int,
) -> dict[str, Any]:
    """Draw failures, as many as fit into one of ``groups`` equal shares of the page's size."""
    entries: list[dict[str, Any]] = []
    size = 0
    for entry in _entries(worst, class_names, read_image, side):
        size += len(entry["picture"].data_uri) if entry["picture"] else 0
        if size > _FAILURE_BYTES / groups:
            break
        entries.append(entry)
    return {"entries": entries, "left_out": len(worst) - len(entries)}


def _entries(
    worst: Iterable[Failure], class_names: Sequence[str], read_image: Callable[[str], NDArray[np.uint8]], side: int
) -> Iterator[dict[str, Any]]:
    for one in worst:
        score = f" {one.score:.2g}" if len(one.boxes_xyxy) else ""
        verdict, what = VERDICTS[one.verdict], f"{class_names[one.class_index]}{score}"
        entry = {"image_id": one.image_id, "verdict": verdict, "what": what, "picture": None, "trouble": ""}
        try:
            image = read_image(one.image_id)
        except ImageError as error:
            yield {**entry, "trouble": str(error)}
            continue
        drawn = pictures.failure(image, one.objects_xyxy, one.boxes_xyxy, side, caption=f"{verdict}, {what}")
        yield {**entry, "picture": drawn}
