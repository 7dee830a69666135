"""How right label maps are: beside maps that need no method, class by class, what is taken for what, and as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.evaluate.label_maps import MAPS
from pipelines.evaluate.sections.examples import Groups, Row, examples
from pipelines.evaluate.sections.measured import evaluations, shares_bar
from pipelines.page import pictures
from pipelines.page.pictures import Fitted, Picture
from pipelines.page.section import Section, Tile, View, beside
from pipelines.page.shown_run import ShownRun, heading
from pipelines.products.label_maps import LabelMapTable, SeedTable
from pipelines.store.numbers import percent
from pipelines.store.schemas import label_map_from_row

_MOST_MISTAKES = 8  # pairs of classes that are listed


def view(run: ShownRun) -> View | None:
    """Return every split of every evaluation of label maps, with the worst images and some by chance."""
    shown = []
    for name, content in evaluations(run, "label_maps").items():
        table = run.products.get(run.recipe.of(name).evaluate.of)
        for split, measured in content["label_maps"].items():
            entry = {"heading": heading(name, split), "supervision": content["supervision"], "groups": [], **measured}
            if measured["rows"]:
                entry["classes"] = [{**row, "bar": shares_bar({"IoU": row["iou"]})} for row in measured["classes"]]
                entry["mistakes"] = _mistakes(measured)
                entry["matrix"] = pictures.confusion(
                    np.asarray(measured["confusion"], np.int64),
                    alt=f"Confusion matrix of {heading(name, split)}",
                    caption="what true classes, from top to bottom, are taken for, from left to right",
                )
            if isinstance(table, LabelMapTable):
                entry["groups"] = _examples(run, table, split, measured)
            shown.append(entry)
    return {"evaluations": shown} if shown else None


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


def _examples(run: ShownRun, table: LabelMapTable, split: str, measured: Mapping[str, Any]) -> Groups:
    """Return images with their maps and their true ones."""
    true_maps = run.true_label_maps(split)

    def draw(row: Row, size_hw: tuple[int, int], shown: Fitted, said: str) -> list[Picture]:
        maps = {f"map{said}": label_map_from_row(row)}
        true_map = true_maps.of(row["image_id"], size_hw)
        if true_map is not None:
            maps["true"] = true_map
        return [pictures.plain(shown), *pictures.label_maps(shown, maps, table.class_names)]

    by_chance = not isinstance(table, SeedTable)  # these are shown with what they are made of: see the section of seeds
    return examples(run, table.table, split, measured["worst"], draw, by_chance=by_chance)


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
