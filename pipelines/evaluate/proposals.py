"""How the evaluate stage measures proposals: what they cover, per source as it is added to those before it (method 9.4).

Reads the proposals table file by file and the data set's true boxes, on the driver; memory does not grow with the table.
A split without true boxes gets its counts and no recall. Images that ``propose`` dropped are in neither; the report says
how many they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable, Tone, Toned
from pipelines.evaluate.options import EvaluateOptions
from pipelines.products.measured import Evaluation, EvaluationFacts
from pipelines.products.proposal_boxes import ImageBoxes
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.config import EvaluateConfig
from pipelines.recipe.model import Recipe
from pipelines.store.numbers import known, percent
from weaksam.datasets.ground_truth import true_objects
from weaksam.structures import WHOLE_IMAGE

if TYPE_CHECKING:
    from weaksam.metrics.best_overlap import BestOverlap
    from weaksam.metrics.proposal_recall import ProposalRecall
    from weaksam.structures import GroundTruth


def run(job: Job[EvaluateOptions]) -> EvaluationFacts:
    """Measure every split of the proposals and print its tables."""
    from weaksam.datasets import open_dataset

    config, table = job.options.how, job.input(job.options.of, ProposalTable)
    assert config is not None
    # A source that the recipe names gets its row even if it never made a box: nothing is silently empty.
    sources = table.met_sources() | set(job.options.named_sources)
    dataset, masks = open_dataset(job.options.data), job.options.masks
    ground_truth = partial(dataset.ground_truth, masks=masks)
    splits = measure(table.images(masks=masks), sources, ground_truth, config, dataset.class_names if masks else ())
    Evaluation(job.instance).write({"iou_thresholds": list(config.iou_thresholds), "splits": splits})
    for split, measured in splits.items():
        job.voice.table(text_table(split, measured, config.iou_thresholds))
    for note in _notes(splits):
        job.voice.say(Toned(note, Tone.QUIET))
    text = " · ".join(_summary(split, measured, config.iou_thresholds) for split, measured in splits.items())
    return EvaluationFacts(text=text or "no image to measure")


def measure(
    images: Iterable[ImageBoxes],
    sources: Iterable[str],
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
    config: EvaluateConfig,
    masks_of: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Count boxes, points and matches per split and row.

    Args:
        images: in any order.
        sources: which get a row, see ``proposal_recall.cumulative``.
        ground_truth: split -> image id -> true objects; empty for a split whose true boxes are not known.
        masks_of: C class names, where images and true objects have masks, whose overlap is to be measured.

    Returns:
        split -> ``images``; ``objects``, ``cut`` and ``left_out`` (true boxes, see ``GroundTruth``), null without true boxes;
        and ``rows`` of ``name``, ``sources``, ``points`` and ``boxes`` per image, ``one_to_one`` and ``many_to_one``: recall
        by IoU threshold, null without a true object. With ``masks_of`` also ``mask_overlap``, the average best overlap of the
        proposals' masks: ``mean`` over the classes (MABO) and ``classes`` by name, null without a true mask.
    """
    from weaksam.metrics.best_overlap import BestOverlap
    from weaksam.metrics.proposal_recall import CURVE_THRESHOLDS, ProposalRecall, cumulative

    rows = cumulative(set(sources))
    thresholds = sorted({*CURVE_THRESHOLDS, *config.iou_thresholds})
    counts: dict[str, _SplitCounts] = {}
    for image in images:
        if image.split not in counts:
            recall = ProposalRecall(rows, thresholds=thresholds, include_difficult=config.include_difficult)
            overlap = (
                BestOverlap(len(masks_of), of="masks", include_difficult=config.include_difficult) if masks_of else None
            )
            counts[image.split] = _SplitCounts(ground_truth(image.split), recall, masks_of, overlap)
        counts[image.split].add(image)
    return {split: counts[split].to_plain() for split in sorted(counts)}


def text_table(split: str, measured: Mapping[str, Any], iou_thresholds: Sequence[float]) -> TextTable:
    """Lay out one split's rows for people to read: where there are objects recall one-to-one, then many-to-one."""
    objects = "no true boxes, so no recall" if measured["objects"] is None else f"{measured['objects']:,} objects"
    if measured["left_out"] or measured["cut"]:
        objects += f" (left out {measured['left_out']:,}, cut {measured['cut']:,})"
    text = TextTable(f"{split}: {measured['images']:,} images, {objects}")
    text.add_columns(Kind.NAME, "source")
    text.add_columns(Kind.FIGURE, "points", "boxes")
    ways = {"one_to_one": "", "many_to_one": " m:1"} if measured["objects"] else {}
    text.add_columns(Kind.FIGURE, *(f"R@{t:g}{mark}" for mark in ways.values() for t in iou_thresholds))
    if "mask_overlap" in measured:
        text.title += f"; masks: average best overlap {percent(measured['mask_overlap']['mean'])}"
    for row in measured["rows"]:
        recalls = (percent(row[way][f"{t:g}"]) for way in ways for t in iou_thresholds)
        text.add_row(row_label(row), f"{row['points']:.1f}", f"{row['boxes']:.1f}", *recalls)
    return text


def _notes(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the sentences that explain what the tables of these splits abbreviate."""
    notes = []
    if any(measured["objects"] for measured in splits.values()):
        notes.append(
            "R@T: % of the objects that a box covers with an IoU of T or more, each box counting for one object at most; "
            "m:1 (many to one): a box may count for several."
        )
    if any(row["name"] == WHOLE_IMAGE for measured in splits.values() for row in measured["rows"]):
        notes.append(f"{WHOLE_IMAGE}: the one box of an image in which nothing else was found.")
    return notes


def full_row(measured: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the row that counts all of the method's sources, or else the first; None where nobody made a box."""
    return max(measured["rows"], key=lambda row: len(row["sources"]), default=None)


def row_label(row: Mapping[str, Any]) -> str:
    """Return a row's name for people: "+ fine" where it adds to the rows above it."""
    return f"+ {row['name']}" if len(row["sources"]) > 1 else str(row["name"])


class _SplitCounts:
    def __init__(
        self,
        truth: Mapping[str, GroundTruth],
        recall: ProposalRecall,
        masks_of: Sequence[str],
        overlap: BestOverlap | None,  # of the proposals' masks
    ) -> None:
        self._truth = truth
        self._recall = recall
        self._points: Counter[str] = Counter()
        self._cut = self._left_out = 0
        self._images = 0
        self._masks_of = masks_of
        self._overlap = overlap

    def add(self, image: ImageBoxes) -> None:
        truth = true_objects(self._truth, image.image_id, image.size_hw)
        self._recall.add(image.boxes_xyxy, image.source, truth)
        self._points += image.points
        self._cut += truth.cut
        self._left_out += truth.left_out
        self._images += 1
        if self._overlap is not None and truth.mask_rle is not None:
            self._overlap.add(image.image_id, image, truth)

    def to_plain(self) -> dict[str, Any]:
        rows = self._recall.rows()
        has_truth = bool(self._truth)
        return {
            "images": self._images,
            "objects": rows[0].objects if has_truth and rows else None,
            "cut": self._cut if has_truth else None,
            "left_out": self._left_out if has_truth else None,
            **self._overlap_of_masks(),
            "rows": [
                {
                    "name": row.name,
                    "sources": list(row.sources),
                    "points": sum(self._points[source] for source in row.sources) / row.images,
                    "boxes": row.mean_boxes,
                    "one_to_one": {f"{t:g}": known(row.recall(t)) for t in row.thresholds},
                    "many_to_one": {f"{t:g}": known(row.recall(t, many_to_one=True)) for t in row.thresholds},
                }
                for row in rows
            ],
        }

    def _overlap_of_masks(self) -> dict[str, Any]:
        if self._overlap is None:
            return {}
        scores = self._overlap.scores()
        of_class = {name: known(value) for name, value in zip(self._masks_of, scores.per_class, strict=True)}
        return {"mask_overlap": {"mean": known(scores.mean), "classes": of_class}}


def have_masks(recipe: Recipe) -> bool:
    """Return whether the proposals that an instance measures keep their masks; ``recipe`` is what the instance sees."""
    proposed = recipe.of(recipe.evaluate.of)
    return proposed.propose.method == "sam" and proposed.proposals.keep_masks


def _summary(split: str, measured: Mapping[str, Any], iou_thresholds: Sequence[float]) -> str:
    last = full_row(measured)
    if last is None:
        return f"{split}: no boxes"
    if not measured["objects"]:
        return f"{split}: {last['boxes']:.1f} boxes an image, no true boxes to measure recall"
    recalls = " ".join(f"R@{t:g} {percent(last['one_to_one'][f'{t:g}'])}" for t in iou_thresholds)
    return f"{split}: {last['boxes']:.1f} boxes an image, {recalls}"


def named_sources(recipe: Recipe) -> tuple[str, ...]:
    """Return the sources that the recipe asks for: each gets a row, so that one without a box does not go unnoticed."""
    return recipe.prompts.sources if recipe.propose.method == "sam" else (recipe.propose.method,)
