"""A small finished run on drawn images without SAM or Ray: proposals are the true boxes, jittered by a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.engine.stage import Job, Options
from pipelines.engine.voice import SILENT, Voice
from pipelines.recipe.config import ReportConfig
from pipelines.recipe.model import Recipe
from pipelines.registry import product_of, stage_of
from pipelines.store.files import write_bytes
from pipelines.store.lock import Lock
from pipelines.store.schemas import IMAGES, PROPOSALS, proposals_to_row, with_class_names
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.config import CamConfig, CluesConfig, DataConfig, PromptsConfig, ShapesConfig, WeakTrConfig
from weaksam.datasets.shapes import Shapes
from weaksam.structures import ImageRecord, Prompts, Proposals

SHAPES = ShapesConfig(size=64, train=6, val=4, test=0)
GRID = 3


def drawn_recipe(**changes) -> Recipe:
    recipe = Recipe(
        name="drawn",
        description="Drawn images, boxes by hand",
        stages=("index", "propose", "evaluate.proposals", "analyse.prompts", "report"),
        data=DataConfig(uri="shapes:", kind="shapes", shapes=SHAPES),
        clues=CluesConfig(cam=CamConfig(cross_layers=())),
        prompts=PromptsConfig(points_per_side=GRID),
        report=ReportConfig(gallery_images=3, gallery_side=96),
    )
    return recipe.model_copy(update=changes)


def with_instances(recipe: Recipe, **instances: dict[str, Any]) -> Recipe:
    """The recipe with more instances, their names with "_" for the dot: ``evaluate_mine={"of": "import.mine"}``."""
    more = {name.replace("_", "."): options for name, options in instances.items()}
    return recipe.model_copy(update={"instances": {**recipe.instances, **more}})


def job_for(
    recipe: Recipe,
    run_uri: str,
    name: str,
    upstream: tuple[str, ...],
    voice: Voice = SILENT,
    splits: tuple[str, ...] = (),
) -> Job[Any]:
    """The job that the stage machinery would hand to ``run``, with every instance under the key "k"."""
    instance = instance_of(run_uri, name, splits=splits)
    return Job(
        options=stage_of(name).options(recipe.of(name), name),
        instance=instance,
        inputs={n: product_of(instance_of(run_uri, n)) for n in upstream},
        asked=Options(),
        lock=Lock(instance.folder, name),
        voice=voice,
    )


def work(job: Job[Any]) -> dict[str, Any]:
    """Do a job, and return what its manifest would say."""
    return stage_of(job.instance.name).run(job).to_plain()


def write_run(run_uri: str, *, dropped: int = 1, others: Sequence[ImageRecord] = ()) -> Shapes:
    """Write a finished ``index`` and ``propose``; the first ``dropped`` training images have no row but a reason.

    ``others`` are indexed, too, and that is all that there is of them.
    """
    dataset = Shapes(SHAPES)
    records = [r for split in dataset.splits for r in dataset.records(split)]
    index = instance_of(run_uri, "index")
    rows = [
        {
            "image_id": r.image_id,
            "uri": r.uri,
            "split": r.split,
            "content": r.uri,
            "labels": r.labels,
            "labels_difficult": r.labels_difficult,
        }
        for r in (*records, *others)
    ]
    index.begin({})
    index.table(with_class_names(IMAGES, dataset.class_names)).write_rows(rows, "part-0")
    index.finish(
        {
            "kind": "shapes",
            "classes": 6,
            "labels_granted_to": "train",
            "splits": {"train": 6, "val": 4},
            "text": "images 10",
        }
    )

    propose = instance_of(run_uri, "propose")
    propose.begin({"fingerprints": {"sam": "0123456789abcdef"}})
    table = propose.table(with_class_names(PROPOSALS, dataset.class_names))
    truth = {split: dataset.ground_truth(split) for split in dataset.splits}
    done = [r for r in records if r not in records[:dropped]]
    for n, record in enumerate(done):
        proposals = drawn_proposals(truth[record.split][record.image_id].boxes_xyxy, seed=n)
        table.write_rows([proposals_to_row(record.image_id, FROM_NOTHING, proposals)], f"part-{n}")
    propose.dropped.write_rows(
        [
            {
                "image_id": r.image_id,
                "input": FROM_NOTHING,
                "stage": "propose",
                "uri": r.uri,
                "reason": "truncated",
                "detail": "x",
            }
            for r in records[:dropped]
        ],
        "part-0",
    )
    propose.finish(
        {
            "text": "images 10 = done 9 + dropped 1 · duplicates 0",
            "images": {"images": len(records), "done": len(done), "dropped": dropped},
            "throughput": {"images": len(done), "seconds": 3.0, "images_per_s": 3.0},
            "seconds": 3.0,
            "actors": "1 prompt + 1 segment actor(s)",
        }
    )
    return dataset


def write_clues(run_uri: str) -> None:
    """Write a finished ``train-classifier``: a small network that has learnt nothing."""
    import torch

    from weaksam.clues.loading import build_classifier, classifier_to_bytes

    torch.manual_seed(0)
    names = Shapes.class_names
    network = build_classifier(
        WeakTrConfig(stem="cnn", patch_size=8, dim=32, depth=2, heads=2, fusion_reduction=2), len(names)
    )
    classifier = instance_of(run_uri, "train-classifier")
    write_bytes(classifier.file("classifier.safetensors"), classifier_to_bytes(network, names))
    classifier.finish({"text": "learnt nothing"})


def drawn_proposals(objects_xyxy: np.ndarray, seed: int) -> Proposals:
    """Grid boxes that fit loosely, fine ones that fit well, prompts to match; nothing from coarse, one box from cross."""
    rng = np.random.default_rng(seed)
    loose = (objects_xyxy + rng.normal(0, 6, objects_xyxy.shape)).clip(0, 64)
    tight = (objects_xyxy + rng.normal(0, 1, objects_xyxy.shape)).clip(0, 64)
    boxes_xyxy = np.concatenate([loose, tight, [(0, 0, 64, 64)]]).astype(np.float32)
    boxes_xyxy[:, 2:] = np.maximum(boxes_xyxy[:, 2:], boxes_xyxy[:, :2] + 1)
    count = len(objects_xyxy)
    centres = (objects_xyxy[:, :2] + objects_xyxy[:, 2:]) / 2
    spots = [np.float32([point]) for point in centres.tolist()]
    cells = [np.float32([(x, y)]) for y in (10, 32, 53) for x in (10, 32, 53)]
    return Proposals(
        size_hw=(64, 64),
        boxes_xyxy=boxes_xyxy,
        source=["grid"] * count + ["fine"] * count + ["cross"],
        prompt_index=np.zeros(len(boxes_xyxy), np.int32),
        mask_index=np.ones(len(boxes_xyxy), np.int8),
        predicted_iou=np.full(len(boxes_xyxy), 0.5, np.float32),
        discarded={("grid", "low predicted IoU"): 5, ("grid", "suppressed"): 2},
        prompts=[
            Prompts(source="grid", points_xy=cells, kind=["grid"] * 9, class_index=[-1] * 9),
            Prompts(
                source="fine",
                points_xy=[*spots, centres.astype(np.float32)],
                kind=["semantic"] * count + ["class-joint"],
                class_index=[2] * (count + 1),
            ),
            Prompts(source="cross", points_xy=[np.float32([(30, 30)])], kind=["instance"], class_index=[-1]),
        ],
    )
