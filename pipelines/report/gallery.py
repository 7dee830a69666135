"""The report's gallery: a fair sample of images with all that the run made of them, as pictures.

The first images in hash order, those with heat maps before others; as many as the page has room for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.engine.stage import Job
from pipelines.recipe.model import label_of, verb_of
from pipelines.report import pictures
from pipelines.stages.index import in_hash_order
from pipelines.store.heat_maps import read_heat_maps
from pipelines.store.instances import Instance
from pipelines.store.schemas import DETECTIONS, PROPOSALS, detections_from_row, proposals_from_row
from pipelines.store.tables import Table
from weaksam.datasets.ground_truth import true_objects
from weaksam.errors import ImageError
from weaksam.structures import GroundTruth

_MOST_BYTES = 6 * 2**20  # of encoded pictures; keeps the page below 8 MiB


def draw(
    job: Job,
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
    read_image: Callable[[str], NDArray[np.uint8]],
) -> dict[str, Any]:
    """Draw some of the images that have proposals, or detections where the run makes no proposals.

    Args:
        job: of the report.
        ground_truth: split -> image id -> true objects; empty for a split whose true boxes are not known.
        read_image: image id -> upright RGB image; raises ImageError for one that cannot be read any more.

    Returns:
        ``entries`` (``image_id``, ``split``, ``pictures``, ``heat_maps``, ``trouble``) and ``left_out``, the number of
        those that would make the page too large.
    """
    config, proposed = job.recipe.report, proposals_of(job.upstream)
    detected = {n: i.table(DETECTIONS) for n, i in job.upstream.items() if verb_of(n) == "detect"}
    tables = [proposed.table(PROPOSALS)] if proposed is not None else list(detected.values())
    with_maps = set(() if proposed is None else (proposed.manifest() or {}).get("gallery", ()))
    image_ids = list(dict.fromkeys(image_id for table in tables for image_id in table.ids()))
    wanted = sorted(in_hash_order(image_ids), key=lambda i: i not in with_maps)[: config.gallery_images]
    class_names = next((table.class_names() for table in tables if wanted), ())
    rows: dict[str, dict[str, Any]] = {}
    for table in reversed(tables):  # the first has the last word
        rows |= _rows_of(table, wanted)
    found = {label_of(name): _rows_of(table, wanted) for name, table in detected.items()}

    def drawn(row: Mapping[str, Any]) -> dict[str, Any]:
        image_id, side = row["image_id"], config.gallery_side
        image = read_image(image_id)
        truth = ground_truth(row["split"])
        known = true_objects(truth, image_id, (image.shape[0], image.shape[1])) if image_id in truth else None
        of_detectors = [
            pictures.detections(
                image,
                detections_from_row(of_detector[image_id]),
                class_names,
                side,
                name=name,
                min_score=config.detection_score,
            )
            for name, of_detector in found.items()
            if image_id in of_detector
        ]
        return {
            "pictures": [
                pictures.true_objects(image, known, class_names, side),
                *of_detectors,
                *([] if proposed is None else _of_proposals(image, row, side)),
            ],
            "heat_maps": []
            if proposed is None
            else pictures.heat_maps(image, read_heat_maps(proposed, image_id), class_names, side),
        }

    entries: list[dict[str, Any]] = []
    size = 0
    for row in (rows[image_id] for image_id in wanted):
        entry = {"image_id": row["image_id"], "split": row["split"], "pictures": [], "heat_maps": [], "trouble": ""}
        try:
            entry.update(drawn(row))
        except ImageError as error:
            entry["trouble"] = str(error)
        size += sum(len(picture.data_uri) for picture in entry["pictures"] + entry["heat_maps"])
        if size > _MOST_BYTES:
            break
        entries.append(entry)
    return {"entries": entries, "left_out": len(wanted) - len(entries)}


def proposals_of(upstream: Mapping[str, Instance]) -> Instance | None:
    """Return the proposals that a page shows: the first that the recipe makes, or None if it makes none."""
    return next((instance for name, instance in upstream.items() if verb_of(name) == "propose"), None)


def _of_proposals(image: NDArray[np.uint8], row: Mapping[str, Any], side: int) -> list[pictures.Picture]:
    proposals = proposals_from_row(dict(row))
    return [pictures.prompts(image, proposals.prompts, side), *pictures.proposals(image, proposals, side)]


def prompt_signs(kinds: Collection[str]) -> list[str]:
    """Return how pictures show the prompts of these kinds."""
    signs = {
        "grid": "a small dot is a grid point",
        "semantic": "a disc is a peak of one class",
        "class-joint": "tied squares are the peaks of a class together",
        "instance": "a diamond is a cluster of cross-attention peaks",
    }
    return [sign for kind, sign in signs.items() if kind in kinds] or ["none"]


def _rows_of(table: Table, image_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the table's rows of a few images by id; images without a row are left out."""
    wanted = pa.array(image_ids, pa.string())
    return {
        row["image_id"]: row
        for part in table.iter_parts()
        for row in part.filter(pc.is_in(part["image_id"], wanted)).to_pylist()
    }
