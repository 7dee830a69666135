"""The worst failures of detectors, as pictures.

A failure is judged as ``PartDomination`` judges: by the best-scoring detection of each class that the image contains. A split
whose true boxes are not known has no failures.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.page import pictures
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, heading
from pipelines.products.detections import DetectedImage, DetectionTable
from weaksam.datasets.ground_truth import true_objects
from weaksam.drawing import TRUTH_COLOUR
from weaksam.errors import ImageError
from weaksam.structures import Detections, GroundTruth

_VERDICTS = {"part": "part", "elsewhere": "elsewhere", "undetected": "missed class"}
_MOST_BYTES = 2**20  # of encoded pictures, beside those of the gallery


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A class that an image contains and whose top detection is wrong or missing."""

    image_id: str
    class_index: int
    verdict: str  # "part", "elsewhere" or "undetected"
    score: float  # of the top detection; 0 of a missed class
    boxes_xyxy: NDArray[np.float32]  # [1, 4] the top detection, or [0, 4]
    objects_xyxy: NDArray[np.float32]  # [G, 4] the class's objects


def view(run: ShownRun) -> View | None:
    """Pick and draw the worst failures of every detector on every split that has some."""
    most, side = run.recipe.report.failures, run.recipe.report.gallery_side
    worst = [
        (heading(name, split), table.class_names, of_split)
        for name, table in run.of_kind(DetectionTable).items()
        for split, of_split in worst_failures(table.images(), run.ground_truth, len(table.class_names), most).items()
    ]
    shown = [
        {"heading": title, **_drawn(of_split, class_names, run.read_image, side, len(worst))}
        for title, class_names, of_split in worst
    ]
    return {"failures": shown, "truth_colour": TRUTH_COLOUR, "top_colour": pictures.TOP_COLOUR} if shown else None


def worst_failures(
    images: Iterable[DetectedImage],
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
    num_classes: int,
    most: int,
) -> dict[str, list[Failure]]:
    """Pick the most confident failures in one pass; no more than ``most`` per split are held at any time.

    Each image can fail once, with the class of its worst failure. The best-scoring wrong detection is the worst failure;
    missed classes come last. Equal scores are ordered by image id, then by class, so that the order of images is of no
    matter.

    Args:
        images: in any order.
        ground_truth: split -> image id -> true objects; empty for a split whose true boxes are not known.
        num_classes: C.
        most: 0 or more.

    Returns:
        split -> failures, worst first; splits in name order, without those that have none.
    """
    worst: dict[str, list[Failure]] = {}
    for image in images:
        truth = ground_truth(image.split)
        failure = None
        if image.image_id in truth:
            objects = true_objects(truth, image.image_id, image.size_hw)
            failure = _worst_of(image.image_id, image.detections, objects, num_classes)
        if failure is not None:
            of_split = worst.setdefault(image.split, [])
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
        if size > _MOST_BYTES / groups:
            break
        entries.append(entry)
    return {"entries": entries, "left_out": len(worst) - len(entries)}


def _entries(
    worst: Iterable[Failure], class_names: Sequence[str], read_image: Callable[[str], NDArray[np.uint8]], side: int
) -> Iterator[dict[str, Any]]:
    for one in worst:
        score = f" {one.score:.2g}" if len(one.boxes_xyxy) else ""
        verdict, what = _VERDICTS[one.verdict], f"{class_names[one.class_index]}{score}"
        entry = {"image_id": one.image_id, "verdict": verdict, "what": what, "picture": None, "trouble": ""}
        try:
            image = pictures.fitted(read_image(one.image_id), side)
        except ImageError as error:
            yield {**entry, "trouble": str(error)}
            continue
        drawn = pictures.failure(image, one.objects_xyxy, one.boxes_xyxy, caption=f"{verdict}, {what}")
        yield {**entry, "picture": drawn}


SECTION: Section[ShownRun] = Section(
    id="failures", title="Worst failures", link="Failures", view=view, template=beside(__name__)
)
