"""How seeds come about: of images by chance the maps of their classes, the superpixels, what was painted, and the true map."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.page import pictures
from pipelines.page.pictures import Fitted, Picture
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, short_name
from pipelines.products.index import in_hash_order
from pipelines.products.label_maps import SeedTable
from pipelines.products.superpixels import SuperpixelTable, superpixels_of
from pipelines.registry import asked_of
from pipelines.stages.seeds.heat_maps import SeedHeatMaps, decides_maps, heat_maps
from pipelines.stages.seeds.stage import SeedOptions
from pipelines.store.schemas import label_map_from_row
from weaksam.errors import ImageError, WeaksamError

logger = logging.getLogger(__name__)


def view(run: ShownRun) -> View | None:
    """Draw some of the images that have seeds, all in the same order."""
    if not run.of_kind(SeedTable):
        return None
    sample = _Sample(run)
    return {
        "entries": [sample.entry(image_id) for image_id in sample.image_ids],
        "has_heat_maps": bool(sample.heat),
        "has_superpixels": bool(sample.superpixels),
        "without_heat_maps": sample.without_heat_maps,
    }


class _Sample:
    """Images by chance, with what every instance of ``seeds`` made of them, and of what."""

    def __init__(self, run: ShownRun) -> None:
        self.run = run
        tables = run.of_kind(SeedTable)
        ids = dict.fromkeys(image_id for table in tables.values() for image_id in table.table.ids())
        self.image_ids = in_hash_order(list(ids))[: run.recipe.report.failures]
        self.class_names = next(table.class_names for table in tables.values())
        self.seeds = {name: table.table.of_images(self.image_ids) for name, table in tables.items()}
        self.images: dict[str, NDArray[np.uint8]] = {}
        self.trouble: dict[str, str] = {}  # image id -> why it cannot be read
        for image_id in self.image_ids:
            try:
                self.images[image_id] = run.read_image(image_id)
            except ImageError as error:
                self.trouble[image_id] = str(error)
        asked = {name: asked_of(run.recipe, name)[1] for name in tables}
        options = {name: of for name, of in asked.items() if isinstance(of, SeedOptions)}  # those of ours
        self.heat: dict[str, Mapping[str, SeedHeatMaps]] = {}  # seeds that share maps -> image id -> maps
        self.without_heat_maps: dict[str, str] = {}  # the same -> why they have none
        for names, of in _sharing_maps(options):
            try:
                self.heat[names] = heat_maps(run, of, self.images)
            except WeaksamError as error:
                self.without_heat_maps[names] = str(error)
                logger.warning("no heat maps of %s: %s", names, error)
        # Which masks are superpixels -> image id -> row of masks.
        self.superpixels: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
        for of in options.values():
            table = run.products.get(of.superpixels)
            which = (of.superpixels, of.seeds.max_inside)
            if isinstance(table, SuperpixelTable) and which not in self.superpixels:
                self.superpixels[which] = table.table.of_images(self.image_ids)

    def entry(self, image_id: str) -> dict[str, Any]:
        """Draw an image, and what was made of it from left to right."""
        if image_id in self.trouble:
            return {"image_id": image_id, "pictures": [], "trouble": self.trouble[image_id]}
        shown = pictures.fitted(self.images[image_id], self.run.recipe.report.gallery_side)
        heat = {(c, names): of[image_id][c] for names, of in self.heat.items() for c in of[image_id]}
        drawn = [
            pictures.plain(shown),
            *pictures.heat_maps(shown, heat, self.class_names),
            *self._superpixels(image_id, shown),
            *pictures.label_maps(shown, self._label_maps(image_id), self.class_names),
        ]
        return {"image_id": image_id, "pictures": drawn, "trouble": ""}

    def _superpixels(self, image_id: str, shown: Fitted) -> Iterator[Picture]:
        for (name, max_inside), rows in self.superpixels.items():
            if image_id in rows:
                which = "superpixels" if len(self.superpixels) == 1 else f"{name}, max_inside {max_inside:g}"
                yield pictures.superpixels(shown, superpixels_of(rows[image_id], max_inside), name=which)

    def _label_maps(self, image_id: str) -> dict[str, NDArray[np.uint8]]:
        rows = {short_name(name): rows[image_id] for name, rows in self.seeds.items() if image_id in rows}
        maps = {name: label_map_from_row(row) for name, row in rows.items()}
        split = next(row["split"] for row in rows.values())
        height, width = self.images[image_id].shape[:2]
        true_map = self.run.true_label_maps(split).of(image_id, (height, width))
        return maps if true_map is None else {**maps, "true": true_map}


def _sharing_maps(options: Mapping[str, SeedOptions]) -> list[tuple[str, SeedOptions]]:
    """Return the options that make different maps, each with the names of all instances that paint those."""
    groups: list[tuple[list[str], SeedOptions]] = []
    for name, of in options.items():
        same = next((names for names, other in groups if decides_maps(other) == decides_maps(of)), None)
        if same is None:
            groups.append(([short_name(name)], of))
        else:
            same.append(short_name(name))
    return [(" and ".join(names), of) for names, of in groups]


SECTION: Section[ShownRun] = Section(id="seeds", title="Seeds", view=view, template=beside(__name__))
