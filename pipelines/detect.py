"""The detect stage: a trained detector over images and their proposals, on Ray Data.

    index, proposals ─► fetch and validate (CPU tasks) ─► DetectActor pool ─► Parquet

Resumable like ``propose``. An image that ``propose`` dropped has no proposals and is not planned here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines import cluster
from pipelines.actors import TODO, decode_row, fetch, finish_batch, guarded, use_threads
from pipelines.passes import ActorPools, work_off
from pipelines.proposal_boxes import ProposalBoxes
from pipelines.recipe import Recipe
from pipelines.runs import Instance
from pipelines.schemas import DETECTIONS, IMAGES, PROPOSALS, detections_to_row, with_class_names
from pipelines.stage import Job, Stage
from pipelines.store import Table
from weaksam.config import DetectConfig, MilConfig
from weaksam.errors import DataError

DETECTOR_FILE = "detector.safetensors"


def execute(job: Job) -> dict[str, Any]:
    """Detect in every image of the chosen splits that has proposals; return the proof and what the actors were."""
    recipe = job.recipe
    index = job.upstream["index"].table(IMAGES)
    proposals = job.upstream["propose"].table(PROPOSALS)
    images = planned_images(index.read(), set(proposals.ids()), recipe.detect)
    schema = with_class_names(DETECTIONS, index.class_names())
    cluster.connect(recipe.resources, job.options.address)
    sizes = cluster.connected_pool_sizes(recipe.resources, images.num_rows, with_clues=False)
    spec = DetectSpec(
        instance=job.instance,
        weights=recipe.mil.weights or job.upstream["train-mil"].file(DETECTOR_FILE),
        proposals=proposals,
        mil=recipe.mil,
        detect=recipe.detect,
        class_names=index.class_names(),
        threads=sizes.threads,
        device="cuda" if sizes.gpu_share else "cpu",
    )

    def operators(dataset: Any, pools: ActorPools) -> Any:
        dataset = pools.tasks(dataset, fetch, longest_side=recipe.detect.max_side)
        return pools.actors(dataset, DetectActor, sizes.segment_actors, spec=spec, schema=schema)

    return work_off(job, images, schema, sizes, operators)


@dataclass(frozen=True, kw_only=True)
class DetectSpec:
    """What an actor must know to build itself; small and picklable."""

    instance: Instance
    weights: str  # path or URI of a detector
    proposals: Table
    mil: MilConfig
    detect: DetectConfig
    class_names: tuple[str, ...]  # of the data; the detector's must be the same
    threads: int
    device: str  # "cpu" or "cuda"


class DetectActor:
    """Holds a detector and the proposals; turns images into detections. Columns FETCHED -> DETECTIONS, bad rows set aside."""

    def __init__(self, spec: DetectSpec, schema: pa.Schema = DETECTIONS) -> None:
        from weaksam.detectors import load_detector
        from weaksam.weights import fetch_weights

        use_threads(spec.threads, spec.device)
        self._spec = spec
        self._schema = schema  # with the class names in its metadata
        detector, class_names = load_detector(fetch_weights(spec.weights).path, spec.mil, spec.class_names)
        if class_names != spec.class_names:
            raise DataError(
                f"{spec.weights}: expected a detector of the classes {', '.join(spec.class_names)}, got one of "
                f"{', '.join(class_names)}"
            )
        self._detector = detector.to(spec.device).eval()
        self._boxes = ProposalBoxes(spec.proposals, spec.mil.proposal_sources)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Detect in each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        rows = [guarded(self._detect, row, ()) for row in batch.to_pylist()]
        return finish_batch(self._spec.instance, rows, self._schema)

    def _detect(self, row: dict[str, Any]) -> dict[str, Any]:
        from weaksam.detectors.test_time import detect
        from weaksam.detectors.views import prepare_proposals

        image = decode_row(row)
        size_hw = (image.shape[0], image.shape[1])
        boxes = prepare_proposals(self._boxes[row["image_id"]], size_hw, self._spec.mil.min_box_side)
        detections = detect(self._detector, image, boxes, self._spec.detect)
        return detections_to_row(row["image_id"], row["split"], size_hw, detections)


def planned_images(images: pa.Table, proposed: set[str], config: DetectConfig) -> pa.Table:
    """Return the images to work on as TODO rows: those of the chosen splits that have a row of proposals.

    Raises:
        DataError: a split of the recipe is not indexed, or no image is left.
    """
    splits = set(images["split"].to_pylist())
    unknown = [s for s in config.splits if s not in splits]
    if unknown:
        raise DataError(f"detect.splits: {', '.join(unknown)} not indexed; indexed are {', '.join(sorted(splits))}")
    rows = [
        {"image_id": r["image_id"], "split": r["split"], "uri": r["uri"], "labels": None}  # a detector sees no labels
        for r in images.to_pylist()
        if r["image_id"] in proposed and (not config.splits or r["split"] in config.splits)
    ]
    if not rows:
        raise DataError(f"detect.splits: no image of {', '.join(config.splits) or 'any split'} has proposals")
    return pa.Table.from_pylist(rows, schema=TODO)


def _reads(recipe: Recipe, _name: str) -> tuple[str, ...]:
    return ("index", "propose") if recipe.mil.weights else ("index", "propose", "train-mil")


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    return {
        "detect": recipe.detect,
        "detector": recipe.mil.detector,
        "backbone": recipe.mil.backbone,
        "proposal_sources": recipe.mil.proposal_sources,
        "min_box_side": recipe.mil.min_box_side,
    }


def _fingerprints(recipe: Recipe) -> Mapping[str, str]:
    from weaksam.weights import fetch_weights

    return {"detector": fetch_weights(recipe.mil.weights).sha256} if recipe.mil.weights else {}


STAGE = Stage(
    verb="detect",
    help="run a trained detector over images and their proposals",
    reads=_reads,
    method=_method,
    execute=execute,
    fingerprints=_fingerprints,
)
