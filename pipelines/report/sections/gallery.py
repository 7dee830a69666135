"""The gallery: a fair sample of images with all that the run made of them, as pictures.

The first images in hash order, as many as the page has room for.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.product import Product
from pipelines.page import pictures
from pipelines.page.pictures import Fitted, Picture
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, of_several, short_name
from pipelines.products.detections import DetectionTable
from pipelines.products.index import Index, in_hash_order
from pipelines.products.proposals import ProposalTable
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.stages.propose.heat_maps import HeatMaps, heat_mappers
from pipelines.store.schemas import detections_from_row, proposals_from_row, pseudo_labels_from_row
from weaksam.datasets.ground_truth import true_objects
from weaksam.drawing import OTHER_COLOUR, SOURCE_COLOURS, TRUTH_COLOUR
from weaksam.errors import ImageError, WeaksamError
from weaksam.structures import in_table_order

logger = logging.getLogger(__name__)

_MOST_BYTES = 6 * 2**20  # of encoded pictures; keeps the page below 8 MiB
_OPENING = 6  # pictures at the top of the page
# What may be found in images; the first kind that the run has gives the images.
_FOUND: dict[type[Product[Any]], str] = {
    ProposalTable: "proposals",
    DetectionTable: "detections",
    PseudoLabelTable: "pseudo labels",
}
_SIGNS = {  # of prompts, by kind
    "grid": "a small dot is a grid point",
    "semantic": "a disc is a peak of one class",
    "class-joint": "tied squares are the peaks of a class together",
    "instance": "a diamond is a cluster of cross-attention peaks",
}


@dataclass
class Entry:
    """One image of the gallery."""

    image_id: str
    split: str
    groups: list[tuple[str, list[Picture]]] = field(default_factory=list)  # each with its heading, "" for none
    found: dict[str, Picture] = field(default_factory=dict)  # instance -> what it found here, if anything
    trouble: str = ""  # why the image cannot be read

    @property
    def size(self) -> int:
        """Of its pictures, in bytes as encoded."""
        return sum(len(picture.data_uri) for _, group in self.groups for picture in group)


def view(run: ShownRun) -> View | None:
    """Draw some of the images that have proposals, or detections or pseudo labels where the run makes no proposals."""
    if not run.of_kind(*_FOUND):
        return None
    sample = _Sample(run)
    entries: list[Entry] = []
    size = 0
    for image_id in sample.image_ids:
        entry = sample.entry(image_id)
        size += entry.size
        if size > _MOST_BYTES:
            break
        entries.append(entry)
    return {
        "entries": entries,
        "missing": next(what for kind, what in _FOUND.items() if run.of_kind(kind)),
        "left_out": len(sample.image_ids) - len(entries),
        "truth_colour": TRUTH_COLOUR,
        "sources": {source: SOURCE_COLOURS.get(source, OTHER_COLOUR) for source in in_table_order(sample.sources)},
        "prompts": prompt_signs(sample.kinds) if sample.prompted else [],
        "has_heat_maps": sample.has_heat_maps,
        "without_heat_maps": sample.without_heat_maps,
        "detection_score": run.recipe.report.detection_score if sample.detected else None,
        "found_in": list(reversed([*sample.proposed, *sample.labelled, *sample.detected])),
    }


def opening(view: View) -> list[Picture]:
    """Return a picture each of the first images with what was found: by the last detector, else pseudo labels or proposals."""
    entries: Sequence[Entry] = view["entries"]
    name = next((name for name in view["found_in"] if any(name in entry.found for entry in entries)), "")
    shown = [(entry.image_id, entry.found[name]) for entry in entries if name in entry.found][:_OPENING]
    return [replace(picture, caption=f"{image_id} · {short_name(name)}") for image_id, picture in shown]


class _Sample:
    """The images of the gallery, with the rows of every table that the run has of them."""

    def __init__(self, run: ShownRun) -> None:
        self.run = run
        self.heat_mappers = heat_mappers(run)
        chosen = next(list(of_kind.values()) for kind in _FOUND if (of_kind := run.of_kind(kind)))
        ids = list(dict.fromkeys(image_id for product in chosen for image_id in product.table.ids()))
        self.image_ids = in_hash_order(ids)[: run.recipe.report.gallery_images]
        self.class_names = next(index.class_names for index in run.of_kind(Index).values())
        self.proposed, self.detected, self.labelled = (
            {name: product.table.of_images(self.image_ids) for name, product in run.of_kind(kind).items()}
            for kind in _FOUND
        )
        self.sources: set[str] = set()  # of the boxes that were drawn
        self.prompted = False  # whether some were made of prompts
        self.kinds: set[str] = set()  # of these
        self.has_heat_maps = False
        self.without_heat_maps: dict[str, str] = {}  # instance -> why it has none, though it was prompted by some

    def entry(self, image_id: str) -> Entry:
        """Draw an image with what was found in it."""
        tables = (*self.proposed.values(), *self.detected.values(), *self.labelled.values())
        entry = Entry(image_id, next(rows[image_id]["split"] for rows in tables if image_id in rows))
        try:
            self._draw(entry, self.run.read_image(image_id))
        except ImageError as error:
            entry.trouble = str(error)
        return entry

    def _draw(self, entry: Entry, image: NDArray[np.uint8]) -> None:
        """Draw the image with its true objects, detections and pseudo labels, then the proposals of each instance."""
        truth = self.run.ground_truth(entry.split)
        size_hw = (image.shape[0], image.shape[1])
        known = true_objects(truth, entry.image_id, size_hw) if entry.image_id in truth else None
        shown = pictures.fitted(image, self.run.recipe.report.gallery_side)
        first = [pictures.true_objects(shown, known, self.class_names)]
        first += [*self._detections(entry, shown), *self._pseudo_labels(entry, shown)]
        first += self._true_masks(entry, shown, size_hw)
        entry.groups.append(("", first))
        for name, row in _with(entry.image_id, self.proposed):
            drawn = self._proposals(entry, shown, name, row)
            if heading := of_several(self.proposed, name):
                entry.groups.append((heading, drawn))
            else:
                first += drawn
            self._draw_heat_maps(entry, shown, image, name)
        for name in self.heat_mappers:
            if name not in self.proposed:  # a classifier
                self._draw_heat_maps(entry, shown, image, name, of_several(self.heat_mappers, name))

    def _draw_heat_maps(
        self, entry: Entry, shown: Fitted, image: NDArray[np.uint8], name: str, heading: str = ""
    ) -> None:
        if heat := pictures.heat_maps(shown, self._heat_maps(entry, image, name), self.class_names):
            entry.groups.append((heading, heat))
            self.has_heat_maps = True

    def _heat_maps(self, entry: Entry, image: NDArray[np.uint8], name: str) -> HeatMaps:
        """Return an image's maps; none for all images of an instance once its clue source cannot be loaded."""
        if name not in self.heat_mappers or name in self.without_heat_maps:
            return {}
        try:
            return self.heat_mappers[name].maps(entry.image_id, image)
        except WeaksamError as error:
            self.without_heat_maps[name] = str(error)
            logger.warning("no heat maps of %s: %s", name, error)
            return {}

    def _detections(self, entry: Entry, image: Fitted) -> Iterator[Picture]:
        score = self.run.recipe.report.detection_score
        for name, row in _with(entry.image_id, self.detected):
            found, of = detections_from_row(row), short_name(name)
            drawn = pictures.detections(image, found, self.class_names, name=of, min_score=score)
            if drawn.legend:
                entry.found[name] = drawn
            yield drawn

    def _pseudo_labels(self, entry: Entry, image: Fitted) -> Iterator[Picture]:
        for name, row in _with(entry.image_id, self.labelled):
            drawn = pictures.pseudo_labels(image, pseudo_labels_from_row(row), self.class_names, name=name)
            if drawn.legend:
                entry.found[name] = drawn
            yield drawn

    def _true_masks(self, entry: Entry, image: Fitted, size_hw: tuple[int, int]) -> Iterator[Picture]:
        """Yield the true masks, where they are known and the run found masks in the image."""
        found = [*_with(entry.image_id, self.detected), *_with(entry.image_id, self.labelled)]
        truth = self.run.true_masks(entry.split) if any(row.get("mask_rle") is not None for _, row in found) else {}
        if entry.image_id in truth:
            known = true_objects(truth, entry.image_id, size_hw)
            if known.mask_rle is not None:
                yield pictures.true_masks(image, known, self.class_names)

    def _proposals(self, entry: Entry, image: Fitted, name: str, row: dict[str, Any]) -> list[Picture]:
        proposals = proposals_from_row(row)
        if proposals.source:
            entry.found[name] = pictures.best_proposals(image, proposals, name=name)
        self.sources.update(proposals.source)
        drawn = pictures.proposals(image, proposals)
        if proposals.prompts:
            self.prompted = True
            self.kinds.update(kind for of_source in proposals.prompts for kind in of_source.kind)
            drawn.insert(0, pictures.prompts(image, proposals.prompts))
        return drawn


def prompt_signs(kinds: Collection[str]) -> list[str]:
    """Return how pictures show the prompts of these kinds."""
    return [sign for kind, sign in _SIGNS.items() if kind in kinds] or ["none"]


def _with(image_id: str, tables: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Return (instance name, row) of the tables that have a row of an image."""
    return [(name, rows[image_id]) for name, rows in tables.items() if image_id in rows]


SECTION: Section[ShownRun] = Section(
    id="gallery", title="Gallery", view=view, template=beside(__name__), pictures=opening
)
