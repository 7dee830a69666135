"""How the evaluate stage judges detectors and pseudo labels without a true box: what weak supervision can tune on.

Of pseudo labels: those that two views of the training images give, such as the images and their mirror images, are compared.
Of detections: what the teacher finds in held-out images is compared with what the retrained detector finds in views of them,
and these images are ranked by its scores against their labels. Image labels are all that is known: they say of which classes
there may be boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import combinations
from statistics import mean
from typing import Any

import numpy as np

from pipelines.engine.stage import Job
from pipelines.evaluate.options import AgreementOptions
from pipelines.products.detections import DetectionTable
from pipelines.products.index import Index
from pipelines.products.measured import Evaluation, EvaluationFacts
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.recipe.model import Recipe, verb_of
from pipelines.store.numbers import known, percent
from weaksam.config import DataConfig, PseudoLabelsConfig, require
from weaksam.datasets import Dataset
from weaksam.errors import DataError
from weaksam.structures import Detections, PseudoGroundTruth

AGREEMENT = "agreement"  # in ``metrics.json``
LABEL_AGREEMENT = "label_agreement"

Labels = Mapping[str, Collection[int]]  # image id -> the classes in it


def options(recipe: Recipe) -> AgreementOptions:
    """Return what is compared; ``recipe`` is what the instance sees.

    Raises:
        ConfigError: too few views, or not of the verbs whose tables can be compared.
    """
    how = recipe.evaluate
    detected = (*how.views, *((how.teacher,) if how.teacher else ()))
    ok = all(verb_of(name) == "detect" for name in detected) and verb_of(how.of) in ("detect", "label")
    require(ok, "evaluate.views", "views and a teacher of detect, beside an instance of detect or label", detected)
    of_labels = verb_of(how.of) == "label"
    apart = len(set(detected)) == len(detected)
    enough = len(detected) == 2 and not how.teacher if of_labels else bool(how.teacher)
    wanted = "different ones, two and no teacher beside labels, some and a teacher beside detections"
    require(apart and enough, "evaluate.views", wanted, detected)
    return AgreementOptions(
        of=how.of,
        views=how.views,
        teacher=how.teacher,
        pseudo_labels=recipe.of(how.of).pseudo_labels if of_labels else None,
        data=recipe.data,
    )


def run(job: Job[AgreementOptions]) -> EvaluationFacts:
    """Compare the instances that are read."""
    config = job.options.pseudo_labels
    splits = _of_detectors(job) if config is None else _of_labels(job, config)
    Evaluation(job.instance).write({AGREEMENT: splits})
    text = " · ".join(
        f"{split}: "
        + ", ".join(
            f"{name.replace('_', ' ')} {percent(value)}" for name, value in measured.items() if name != "images"
        )
        for split, measured in splits.items()
    )
    return EvaluationFacts(text=text)


def agreements(
    found: Mapping[str, Mapping[str, Detections]], labels: Labels, num_classes: int, config: PseudoLabelsConfig
) -> dict[tuple[str, str], float]:
    """Return for each pair of sources how far they agree, in [0, 1] (``metrics.agreement``); NaN where neither has a box.

    Args:
        found: source -> image id -> detections. Images that a source lacks are left out of its pairs.
        labels: of every image that is compared.
        num_classes: C.
        config: chooses boxes among an image's detections, as for pseudo ground truth.
    """
    from weaksam.metrics.agreement import Agreement
    from weaksam.pseudo_labels.boxes import pseudo_ground_truth

    chosen: dict[str, dict[str, PseudoGroundTruth]] = {
        source: {
            image_id: pseudo_ground_truth(detections, labels[image_id], config)
            for image_id, detections in images.items()
            if image_id in labels
        }
        for source, images in found.items()
    }
    scores = {}
    for one, other in combinations(chosen, 2):
        agreement = Agreement(num_classes)
        for image_id in chosen[one].keys() & chosen[other].keys():
            agreement.add(image_id, chosen[one][image_id], chosen[other][image_id])
        scores[one, other] = agreement.score()
    return scores


def _of_labels(job: Job[AgreementOptions], config: PseudoLabelsConfig) -> dict[str, dict[str, Any]]:
    """The agreement of pseudo labels under mirroring, of the split whose labels are granted."""
    options, split = job.options, job.input(job.options.index, Index).granted_split
    labels, num_classes = _labels(options.data, split)
    found: dict[str, dict[str, Detections]] = {
        view: job.input(view, DetectionTable).by_split([split]).get(split, {}) for view in options.views
    }
    thresholds: dict[str, Any] = dict(job.input(options.of, PseudoLabelTable).facts.thresholds)  # in numbers
    (score,) = agreements(found, labels, num_classes, replace(config, **thresholds)).values()
    return {split: {"images": len(found[options.views[0]]), LABEL_AGREEMENT: known(score)}}


def classification_map(found: Mapping[str, Detections], labels: Labels) -> float | None:
    """Return how well a detector's image scores rank images by their labels, mAP in [0, 1]; None without labelled images.

    Args:
        found: image id -> detections.
        labels: of images; those that have none are left out.
    """
    from weaksam.metrics.classification import classification_scores

    images = [image_id for image_id in found if image_id in labels]
    if not images:
        return None
    scores = np.nan_to_num(np.stack([found[image_id].image_scores for image_id in images]))
    return known(classification_scores(scores, [sorted(labels[image_id]) for image_id in images]).mean_ap)


def image_labels(dataset: Dataset, split: str) -> Labels:
    """Return the image labels of a split where they are known, difficult objects counted. No coordinate is read."""
    records = dataset.records(split)
    return {r.image_id: r.labels_difficult for r in records if r.labels_difficult is not None}


def _of_detectors(job: Job[AgreementOptions]) -> dict[str, dict[str, Any]]:
    """Classification mAP and the agreement of teacher and student, of every split but the one that is learnt from."""
    options, learnt = job.options, job.input(job.options.index, Index).granted_split
    final = job.input(options.of, DetectionTable).by_split()
    splits = {}
    for split in sorted(final.keys() - {learnt}):
        labels, num_classes = _labels(options.data, split)
        found: dict[str, dict[str, Detections]] = {
            name: job.input(name, DetectionTable).by_split([split]).get(split, {})
            for name in (options.teacher, *options.views)
        }
        splits[split] = {
            "images": len(final[split].keys() & labels.keys()),
            "classification_map": classification_map(final[split], labels),
            **dict.fromkeys(("agreement", "agreement_with_teacher", "agreement_of_views")),
        }
        if all(found.values()):  # the teacher looked at these images
            pairs = agreements(found, labels, num_classes, PseudoLabelsConfig())
            # Two sources without a box have nothing to agree on, and are not to be preferred for it.
            with_teacher = [known(value) or 0.0 for pair, value in pairs.items() if options.teacher in pair]
            alone = [known(value) or 0.0 for pair, value in pairs.items() if options.teacher not in pair]
            splits[split] |= {
                "agreement": mean([*with_teacher, *alone]),
                "agreement_with_teacher": mean(with_teacher),
                "agreement_of_views": mean(alone) if alone else None,
            }
    if not splits:
        raise DataError(f"{job.instance.name}: expected detections in held-out images, got those of {learnt} alone")
    return splits


def _labels(data: DataConfig, split: str) -> tuple[Labels, int]:
    """Return the image labels of a split, and the number of classes."""
    from weaksam.datasets import open_dataset

    dataset = open_dataset(data)
    return image_labels(dataset, split), len(dataset.class_names)
