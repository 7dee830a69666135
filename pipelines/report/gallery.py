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
from pipelines.store.schemas import DETECTIONS, PROPOSALS, detections_from_row, proposals_from_row
from pipelines.store.tables import Table
from weaksam.datasets.ground_truth import true_objects
from weaksam.errors import ImageError
from weaksam.structures import GroundTruth

_MOST_BYTES = 6 * 2**20  # of encoded pictures; keeps the page below 8 MiB


def draw(
    job: Job,
    image_ids: Sequence[str],
    ground_truth: Callable[[str], Mapping[str, GroundTruth]],
    read_image: Callable[[str], NDArray[np.uint8]],
) -> dict[str, Any]:
    """Draw some of the images that have proposals.

    Args:
        job: of the report.
        image_ids: of all rows of the proposals table.
        ground_truth: split -> image id -> true objects; empty for a split whose true boxes are not known.
        read_image: image id -> upright RGB image; raises ImageError for one that cannot be read any more.

    Returns:
        ``entries`` (``image_id``, ``split``, ``pictures``, ``heat_maps``, ``trouble``) and ``left_out``, the number of
        those that would make the page too large.
    """
    config, propose = job.recipe.report, job.upstream["propose"]
    with_maps = set((propose.manifest() or {}).get("gallery", ()))
    wanted = sorted(in_hash_order(list(image_ids)), key=lambda i: i not in with_maps)[: config.gallery_images]
    table = propose.table(PROPOSALS)
    class_names = table.class_names()
    rows = _rows_of(table, wanted)
    found = {
        label_of(name): _rows_of(instance.table(DETECTIONS), wanted)
        for name, instance in job.upstream.items()
        if verb_of(name) == "detect"
    }

    def drawn(row: Mapping[str, Any]) -> dict[str, Any]:
        image_id, side = row["image_id"], config.gallery_side
        image, proposals = read_image(image_id), proposals_from_row(dict(row))
        truth = ground_truth(row["split"])
        known = true_objects(truth, image_id, (image.shape[0], image.shape[1])) if image_id in truth else None
        detected = [
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
                *detected,
                pictures.prompts(image, proposals.prompts, side),
                *pictures.proposals(image, proposals, side),
            ],
            "heat_maps": pictures.heat_maps(image, read_heat_maps(propose, image_id), class_names, side),
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
