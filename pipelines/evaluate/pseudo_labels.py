"""How the evaluate stage measures pseudo ground truth: precision and recall of its boxes against the true ones.

Reads the pseudo labels file by file and the data set's true boxes, on the driver. The figures are for people: no detector is
trained or chosen by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable
from pipelines.evaluate.conclusion import conclude
from pipelines.evaluate.options import EvaluateOptions
from pipelines.products.measured import EvaluationFacts
from pipelines.products.pseudo_labels import PseudoLabelledImage, PseudoLabelTable
from pipelines.store.numbers import known, percent
from weaksam.datasets.ground_truth import true_objects
from weaksam.structures import GroundTruth

IOU_THRESHOLDS = (0.5, 0.75)


def run(job: Job[EvaluateOptions]) -> EvaluationFacts:
    """Measure the pseudo labels and print their table."""
    from weaksam.datasets import open_dataset

    table = job.input(job.options.of, PseudoLabelTable)
    splits = measure(table.images(), table.class_names, open_dataset(job.options.data).ground_truth)
    return conclude(
        job,
        "pseudo_labels",
        splits,
        class_names=table.class_names,
        supervision=table.facts.supervision,
        tables=[text_table],
        summary=_summary,
    )


def measure(
    images: Iterable[PseudoLabelledImage],
    class_names: Sequence[str],
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
) -> dict[str, dict[str, Any]]:
    """Measure pseudo ground truth per split.

    Args:
        images: in any order, each once.
        class_names: C.
        ground_truth: split -> image id -> true objects; empty for a split whose true boxes are not known.

    Returns:
        split -> ``images``, ``boxes`` per image and ``empty`` (images without any box); with true boxes also ``objects``,
        ``rows`` (one per IoU threshold, over all classes) and ``classes`` (one by one). Shares are in [0, 1], null where
        there is nothing to measure.
    """
    splits: dict[str, _Split] = {}
    for image in images:
        if image.split not in splits:
            splits[image.split] = _Split(class_names, ground_truth(image.split))
        splits[image.split].add(image)
    return {split: splits[split].to_plain() for split in sorted(splits)}


def text_table(split: str, measured: Mapping[str, Any]) -> TextTable:
    """Lay out one split's rows for people to read, in per cent."""
    truth = "no true boxes" if measured["objects"] is None else f"{measured['objects']:,} objects"
    title = (
        f"{split}: {measured['images']:,} images, {measured['empty']:,} of them without any box, {truth}; "
        f"{measured['boxes']:.2f} pseudo boxes an image"
    )
    text = TextTable(title)
    text.add_columns(Kind.NAME, "")
    text.add_columns(Kind.FIGURE, "precision", "recall", "precision, mean of classes", "recall, mean of classes")
    for row in measured["rows"]:
        shares = (row[name] for name in ("precision", "recall", "mean_precision", "mean_recall"))
        text.add_row(f"IoU > {row['iou']:g}", *(percent(share) for share in shares))
    return text


class _Split:
    def __init__(self, class_names: Sequence[str], truth: Mapping[str, GroundTruth]) -> None:
        from weaksam.metrics.pseudo_labels import PseudoLabelQuality

        self._class_names = class_names
        self._truth = truth
        self._quality = PseudoLabelQuality(len(class_names))
        self._images = self._boxes = self._empty = 0

    def add(self, image: PseudoLabelledImage) -> None:
        self._images += 1
        self._boxes += len(image.truth)
        self._empty += len(image.truth) == 0
        self._quality.add(image.image_id, image.truth, true_objects(self._truth, image.image_id, image.size_hw))

    def to_plain(self) -> dict[str, Any]:
        counts = {"images": self._images, "boxes": self._boxes / self._images, "empty": self._empty}
        if not self._truth:
            return {**counts, "objects": None, "rows": [], "classes": []}
        at = {threshold: self._quality.scores(threshold) for threshold in IOU_THRESHOLDS}
        objects = at[IOU_THRESHOLDS[0]].objects
        return {
            **counts,
            "objects": int(objects.sum()),
            "rows": [
                {"iou": threshold, **{name: known(value) for name, value in scores.summary.items()}}
                for threshold, scores in at.items()
            ],
            "classes": [
                {
                    "name": name,
                    "objects": int(objects[n]),
                    "rows": [
                        {
                            "iou": threshold,
                            "boxes": int(scores.boxes[n]),
                            "correct": int(scores.correct[n]),
                            "precision": known(scores.precision[n]),
                            "recall": known(scores.recall[n]),
                        }
                        for threshold, scores in at.items()
                    ],
                }
                for n, name in enumerate(self._class_names)
            ],
        }


def _summary(split: str, measured: Mapping[str, Any]) -> str:
    boxes = f"{split}: {measured['boxes']:.2f} boxes an image"
    if not measured["rows"]:
        return f"{boxes}, no true boxes to measure them"
    row = measured["rows"][0]
    return f"{boxes}, precision {percent(row['precision'])}, recall {percent(row['recall'])}"
