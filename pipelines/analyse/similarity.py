"""``analyse.similarity``, Fig. 6: how alike the detector sees the proposals of an image (method 9.6).

Of each image at most 200 proposals are drawn. Their features are what the body of the detector pools for them at the first
scale of ``detect.scales``, flattened; their cosines make a matrix, its mean off the diagonal is the image's number. The
proposals are those that the detector is fed with: filtered, and of exact duplicates the first. Runs on the driver.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from pipelines.analyse.prompts import ANALYSIS_FILE, analysed_split, first_proposed
from pipelines.engine.stage import Content, Job
from pipelines.engine.text_table import Kind, TextTable
from pipelines.evaluate.proposals import named_sources
from pipelines.recipe.model import Recipe, to_plain
from pipelines.stages.detect import DETECTOR_FILE, given_detector
from pipelines.store.numbers import known
from pipelines.store.schemas import IMAGES, PROPOSALS
from pipelines.store.tables import Table, write_bytes, write_json
from weaksam.config import DetectConfig
from weaksam.structures import TABLE_SOURCES

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam.detectors.mil.base import WeakDetector

_NAME = "similarity"  # of its pictures, and of its random choice
COMPARED = 200  # proposals of an image and set (Fig. 6)
ALL = "all"  # the set of all sources


def execute(job: Job) -> dict[str, Any]:
    """Compare, write ``analysis.json`` and print it."""
    analysis = measure(job, analysed_split(job.recipe, job.upstream["index"]))
    write_json(job.instance.file(ANALYSIS_FILE), analysis)
    job.console.print(text_table(analysis))
    return {"text": verdict(analysis)}


def measure(job: Job, split: str) -> dict[str, Any]:
    """Compare the proposals of the first images of a split; write the first one's matrices as ``similarity-SET.png``.

    Returns:
        ``split``; ``images``, their ids; ``rows``, one per set of sources ("all", then each alone): ``name``, ``proposals`` per
        image that were compared, ``values`` (mean cosine by image id, null with fewer than two proposals), and their
        ``mean`` and ``spread`` (largest minus smallest), null without a value.

    Raises:
        DataError: no image of the split has proposals.
        ImageError: an image that had proposals cannot be read any more.
    """
    from weaksam.io.files import read_bytes
    from weaksam.io.images import decode_image
    from weaksam.metrics.similarity import cosine_matrix, mean_off_diagonal

    recipe, question = job.recipe, job.recipe.analyse
    mil = recipe.of(question.detector).mil
    detector = _load_detector(job)
    rows = _first_rows(job.upstream[question.proposals].table(PROPOSALS), split, question.similarity_images)
    uris = {row["image_id"]: row["uri"] for row in job.upstream["index"].table(IMAGES).iter_rows(["image_id", "uri"])}
    wanted = mil.proposal_sources
    met = {source for row in rows for source in row["source"]} | set(named_sources(recipe.of(question.proposals)))
    sets = source_sets(source for source in met if not wanted or source in wanted)
    values: dict[str, dict[str, float | None]] = {name: {} for name in sets}
    compared = dict.fromkeys(sets, 0)
    for number, row in enumerate(rows):
        image_id = row["image_id"]
        image = decode_image(read_bytes(uris[image_id]))
        boxes = {name: drawn_boxes(row, sources, image.shape[:2], mil.min_box_side) for name, sources in sets.items()}
        for name, features in pooled_features(detector, image, boxes, recipe.detect).items():
            matrix = cosine_matrix(features)
            values[name][image_id] = known(mean_off_diagonal(matrix))
            compared[name] += len(matrix)
            if number == 0 and len(matrix) > 1:
                write_bytes(job.instance.file(matrix_file(name)), grey_png(matrix.cpu().numpy()))
    return {
        "split": split,
        "images": [row["image_id"] for row in rows],
        "rows": [
            {"name": name, "proposals": compared[name] / len(rows), "values": of_images, **mean_and_spread(of_images)}
            for name, of_images in values.items()
        ],
    }


def matrix_file(set_name: str) -> str:
    """Return the name of the picture of the first image's matrix; written where it has two proposals of the set."""
    return f"{_NAME}-{set_name}.png"


def method(recipe: Recipe) -> Mapping[str, Any]:
    """Return the part of the recipe that can change the numbers."""
    mil = recipe.of(recipe.analyse.detector).mil
    return {
        "split": recipe.analyse.split,
        "images": recipe.analyse.similarity_images,
        "detector": mil.detector,
        "backbone": mil.backbone,
        "proposal_sources": to_plain(mil.proposal_sources),
        "min_box_side": mil.min_box_side,
        "scale": recipe.detect.scales[0],
        "max_side": recipe.detect.max_side,
    }


def contents(recipe: Recipe) -> Mapping[str, Content]:
    """Return the detector that the recipe gives, if it gives one."""
    return given_detector(recipe.of(recipe.analyse.detector).mil.weights)


def reads(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the instances that are read."""
    question = recipe.analyse
    trained = () if recipe.of(question.detector).mil.weights else (question.detector,)
    return ("index", question.proposals, *trained)


def source_sets(sources: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return which proposals are compared with each other: those of all sources, then of each alone, the method's first."""
    found = set(sources)
    alone = [*(s for s in TABLE_SOURCES if s in found), *sorted(found - set(TABLE_SOURCES))]
    return {ALL: frozenset(found)} | {source: frozenset([source]) for source in alone}


def drawn_boxes(
    row: Mapping[str, Any], sources: frozenset[str], size_hw: Sequence[int], min_box_side: int
) -> NDArray[np.float32]:
    """Draw the proposals of one image that are compared.

    Args:
        row: of the proposals table.
        sources: whose boxes are wanted.
        size_hw: of the image.
        min_box_side: pixels, see ``prepare_proposals``.

    Returns:
        ``[N, 4]`` in the table's order, N at most ``COMPARED``; which ones follows from the image id. Empty when the sources
        have no box here.
    """
    from weaksam.detectors.mil.samples import prepare_proposals
    from weaksam.random import derive_seed

    mine = [box for box, source in zip(row["boxes_xyxy"], row["source"], strict=True) if source in sources]
    boxes = np.asarray(mine, np.float32).reshape(-1, 4)
    if len(boxes) == 0:
        return boxes
    boxes = prepare_proposals(boxes, (size_hw[0], size_hw[1]), min_box_side)
    generator = np.random.default_rng(derive_seed(_NAME, row["image_id"]))
    return boxes[np.sort(generator.permutation(len(boxes))[:COMPARED])]


def pooled_features(
    detector: WeakDetector, image: NDArray[np.uint8], boxes: Mapping[str, NDArray[np.float32]], config: DetectConfig
) -> dict[str, Tensor]:
    """Return what the detector's body pools for each set of boxes, flattened: set -> ``[N, D]``.

    Args:
        detector: in evaluation mode.
        image: ``[H, W, 3]`` RGB; its features are computed once.
        boxes: set -> ``[N, 4]`` pixels of the image.
        config: its first scale and ``max_side`` are used.
    """
    import torch

    from weaksam.detectors.mil.samples import View, collate, scaled

    device = next(detector.parameters()).device
    body = detector.body
    pixels, corners = scaled(image, np.concatenate(list(boxes.values())), config.scales[0], config.max_side)
    batch = collate([View(body.normalise(pixels), torch.from_numpy(corners))])
    ends = np.cumsum([len(of_set) for of_set in boxes.values()])
    with torch.no_grad():
        features = body.features(batch.images.to(device))
        return {
            name: body.pool(
                features,
                torch.from_numpy(of_set).to(device),
                torch.zeros(len(of_set), dtype=torch.int64, device=device),
            ).flatten(1)
            for name, of_set in zip(boxes, np.split(corners, ends[:-1]), strict=True)
        }


def grey_png(matrix: NDArray[np.float32]) -> bytes:
    """Return a matrix ``[N, N]`` as a PNG of N x N pixels: 0 and below is black, 1 is white."""
    buffer = io.BytesIO()
    Image.fromarray((matrix.clip(0, 1) * 255).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def mean_and_spread(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the mean of the values that are known and their largest minus their smallest; both null without one."""
    numbers = [value for value in values.values() if value is not None]
    if not numbers:
        return {"mean": None, "spread": None}
    return {"mean": sum(numbers) / len(numbers), "spread": max(numbers) - min(numbers)}


def text_table(analysis: Mapping[str, Any]) -> TextTable:
    """Lay the rows out for the console."""
    title = f"{analysis['split']}: {len(analysis['images']):,} images, mean cosine of their proposals' features"
    text = TextTable(title)
    text.add_columns(Kind.NAME, "sources")
    text.add_columns(Kind.FIGURE, "proposals", "mean", "spread", "images")
    for row in analysis["rows"]:
        figures = ("–" if row[key] is None else f"{row[key]:.3f}" for key in ("mean", "spread"))
        with_value = sum(value is not None for value in row["values"].values())
        text.add_row(row["name"], f"{row['proposals']:.1f}", *figures, f"{with_value:,}")
    return text


def verdict(analysis: Mapping[str, Any]) -> str:
    """Say the number of all sources in one line."""
    mean = analysis["rows"][0]["mean"]
    images = f"{len(analysis['images']):,} images of {analysis['split']}"
    return f"{images}: {'no two proposals to compare' if mean is None else f'mean cosine similarity {mean:.3f}'}"


def _load_detector(job: Job) -> WeakDetector:
    import torch

    from weaksam.detectors.loading import load_detector
    from weaksam.io.weights import fetch_weights

    name = job.recipe.analyse.detector
    mil = job.recipe.of(name).mil
    weights = mil.weights or job.upstream[name].file(DETECTOR_FILE)
    detector, _ = load_detector(fetch_weights(weights).path, mil)
    return detector.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _first_rows(table: Table, split: str, most: int) -> list[dict[str, Any]]:
    """Return the rows of the split's first images in hash order; ``most`` 0 = all."""
    chosen = first_proposed(table, split, most)
    wanted = pa.array(chosen, pa.string())
    rows = {}
    for part in table.iter_parts(["image_id", "boxes_xyxy", "source"]):
        for row in part.filter(pc.is_in(part["image_id"], wanted)).to_pylist():
            rows[row["image_id"]] = row
    return [rows[image_id] for image_id in chosen]
