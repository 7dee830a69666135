"""Images beside figures: those of a split that are measured worst, and some by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.page import pictures
from pipelines.page.pictures import Fitted, Picture
from pipelines.page.shown_run import ShownRun
from pipelines.products.index import in_hash_order
from pipelines.store.numbers import percent
from pipelines.store.tables import Rows
from weaksam.errors import ImageError

Row = Mapping[str, Any]
Groups = list[tuple[str, list[dict[str, Any]]]]  # headings, and what the macro ``examples`` shows of each image
# A row, the image's size (height, width), the image as it is shown, what is said of how it was measured -> its pictures.
Draw = Callable[[Row, tuple[int, int], Fitted, str], list[Picture]]


def examples(
    run: ShownRun, rows: Rows, split: str, worst: Sequence[Mapping[str, Any]], draw: Draw, *, by_chance: bool = True
) -> Groups:
    """Return groups of images with their headings, at most ``report.failures`` images in each.

    Args:
        run: what is shown.
        rows: one of each image.
        split: whose images are shown.
        worst: ``image_id`` and ``mean_iou`` of images, worst first; those that have no row any more are passed over.
        draw: see ``Draw``.
        by_chance: whether others than the worst are shown as well.
    """
    most = run.recipe.report.failures
    said = {one["image_id"]: f", mean IoU {percent(one['mean_iou'])} %" for one in worst[:most]}
    groups = {"Worst": list(said)}
    if by_chance:
        of_split = [row["image_id"] for row in rows.iter_rows(("image_id", "split")) if row["split"] == split]
        groups["By chance"] = [image_id for image_id in in_hash_order(of_split) if image_id not in said][:most]
    found = rows.of_images([image_id for ids in groups.values() for image_id in ids])
    entries = {
        title: [_entry(run, found[image_id], draw, said.get(image_id, "")) for image_id in ids if image_id in found]
        for title, ids in groups.items()
    }
    return [(title, shown) for title, shown in entries.items() if shown]


def _entry(run: ShownRun, row: Row, draw: Draw, said: str) -> dict[str, Any]:
    image_id = row["image_id"]
    try:
        image: NDArray[np.uint8] = run.read_image(image_id)
    except ImageError as error:
        return {"image_id": image_id, "pictures": [], "trouble": str(error)}
    shown = pictures.fitted(image, run.recipe.report.gallery_side)
    return {"image_id": image_id, "pictures": draw(row, (image.shape[0], image.shape[1]), shown, said), "trouble": ""}
