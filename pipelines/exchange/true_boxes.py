"""``weaksam export --as pseudo-labels``: the true boxes of the labelled split as pseudo labels, with noise if wanted.

This is the one way in which true boxes reach a trainer: as the instance ``import.<name>`` that ``retrain.learn_from`` can
name. Every row and the manifest say ``supervision: boxes``, and whatever is made of them repeats it. The column ``noise`` says
what was done to each box, so that a loss drop can be measured by what it drops; boxes that noise removed are kept as rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pipelines.exchange.imports import instance_name
from pipelines.products.index import NO_SPLIT, Index
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.recipe.keys import to_plain
from pipelines.recipe.model import load_recipe
from pipelines.store.instances import Instance, Lock, finished_instance, instance_key, prove
from pipelines.store.schemas import (
    DROPPED,
    IMAGES,
    PSEUDO_LABELS,
    SCHEMA_VERSION,
    pseudo_labels_to_row,
    with_class_names,
)
from weaksam.config import DataConfig
from weaksam.datasets.ground_truth import StatedSize, true_objects
from weaksam.errors import ConfigError, DataError, ImageError
from weaksam.io.files import join, open_fs
from weaksam.io.images import read_size
from weaksam.pseudo_labels.noise import CLEAN, MISSING, NOISE_KINDS, NoisyBoxes, TrueBoxes, add_noise
from weaksam.structures import BOXES, GroundTruth, PseudoGroundTruth

_ROWS_PER_PART = 4096  # images
_READERS = 16


def run_export_true_boxes(run_uri: str, *, name: str, noise: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Write the true boxes of the labelled split into the run as ``import.<name>``; what is there already is not made again.

    Crowds are left out, and so are difficult objects unless ``data.include_difficult``.

    Args:
        run_uri: a run with a finished ``index``.
        name: label of the instance.
        noise: share of the boxes to make wrong, in [0, 1], see ``weaksam.pseudo_labels.noise``.
        seed: of the noise.

    Returns:
        the manifest: ``images`` (the proof), ``boxes``, ``left_out`` by reason, ``noise`` (share, seed and how many boxes of
        each kind), ``supervision`` and ``text``, a line for people.

    Raises:
        ConfigError: a share outside [0, 1], or a name that no folder has.
        DataError: labels are granted to no split, or none of its images has true boxes.
        RunError: no finished ``index``, or another process exports the same.
    """
    if not 0 <= noise <= 1:
        raise ConfigError(f"--noise: expected a share in 0..1, got {noise:g}")
    called = instance_name(name)
    index = finished_instance(run_uri, "index")
    config = TypeAdapter(DataConfig).validate_python((index.plan() or {})["parts"]["method"]["data"])
    config = replace(config, stated_size=_stated_size(run_uri))
    parts = {
        "verb": "import",
        "schema": SCHEMA_VERSION,
        "method": {
            "supervision": BOXES,
            "noise": noise,
            "seed": seed,
            "include_difficult": config.include_difficult,
            **({} if config.stated_size == "check" else {"stated_size": config.stated_size}),
        },
        "fingerprints": {},
        "reads": {"index": index.key},
    }
    instance = Instance(run_uri, called, instance_key(parts))
    manifest = instance.finished(PSEUDO_LABELS)
    if manifest is not None:
        instance.make_current()
        return manifest
    split = Index(index).granted_split
    truth = _ground_truth(config, split)  # before ``begin``, which puts an earlier instance of this name aside
    with Lock(instance.folder, f"weaksam {instance.name}"):
        manifest = instance.finished(PSEUDO_LABELS)
        if manifest is not None:
            return manifest  # somebody finished it while this process read the annotations
        instance.set_aside_damaged(PSEUDO_LABELS)
        instance.reopen()
        instance.begin(parts, PseudoLabelTable.__name__)
        return instance.finish(_write(instance, index, truth, split, noise, seed, config))


def _stated_size(run_uri: str) -> StatedSize:
    """Return what the run's recipe says now of stated sizes, which is of no matter to its index."""
    uri = join(run_uri, "recipe.yaml")
    fs, path = open_fs(uri)
    return load_recipe(uri)[0].data.stated_size if fs.exists(path) else "check"


def _ground_truth(config: DataConfig, split: str) -> dict[str, GroundTruth]:
    from weaksam.datasets import open_dataset

    truth = {} if split == NO_SPLIT else open_dataset(config).ground_truth(split)
    if not truth:
        raise DataError(
            f"{config.uri}: expected true boxes of the split that labels are granted to ({split}), got none; annotate it, or "
            "name another in data.train_split"
        )
    return truth


def _write(
    instance: Instance,
    index: Instance,
    truth: Mapping[str, GroundTruth],
    split: str,
    noise: float,
    seed: int,
    config: DataConfig,
) -> dict[str, Any]:
    table = index.table(IMAGES)
    rows = [row for row in table.iter_rows(("image_id", "uri", "split")) if row["split"] == split]
    images, left_out = _true_boxes(rows, truth, config, instance)
    class_names = table.class_names()
    noisy = add_noise(images, num_classes=len(class_names), share=noise, seed=seed)
    labels = instance.table(with_class_names(PSEUDO_LABELS, class_names))
    ids = list(images)
    for start in range(0, len(ids), _ROWS_PER_PART):
        part = [_row(i, split, images[i], noisy[i]) for i in ids[start : start + _ROWS_PER_PART]]
        labels.write_rows(part, f"part-{start // _ROWS_PER_PART:05d}")
    proof = prove([row["image_id"] for row in rows], labels, instance.dropped)
    kinds = Counter(kind for found in noisy.values() for kind in [*found.kind, *[MISSING] * len(found.missing)])
    wrong = ", ".join(f"{kind} {kinds[kind]:,}" for kind in NOISE_KINDS if kind != CLEAN)
    boxes = sum(len(found.kind) for found in noisy.values())
    apart = "".join(f" · {reason} left out {count:,}" for reason, count in left_out.items())
    return {
        "text": f"{proof} · boxes {boxes:,}{apart} · noise: {wrong if noise else 'none'} · supervision: {BOXES}",
        "images": to_plain(proof),
        "split": split,
        "boxes": boxes,
        "left_out": left_out,
        "noise": {"share": noise, "seed": seed, **{kind: kinds[kind] for kind in NOISE_KINDS}},
        "supervision": BOXES,
    }


def _true_boxes(
    rows: Sequence[Mapping[str, Any]], truth: Mapping[str, GroundTruth], config: DataConfig, instance: Instance
) -> tuple[dict[str, TrueBoxes], dict[str, int]]:
    """Return the boxes of every image that can be read (others go to ``_dropped``), and how many were left out, by reason."""
    images: dict[str, TrueBoxes] = {}
    dropped = []
    left_out = {"difficult": 0, "crowd": 0, "without area in their image": 0}
    with ThreadPoolExecutor(_READERS) as threads:
        for row, size in zip(rows, threads.map(read_size, (row["uri"] for row in rows)), strict=True):
            found = _objects_of(truth, row["image_id"], size)
            if isinstance(found, ImageError):
                dropped.append({**row, "stage": instance.name, "reason": found.reason, "detail": found.detail})
                continue
            size_hw, objects = found
            difficult = objects.difficult & ~objects.crowd & (not config.include_difficult)
            left_out["difficult"] += int(difficult.sum())
            left_out["without area in their image"] += objects.left_out
            left_out["crowd"] += int(objects.crowd.sum())
            wanted = ~(difficult | objects.crowd)
            boxes_xyxy, class_index = objects.boxes_xyxy[wanted], objects.class_index[wanted]
            images[row["image_id"]] = TrueBoxes(size_hw=size_hw, boxes_xyxy=boxes_xyxy, class_index=class_index)
    if dropped:
        instance.dropped.write_rows([{column: row[column] for column in DROPPED.names} for row in dropped], "part-0")
    if rows and not images:
        row = dropped[0]
        raise DataError(f"none of the {len(rows):,} images can be used; {row['uri']}: {row['reason']}: {row['detail']}")
    return images, {reason: count for reason, count in left_out.items() if count}


def _objects_of(
    truth: Mapping[str, GroundTruth], image_id: str, size_hw: tuple[int, int] | ImageError
) -> tuple[tuple[int, int], GroundTruth] | ImageError:
    """Return a picture's size and its true objects, or why it has none: unreadable, or annotated in another size."""
    if isinstance(size_hw, ImageError):
        return size_hw
    try:
        return size_hw, true_objects(truth, image_id, size_hw)
    except DataError as error:
        return ImageError("annotated in another size", str(error))


def _row(image_id: str, split: str, image: TrueBoxes, noisy: NoisyBoxes) -> dict[str, Any]:
    certain: NDArray[np.float32] = np.ones(len(noisy.kind), np.float32)
    return pseudo_labels_to_row(
        image_id,
        split,
        image.size_hw,
        PseudoGroundTruth(
            boxes_xyxy=noisy.boxes_xyxy, class_index=noisy.class_index, score=certain, score_normalised=certain
        ),
        supervision=BOXES,
        noise=noisy.kind,
        rejected=[
            {
                "box_xyxy": image.boxes_xyxy[n].tolist(),
                "class_index": int(image.class_index[n]),
                "score": 1.0,
                "reason": "noise",
            }
            for n in noisy.missing
        ],
    )
