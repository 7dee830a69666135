"""How the evaluate stage measures the classifier: mean average precision of its scores of images it may not have seen.

Reads the data set's image labels and pictures, on the driver, and never a box. Each image is seen once, its middle at the size
that the classifier was trained on (method 1.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable
from pipelines.evaluate.agreement import image_labels
from pipelines.evaluate.options import ClassifierOptions
from pipelines.products.index import Index, in_hash_order
from pipelines.products.measured import Evaluation, EvaluationFacts
from pipelines.recipe.model import Recipe
from pipelines.stages.train_classifier.trained import TrainedClassifier
from pipelines.store.numbers import known, percent
from pipelines.training.images import LabelledImage
from weaksam.errors import DataError
from weaksam.structures import IMAGE_LABELS

MOST_IMAGES = 5000  # of a split, first in hash order


def options(recipe: Recipe) -> ClassifierOptions:
    """Return what an instance depends on that measures the classifier."""
    of = recipe.evaluate.of
    return ClassifierOptions(of=of, crop_size=recipe.of(of).classifier.crop_size, data=recipe.data)


def run(job: Job[ClassifierOptions]) -> EvaluationFacts:
    """Measure the classifier on every split whose labels are known."""
    from pipelines.stages.train_classifier.task import score_classifier
    from weaksam.clues.loading import load_classifier
    from weaksam.datasets import open_dataset
    from weaksam.io.weights import fetch_weights

    index = job.input(job.options.index, Index)
    weights_uri = job.input(job.options.of, TrainedClassifier).weights_uri
    network, class_names = load_classifier(fetch_weights(weights_uri).path)
    dataset = open_dataset(job.options.data)
    if class_names != dataset.class_names:
        raise DataError(
            f"{weights_uri}: expected a classifier of the classes {', '.join(dataset.class_names)}, got one of "
            f"{', '.join(class_names)}"
        )
    pictures, splits = index.pictures(), dict[str, dict[str, Any]]()
    for split in index.facts.splits:
        labels = {image_id: known for image_id, known in image_labels(dataset, split).items() if image_id in pictures}
        images = [
            LabelledImage(image_id, pictures[image_id].uri, tuple(labels[image_id]))
            for image_id in in_hash_order(list(labels))[:MOST_IMAGES]
        ]
        if images:
            with job.voice.sign_of_life(f"{job.instance.name}: looking at {len(images):,} images of {split}"):
                scores = score_classifier(network, images, job.options.crop_size)
            splits[split] = {
                "images": scores.images,
                "labelled": len(labels),
                "mean_ap": known(scores.mean_ap),
                "classes": [
                    {"name": name, "images": sum(n in image.labels for image in images), "ap": known(float(ap))}
                    for n, (name, ap) in enumerate(zip(class_names, scores.per_class, strict=True))
                ],
            }
    Evaluation(job.instance).write(
        {"class_names": list(class_names), "supervision": IMAGE_LABELS, "classifier": splits}
    )
    if splits:
        job.voice.table(text_table(splits))
    parts = [f"{split}: mAP {percent(measured['mean_ap'])}" for split, measured in splits.items()]
    return EvaluationFacts(text=" · ".join(parts) or "no image whose labels are known", supervision=IMAGE_LABELS)


def text_table(splits: Mapping[str, Mapping[str, Any]]) -> TextTable:
    """Lay out the splits for people to read, in per cent."""
    text = TextTable("classifier: average precision of its scores of whole images, in %")
    text.add_columns(Kind.NAME, "")
    text.add_columns(Kind.FIGURE, "images", "mAP", *(row["name"] for row in next(iter(splits.values()))["classes"]))
    for split, measured in splits.items():
        figures = (percent(row["ap"]) for row in measured["classes"])
        of = "" if measured["images"] == measured["labelled"] else f" of {measured['labelled']:,}"
        text.add_row(split, f"{measured['images']:,}{of}", percent(measured["mean_ap"]), *figures)
    return text
