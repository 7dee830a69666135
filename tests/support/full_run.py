"""A finished run that has a result for every section of its page: drawn, made by hand, nothing trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.analyse.noise import of_loss
from pipelines.analyse.similarity import grey_png
from pipelines.page.shown_run import ShownRun
from pipelines.products.label_maps import LabelMapTable, SeedTable
from pipelines.report import stage as report
from pipelines.store.files import write_bytes, write_json
from pipelines.store.schemas import (
    DETECTIONS,
    PSEUDO_LABELS,
    SUPERPIXELS,
    automatic_masks_to_row,
    detections_to_row,
    pseudo_labels_to_row,
    pseudo_masks_to_row,
    with_class_names,
)
from pipelines.store.schemas import PSEUDO_MASKS as PSEUDO_MASKS_TABLE
from pipelines.training.checkpoints import write_scalars
from tests.support.automatic_masks import automatic_masks
from tests.support.drawn_run import drawn_recipe, job_for, work, write_run
from tests.support.label_maps import shifted, write_maps, write_seeds
from tests.support.measured import (
    AGREEMENT,
    CLASSIFIER,
    LABEL_AGREEMENT,
    OF_MASKS,
    PROMPTS,
    PSEUDO_BOXES,
    PSEUDO_MASKS,
    SIMILARITY,
    label_maps,
    metrics,
    row_of_scalars,
)
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.datasets.shapes import Shapes
from weaksam.masks_np import decode_rle
from weaksam.structures import Detections, PseudoGroundTruth

_OF_LOSS = of_loss(
    np.array([0, 1, 2, 4], np.float32), {iou: np.array([False, False, True, True]) for iou in ("0.7", "0.25", "0.5")}
)
_DROPPED = {"regions": 4, "dropped": 2, "wrong": 2, "wrong_dropped": 1}
NOISE = {
    "images": 3, "regions": 4, "step": 5, "steps": 9, "error_rate": {"0.7": 0.5, "0.25": 0.25, "0.5": 0.25},
    "losses": {"cls": _OF_LOSS, "reg": _OF_LOSS}, "drop": {"foreground": _DROPPED, "background": _DROPPED},
}  # fmt: skip
MEASURED = {  # by instance, what it leaves behind
    "evaluate.mil": metrics(),
    "evaluate.final": metrics(masks=OF_MASKS),
    "evaluate.classifier": CLASSIFIER,
    "evaluate.label": PSEUDO_BOXES,
    "evaluate.segment": PSEUDO_MASKS,
    "evaluate.seeds": label_maps(0.625, {"superpixels": 7.5, "coverage": 0.75, "fallbacks": 1}),
    "evaluate.maps": label_maps(0.6875),
    "evaluate.agreement": AGREEMENT,
    "evaluate.label-agreement": LABEL_AGREEMENT,
    "analyse.prompts": PROMPTS,
    "analyse.similarity": SIMILARITY,
    "analyse.noise": NOISE,
}
FULL_RUN = (
    "index", "propose", "train-mil", "detect.mil", "label", "segment", "superpixels", "train-segmenter", "predict-maps",
    "evaluate.proposals",
    *MEASURED,
)  # fmt: skip


def write_full_run(run_uri: str) -> ShownRun:
    """Write the run; return what the sections of its page see."""
    dataset = write_run(run_uri)
    write_detector(run_uri, dataset)
    write_labels(run_uri, dataset)
    write_masks(run_uri, dataset)
    write_seeds(run_uri, "seeds", shifted(dataset, "train", 5), dataset.class_names)
    write_maps(run_uri, "predict-maps", shifted(dataset, "train", 2), dataset.class_names)
    write_segmenter(run_uri)
    write_superpixels(run_uri, dataset)
    job = job_for(drawn_recipe(), run_uri, "evaluate.proposals", ("propose",))
    job.instance.finish(work(job))
    for name, content in MEASURED.items():
        instance = instance_of(run_uri, name)
        write_json(instance.file("analysis.json" if name.startswith("analyse") else "metrics.json"), content)
        instance.finish({"text": "by hand"})
    write_bytes(
        instance_of(run_uri, "analyse.similarity").file("similarity-all.png"), grey_png(np.eye(2, dtype=np.float32))
    )
    run = report.shown_run(job_for(drawn_recipe(), run_uri, "report", FULL_RUN))
    maps = {
        "seeds": SeedTable(instance_of(run_uri, "seeds")),
        "predict-maps": LabelMapTable(instance_of(run_uri, "predict-maps")),
    }
    return replace(run, products={**run.products, **maps})


def write_labels(run_uri: str, dataset: Shapes) -> None:
    """Write a finished ``label``: the true objects of the training images."""
    instance = instance_of(run_uri, "label")
    instance.begin({})
    rows = []
    for image_id, truth in dataset.ground_truth("train").items():
        ones = np.ones(len(truth.boxes_xyxy), np.float32)
        pseudo = PseudoGroundTruth(
            boxes_xyxy=truth.boxes_xyxy, class_index=truth.class_index, score=ones, score_normalised=ones
        )
        rows.append(pseudo_labels_to_row(image_id, FROM_NOTHING, (64, 64), pseudo, supervision="image-labels"))
    instance.table(with_class_names(PSEUDO_LABELS, dataset.class_names)).write_rows(rows, "part-0")
    instance.finish({"text": f"images {len(rows)}", "supervision": "image-labels"})


def write_masks(run_uri: str, dataset: Shapes) -> None:
    """Write a finished ``segment``: the true masks of the training images."""
    instance = instance_of(run_uri, "segment")
    instance.begin({})
    rows = []
    for image_id, truth in dataset.ground_truth("train", masks=True).items():
        ones = np.ones(len(truth.boxes_xyxy), np.float32)
        pseudo = PseudoGroundTruth(
            boxes_xyxy=truth.boxes_xyxy,
            class_index=truth.class_index,
            score=ones,
            score_normalised=ones,
            mask_rle=[rle for rle in truth.mask_rle or () if rle is not None],
        )
        columns = dict.fromkeys(("area", "box_iou", "predicted_iou", "stability"), ones)
        rows.append(
            pseudo_masks_to_row(
                image_id, FROM_NOTHING, (64, 64), pseudo, prompted_xyxy=truth.boxes_xyxy, columns=columns,
                reasons=[""] * len(ones), supervision="image-labels",
            )
        )  # fmt: skip
    instance.table(with_class_names(PSEUDO_MASKS_TABLE, dataset.class_names)).write_rows(rows, "part-0")
    instance.finish({"text": f"images {len(rows)}", "supervision": "image-labels"})


def write_segmenter(run_uri: str) -> None:
    """Write a finished training of a segmenter."""
    training = instance_of(run_uri, "train-segmenter")
    training.begin({})
    write_scalars(training.file("checkpoints", "k"), [row_of_scalars(n, steps=10, pixels=1 / n) for n in range(1, 11)])
    training.finish({"text": "steps planned 10 = done 10", "seconds": 4.0})


def write_superpixels(run_uri: str, dataset: Shapes) -> None:
    """Write a finished ``superpixels``: the true masks of the training images, as wholes."""
    instance = instance_of(run_uri, "superpixels")
    instance.begin({})
    rows = []
    for image_id, truth in dataset.ground_truth("train", masks=True).items():
        masks = automatic_masks([decode_rle(rle) for rle in truth.mask_rle or () if rle is not None], size_hw=(64, 64))
        rows.append(automatic_masks_to_row(image_id, FROM_NOTHING, masks))
    instance.table(SUPERPIXELS).write_rows(rows, "part-0")
    instance.finish({"text": f"images {len(rows)}"})


def write_detector(run_uri, dataset, *, class_names=None, empty=False):
    """Write a finished training and its detections: boxes shrunk more from object to object, every fourth image has none."""
    training = instance_of(run_uri, "train-mil")
    training.begin({})
    rows = [row_of_scalars(n, steps=40, mil=3 / n, refine1=1 / n, box1=0.2) for n in range(1, 41)]
    write_scalars(training.file("checkpoints", "k"), rows)
    training.finish({"text": "steps planned 40 = done 40", "seconds": 4.0})

    detect = instance_of(run_uri, "detect.mil")
    detect.begin({})
    table = detect.table(with_class_names(DETECTIONS, class_names or dataset.class_names))
    done = set(instance_of(run_uri, "propose").table(DETECTIONS).ids())
    records = [r for split in dataset.splits for r in dataset.records(split) if r.image_id in done]
    rows = []
    for n, record in enumerate(records):
        objects = dataset.ground_truth(record.split)[record.image_id]
        shown = slice(0, 0 if empty or n % 4 == 3 else None)
        boxes = objects.boxes_xyxy[shown].copy()
        count = np.arange(len(boxes))
        boxes[:, 2] -= (boxes[:, 2] - boxes[:, 0]) * ((n + count) % 3) / 3
        detections = Detections(
            boxes_xyxy=boxes,
            class_index=objects.class_index[shown],
            score=(0.95 - 0.05 * n - 0.1 * count).astype(np.float32),
            image_scores=np.array([c in objects.class_index for c in range(6)], np.float32),
        )
        rows.append(detections_to_row(record.image_id, FROM_NOTHING, (64, 64), detections))
    table.write_rows(rows, "part-0")
    detect.finish({"text": f"images {len(rows)}", "seconds": 1.0})
