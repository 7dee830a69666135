"""How the evaluate stage measures detections (method 9.1-9.3), beside detectors that need no training.

Reads the detections and the proposals table file by file and the data set's true boxes and labels, on the driver. Where labels
alone are known, the scores of whole images are all that is measured. Three rows are measured alike on every split: the
detector; the whole image as the only box, with the detector's image scores; and one random proposal with these scores, where
any image of the split has proposals. What the last two earn is owed to the labels, not to localisation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable, Tone, Toned
from pipelines.evaluate import detected_masks
from pipelines.evaluate.agreement import Labels, image_labels
from pipelines.evaluate.conclusion import conclude
from pipelines.evaluate.options import EvaluateOptions
from pipelines.products.detections import DetectionTable
from pipelines.products.index import Index, in_hash_order
from pipelines.products.measured import EvaluationFacts
from pipelines.products.proposal_boxes import boxes_by_image
from pipelines.products.proposals import proposal_tables
from pipelines.recipe.config import EvaluateConfig
from pipelines.recipe.keys import Input, Inputs
from pipelines.recipe.model import Recipe, verb_of
from pipelines.stages.detect import detector_of, scored_proposals
from pipelines.store.numbers import known, percent
from weaksam.config import MilConfig, RetrainConfig
from weaksam.datasets.ground_truth import true_objects
from weaksam.structures import Detections, GroundTruth

if TYPE_CHECKING:
    from weaksam.metrics.coco import CocoAveragePrecision
    from weaksam.metrics.detection import VocAveragePrecision
    from weaksam.metrics.localisation import CorLoc, PartDomination

DETECTOR, WHOLE_IMAGE, RANDOM_PROPOSAL = "detector", "whole image", "random proposal"
NO_PROPOSALS = np.zeros((0, 4), np.float32)
_NOTES = (
    f"{WHOLE_IMAGE}: the whole image as the only box; {RANDOM_PROPOSAL}: one box of the proposals by chance; both with the "
    "detector's scores of the image, so that what they earn is owed to the labels.\n"
    "part: share of the top detections that cover a part of an object only. All in %."
)


@dataclass(frozen=True, kw_only=True)
class MeasuredImage:
    """What measuring needs of one image."""

    image_id: str
    split: str
    size_hw: tuple[int, int]
    detections: Detections
    proposals_xyxy: NDArray[np.float32]  # [R, 4]
    read_image: Callable[[str], NDArray[np.uint8]] | None = None  # -> [H, W, 3], where GrabCut is measured on it


def run(job: Job[EvaluateOptions]) -> EvaluationFacts:
    """Measure every split of the detections and print its tables."""
    from weaksam.datasets import open_dataset

    options, table = job.options, job.input(job.options.of, DetectionTable)
    assert options.how is not None
    proposals: Mapping[str, NDArray[np.float32]] = {}
    if options.beside:
        proposals = boxes_by_image(proposal_tables(job, options.beside), options.proposal_sources)
    cut: Collection[str] = ()  # images that GrabCut is measured on
    read_image: Callable[[str], NDArray[np.uint8]] | None = None
    if options.index and options.how.grabcut_images:
        cut = set(in_hash_order(table.table.ids())[: options.how.grabcut_images])
        read_image = job.input(options.index, Index).image_reader()
    images = (
        MeasuredImage(
            **vars(image),
            proposals_xyxy=proposals.get(image.image_id, NO_PROPOSALS),
            read_image=read_image if image.image_id in cut else None,
        )
        for image in table.images()
    )
    dataset = open_dataset(options.data)
    labels = partial(image_labels, dataset)
    ground_truth = partial(dataset.ground_truth, masks=True) if options.masks else dataset.ground_truth
    splits = measure(images, table.class_names, ground_truth, options.how, labels, masks=options.masks)
    facts = conclude(
        job,
        "detections",
        splits,
        class_names=table.class_names,
        supervision=table.facts.supervision,
        tables=[text_table, _text_of_masks],
        summary=_summary,
    )
    if any(measured["rows"] for measured in splits.values()):
        job.voice.say(Toned(_NOTES, Tone.QUIET))
    return facts


def proposals_beside(recipe: Recipe) -> Inputs:
    """Return the instances of whose proposals one stands beside the detector by chance, none or several.

    A detector that needs no proposals is measured beside them only where they are made anyway.
    """
    options, detected = recipe.evaluate, recipe.of(recipe.evaluate.of)
    if options.proposals:
        return options.proposals
    if isinstance(detector_of(detected), MilConfig):
        return scored_proposals(detected)
    return tuple(Input(name) for name in recipe.stages if verb_of(name) == "propose")[:1]


def proposal_sources(recipe: Recipe) -> tuple[str, ...]:
    """Return the sources of those proposals that count; empty = all."""
    detector = detector_of(recipe.of(recipe.evaluate.of))
    return detector.proposal_sources if isinstance(detector, MilConfig) else recipe.mil.proposal_sources


def have_masks(recipe: Recipe) -> bool:
    """Return whether the detector whose findings an instance measures finds masks; ``recipe`` is what the instance sees."""
    detector = detector_of(recipe.of(recipe.evaluate.of))
    return isinstance(detector, RetrainConfig) and detector.detector.learns_masks


def measure(
    images: Iterable[MeasuredImage],
    class_names: Sequence[str],
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
    config: EvaluateConfig,
    labels: Callable[[str], Labels] = lambda _: {},
    *,
    masks: bool = False,
) -> dict[str, dict[str, Any]]:
    """Measure detections per split.

    Args:
        images: in any order, each once.
        class_names: C.
        ground_truth: split -> image id -> true objects; empty for a split whose true boxes are not known.
        config: which way VOC's devkit rule is read.
        labels: split -> image id -> classes, where they are known; asked for a split whose true boxes are not.
        masks: whether the detections have masks, which are measured where true ones are known.

    Returns:
        split -> ``images``, ``detections`` per image; with true boxes or labels also ``classification_map``; with true boxes
        also ``objects``, ``rows`` (mean measures of the three detectors, null where there is nothing to measure) and
        ``classes`` (the detector's, one by one); with true masks also ``masks`` (see ``detected_masks``). All shares in [0, 1].
    """
    splits: dict[str, _Split] = {}
    for image in images:
        if image.split not in splits:
            truth = ground_truth(image.split)
            splits[image.split] = _Split(class_names, truth, {} if truth else labels(image.split), config, masks)
        splits[image.split].add(image)
    return {split: splits[split].to_plain() for split in sorted(splits)}


def text_table(split: str, measured: Mapping[str, Any]) -> TextTable:
    """Lay out one split's rows for people to read, in per cent."""
    truth = "no true boxes" if measured["objects"] is None else f"{measured['objects']:,} objects"
    if measured["objects"] is not None or measured["classification_map"] is not None:
        truth += (
            f"; classification mAP {percent(measured['classification_map'])}, "
            f"{measured['detections']:.1f} detections an image"
        )
    title = f"{split}: {measured['images']:,} images, {truth}"
    names = {
        "AP50": "ap50_eleven_point",
        "AP50 area": "ap50_area",
        "COCO AP": "coco_ap",
        "AP75": "coco_ap75",
        "CorLoc": "corloc",
        "part": "part",
    }
    text = TextTable(title)
    text.add_columns(Kind.NAME, "")
    text.add_columns(Kind.FIGURE, *names)
    for row in measured["rows"]:
        text.add_row(row["name"], *(percent(row[key]) for key in names.values()))
    return text


@dataclass
class _Detector:
    """The measures of one row."""

    voc: VocAveragePrecision
    corloc: CorLoc
    corloc_without_difficult: CorLoc
    parts: PartDomination
    coco: CocoAveragePrecision

    def add(self, image_id: str, detections: Detections, truth: GroundTruth) -> None:
        for measure in (self.voc, self.corloc, self.corloc_without_difficult, self.parts, self.coco):
            measure.add(image_id, detections, truth)

    def to_plain(self, name: str) -> dict[str, Any]:
        voc, coco = self.voc.scores(), self.coco.scores().summary()
        measures = {
            "ap50_eleven_point": voc.mean_eleven_point,
            "ap50_area": voc.mean_area,
            "corloc": self.corloc.scores().mean,
            "corloc_without_difficult": self.corloc_without_difficult.scores().mean,
            **self.parts.scores().shares,  # "correct", "part", "elsewhere"
            "coco_ap": coco["AP"],
            "coco_ap50": coco["AP50"],
            "coco_ap75": coco["AP75"],
        }
        return {"name": name, **{measure: known(value) for measure, value in measures.items()}}


@dataclass
class _Split:
    class_names: Sequence[str]
    truth: Mapping[str, GroundTruth]
    known_labels: Labels  # where no true boxes are known
    config: EvaluateConfig
    masks: bool
    images: int = 0
    boxes: int = 0
    proposed: bool = False  # whether any image has a proposal
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    labels: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        from weaksam.metrics.coco import CocoAveragePrecision
        from weaksam.metrics.detection import VocAveragePrecision
        from weaksam.metrics.localisation import CorLoc, PartDomination

        classes = len(self.class_names)
        self.rows = {
            name: _Detector(
                voc=VocAveragePrecision(classes, style=self.config.voc_style, levels=self.config.voc_levels),
                corloc=CorLoc(classes),
                corloc_without_difficult=CorLoc(classes, difficult="exclude"),
                parts=PartDomination(classes),
                coco=CocoAveragePrecision(classes),
            )
            for name in (DETECTOR, WHOLE_IMAGE, RANDOM_PROPOSAL)
        }
        known = self.masks and any(of_image.mask_rle is not None for of_image in self.truth.values())
        self.of_masks = detected_masks.MaskMeasures(self.class_names, self.config) if known else None

    def add(self, image: MeasuredImage) -> None:
        from weaksam.metrics.trivial import random_proposal_detections, whole_image_detections

        self.images += 1
        self.boxes += len(image.detections)
        self.proposed |= len(image.proposals_xyxy) > 0
        if image.image_id in self.known_labels:
            self.scores.append(image.detections.image_scores)
            self.labels.append(tuple(self.known_labels[image.image_id]))
        if not self.truth:
            return
        truth = true_objects(self.truth, image.image_id, image.size_hw)
        scores = image.detections.image_scores
        detections = {
            DETECTOR: image.detections,
            WHOLE_IMAGE: whole_image_detections(image.size_hw, scores),
            RANDOM_PROPOSAL: random_proposal_detections(image.proposals_xyxy, scores, image_id=image.image_id),
        }
        for name, of_row in detections.items():
            self.rows[name].add(image.image_id, of_row, truth)
        if self.of_masks is not None:
            self.of_masks.add(image.image_id, image.size_hw, image.detections, truth, image.read_image)
        self.scores.append(scores)
        self.labels.append(tuple(sorted({int(c) for c in truth.class_index})))

    def to_plain(self) -> dict[str, Any]:
        from weaksam.metrics.classification import classification_scores

        counts = {"images": self.images, "detections": self.boxes / self.images}
        if not self.labels:
            return {**counts, "objects": None, "classification_map": None, "rows": [], "classes": []}
        classification = classification_scores(np.nan_to_num(np.stack(self.scores), nan=0.0), self.labels)
        mean_ap = known(classification.mean_ap)
        if not self.truth:
            return {**counts, "objects": None, "classification_map": mean_ap, "rows": [], "classes": []}
        detector = self.rows[DETECTOR]
        voc, corloc, parts = detector.voc.scores(), detector.corloc.scores(), detector.parts.scores()
        return {
            **counts,
            "objects": int(voc.objects.sum()),
            "classification_map": mean_ap,
            "rows": [row.to_plain(name) for name, row in self.rows.items() if self.proposed or name != RANDOM_PROPOSAL],
            **({} if self.of_masks is None else {"masks": self.of_masks.to_plain()}),
            "classes": [
                {
                    "name": name,
                    "objects": int(voc.objects[n]),
                    "ap50_eleven_point": known(voc.eleven_point[n]),
                    "ap50_area": known(voc.area[n]),
                    "corloc": known(corloc.per_class[n]),
                    "part": known(parts.part_per_class[n]),
                    "classification_ap": known(classification.per_class[n]),
                }
                for n, name in enumerate(self.class_names)
            ],
        }


def _text_of_masks(split: str, measured: Mapping[str, Any]) -> TextTable | None:
    return detected_masks.text_table(split, measured["masks"]) if "masks" in measured else None


def _summary(split: str, measured: Mapping[str, Any]) -> str:
    if not measured["rows"]:
        of_labels = measured["classification_map"]
        told = "" if of_labels is None else f"classification mAP {percent(of_labels)}, "
        return f"{split}: {told}{measured['detections']:.1f} detections an image, no true boxes to measure them"
    row, whole = measured["rows"][0], measured["rows"][1]
    return (
        f"{split}: AP50 {percent(row['ap50_eleven_point'])} (whole image {percent(whole['ap50_eleven_point'])}), "
        f"CorLoc {percent(row['corloc'])} ({percent(whole['corloc'])})"
    )
