"""``analyse.similarity``, Fig. 6: how alike the detector sees the proposals of an image (method 9.6).

Of each image at most 200 proposals are drawn. Their features are what the body of the detector pools for them at the first
scale of ``detect.scales``, flattened; their cosines make a matrix, its mean off the diagonal is the image's number. The
proposals are those that the detector is fed with: filtered, and of exact duplicates the first. Runs on the driver.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.analyse.question import Question, analysed_split, first_proposed
from pipelines.engine.product import Facts
from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable
from pipelines.evaluate.proposals import named_sources
from pipelines.products.index import Index
from pipelines.products.measured import Analysis
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.keys import INDEX, NOTHING, Input
from pipelines.recipe.model import Recipe
from pipelines.stages.detect import MilArchitecture, mil_architecture
from pipelines.store.files import write_bytes
from pipelines.store.numbers import known
from pipelines.store.tables import Rows
from pipelines.training.trained import weights_of_job
from weaksam.config import MilConfig
from weaksam.config.weights import NotInKey, Weights
from weaksam.metrics.seeds import mean_and_spread
from weaksam.structures import in_table_order

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam.detectors.mil.base import WeakDetector

_NAME = "similarity"  # of its pictures, and of its random choice
COMPARED = 200  # proposals of an image and set (Fig. 6)
ALL = "all"  # the set of all sources


@dataclass(frozen=True, kw_only=True)
class SimilarityOptions:
    """Which proposals are compared, by the features of which detector."""

    index: Input = INDEX
    proposals: Input
    model: Input  # whose detector sees them; "" where its weights are given
    weights: Weights
    split: str
    images: int  # first in hash order; 0 = all
    architecture: MilArchitecture
    named_sources: tuple[str, ...]
    scale: int  # pixels, shorter side of what the detector sees
    max_side: int  # pixels, longest side
    detector: NotInKey[MilConfig]  # how it was trained; see ``architecture``
    data_uri: NotInKey[str]


class SimilarityQuestion(Question[SimilarityOptions]):
    """Are proposals redundant?"""

    title = "how alike does the detector see an image's proposals (Fig. 6)?"
    measures_by_true_boxes = False

    def options(self, recipe: Recipe) -> SimilarityOptions:
        """Look up how the detector was trained, and which sources the proposals have."""
        question = recipe.analyse
        mil = recipe.of(question.detector).mil
        return SimilarityOptions(
            proposals=question.proposals,
            model=NOTHING if mil.weights else question.detector,
            weights=mil.weights,
            split=question.split,
            images=question.similarity_images,
            architecture=mil_architecture(mil),
            named_sources=named_sources(recipe.of(question.proposals)),
            scale=recipe.detect.scales[0],
            max_side=recipe.detect.max_side,
            detector=mil,
            data_uri=recipe.data.uri,
        )

    def run(self, job: Job[SimilarityOptions]) -> Facts:
        """Compare, and print the table."""
        options = job.options
        split = analysed_split(options.split, job.input(options.index, Index), options.data_uri)
        analysis = measure(job, split)
        Analysis(job.instance).write(analysis)
        job.voice.table(text_table(analysis))
        return Facts(text=verdict(analysis))


def measure(job: Job[SimilarityOptions], split: str) -> dict[str, Any]:
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

    options, detector = job.options, _load_detector(job)
    rows = _first_rows(job.input(options.proposals, ProposalTable).table, split, options.images)
    uris = job.input(options.index, Index).uris([row["image_id"] for row in rows])
    wanted, least_side = options.architecture.proposal_sources, options.architecture.min_box_side
    met = {source for row in rows for source in row["source"]} | set(options.named_sources)
    sets = source_sets(source for source in met if not wanted or source in wanted)
    values: dict[str, dict[str, float | None]] = {name: {} for name in sets}
    compared = dict.fromkeys(sets, 0)
    for number, row in enumerate(rows):
        image_id = row["image_id"]
        image = decode_image(read_bytes(uris[image_id]))
        boxes = {name: drawn_boxes(row, sources, image.shape[:2], least_side) for name, sources in sets.items()}
        for name, features in pooled_features(detector, image, boxes, options.scale, options.max_side).items():
            matrix = cosine_matrix(features)
            values[name][image_id] = known(mean_off_diagonal(matrix))
            compared[name] += len(matrix)
            if number == 0 and len(matrix) > 1:
                write_bytes(job.instance.file(matrix_file(name)), grey_png(matrix.cpu().numpy()))
    return {
        "split": split,
        "images": [row["image_id"] for row in rows],
        "rows": [
            {
                "name": name,
                "proposals": compared[name] / len(rows),
                "values": of_images,
                **mean_and_spread(value for value in of_images.values() if value is not None)._asdict(),
            }
            for name, of_images in values.items()
        ],
    }


def matrix_file(set_name: str) -> str:
    """Return the name of the picture of the first image's matrix; written where it has two proposals of the set."""
    return f"{_NAME}-{set_name}.png"


def source_sets(sources: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return which proposals are compared with each other: those of all sources, then of each alone, the method's first."""
    found = set(sources)
    return {ALL: frozenset(found)} | {source: frozenset([source]) for source in in_table_order(found)}


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
    detector: WeakDetector,
    image: NDArray[np.uint8],
    boxes: Mapping[str, NDArray[np.float32]],
    scale: int,
    max_side: int,
) -> dict[str, Tensor]:
    """Return what the detector's body pools for each set of boxes, flattened: set -> ``[N, D]``.

    Args:
        detector: in evaluation mode.
        image: ``[H, W, 3]`` RGB; its features are computed once.
        boxes: set -> ``[N, 4]`` pixels of the image.
        scale: shorter side that the image is scaled to, pixels.
        max_side: longest side that it may get, pixels.
    """
    import torch

    from weaksam.detectors.mil.samples import View, collate, scaled

    device = next(detector.parameters()).device
    body = detector.body
    pixels, corners = scaled(image, np.concatenate(list(boxes.values())), scale, max_side)
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


def text_table(analysis: Mapping[str, Any]) -> TextTable:
    """Lay the rows out for people to read."""
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


def _load_detector(job: Job[SimilarityOptions]) -> WeakDetector:
    import torch

    from weaksam.detectors.loading import load_detector

    options = job.options
    weights = weights_of_job(job, options.model, options.weights)
    detector, _ = load_detector(weights.fetch().path, options.detector)
    return detector.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _first_rows(table: Rows, split: str, most: int) -> list[dict[str, Any]]:
    """Return the rows of the split's first images in hash order; ``most`` 0 = all."""
    chosen = first_proposed(table, split, most)
    rows = table.of_images(chosen, ("image_id", "boxes_xyxy", "source"))
    return [rows[image_id] for image_id in chosen]


QUESTION = SimilarityQuestion()
