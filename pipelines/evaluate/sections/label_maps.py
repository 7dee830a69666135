"""How right label maps are: beside maps that need no method, class by class, what is taken for what, and as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipelines.evaluate.label_maps import MAPS
from pipelines.evaluate.sections.measured import evaluations, rows_of
from pipelines.page import pictures
from pipelines.page.charts import bar
from pipelines.page.section import Section, Tile, View, beside
from pipelines.page.shown_run import ShownRun, heading
from pipelines.products.index import in_hash_order
from pipelines.products.label_maps import LabelMapTable, SeedTable
from pipelines.store.numbers import percent
from pipelines.store.schemas import label_map_from_row
from weaksam.errors import ImageError

_MOST_MISTAKES = 8  # pairs of classes that are listed


def view(run: ShownRun) -> View | None:
    """Return every split of every evaluation of label maps, with the worst images and some by chance."""
    shown = []
    for name, content in evaluations(run, "label_maps").items():
        table = run.products.get(run.recipe.of(name).evaluate.of)
        for split, measured in content["label_maps"].items():
            entry = {"heading": heading(name, split), "supervision": content["supervision"], **measured}
            if measured["rows"]:
                entry["classes"] = [{**row, "bar": _bar(row["iou"])} for row in measured["classes"]]
                entry["mistakes"] = _mistakes(measured)
                entry["matrix"] = pictures.confusion(
                    np.asarray(measured["confusion"], np.int64),
                    alt=f"Confusion matrix of {heading(name, split)}",
                    caption="what true classes, from top to bottom, are taken for, from left to right",
                )
            if isinstance(table, LabelMapTable):
                entry["groups"] = list(_pictures(run, table, split, measured))
            shown.append(entry)
    return {"evaluations": shown} if shown else None


def _bar(iou: float | None) -> Markup:
    return Markup("") if iou is None else bar({"IoU": iou}, tooltip=f"IoU {percent(iou)} %")


def _mistakes(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pairs of classes of which most pixels are taken for each other, and the share of the true class that is."""
    pixels = np.asarray(measured["confusion"], np.int64)
    of_class, names = pixels.sum(axis=1), [row["name"] for row in measured["classes"]]
    wrong = pixels - np.diag(np.diagonal(pixels))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_MISTAKES]
    pairs = zip(*np.unravel_index(largest, wrong.shape), strict=True)
    return [
        {"true": names[true], "taken_for": names[found], "share": float(wrong[true, found] / of_class[true])}
        for true, found in pairs
        if wrong[true, found]
    ]


def _pictures(
    run: ShownRun, table: LabelMapTable, split: str, measured: Mapping[str, Any]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield what pictures of a split show, and each image with its map and its true one."""
    most = run.recipe.report.failures
    worst = {entry["image_id"]: entry["mean_iou"] for entry in measured["worst"][:most]}
    of_split = [row["image_id"] for row in table.table.iter_rows(("image_id", "split")) if row["split"] == split]
    others = [image_id for image_id in in_hash_order(of_split) if image_id not in worst][:most]
    if isinstance(table, SeedTable):  # shown with what they are made of: see the section of seeds
        others = []
    for title, ids in (("Worst", list(worst)), ("By chance", others)):
        rows = rows_of(table.table, ids)
        entries = [
            _entry(run, split, table.class_names, rows[image_id], worst.get(image_id))
            for image_id in ids
            if image_id in rows
        ]
        if entries:
            yield title, entries


def _entry(
    run: ShownRun, split: str, class_names: Sequence[str], row: Mapping[str, Any], mean_iou: float | None
) -> dict[str, Any]:
    image_id = row["image_id"]
    try:
        image = run.read_image(image_id)
    except ImageError as error:
        return {"image_id": image_id, "pictures": [], "trouble": str(error)}
    shown = pictures.fitted(image, run.recipe.report.gallery_side)
    maps = {"map" if mean_iou is None else f"map, mean IoU {percent(mean_iou)} %": label_map_from_row(row)}
    true_map = run.true_label_maps(split).of(image_id, (image.shape[0], image.shape[1]))
    if true_map is not None:
        maps["true"] = true_map
    drawn = [pictures.plain(shown), *pictures.label_maps(shown, maps, class_names)]
    return {"image_id": image_id, "pictures": drawn, "trouble": ""}


def tiles(view: View) -> list[Tile]:
    """Return the mean IoU of each split, and of what stands beside the maps."""
    found = []
    for one in view["evaluations"]:
        shares = {row["name"]: f"{percent(row['mean_iou'])} %" for row in one["rows"]}
        if shares:
            own = shares.pop(MAPS)
            remark = ", ".join(f"{name} {share}" for name, share in shares.items())
            found.append(Tile(f"Mean IoU, {one['heading']}", own, remark))
    return found


SECTION: Section[ShownRun] = Section(
    id="label-maps", title="Label maps", view=view, template=beside(__name__), tiles=tiles
)
