"""How well pseudo masks fit the true objects: beside masks that no network makes, object by object, and as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluate.sections.examples import Groups, Row, examples
from pipelines.evaluate.sections.measured import evaluations, shares_bar
from pipelines.page import pictures
from pipelines.page.charts import shares_chart
from pipelines.page.pictures import Fitted, Picture
from pipelines.page.section import Section, Tile, View, beside
from pipelines.page.shown_run import ShownRun, heading
from pipelines.products.pseudo_labels import PseudoMaskTable
from pipelines.store.numbers import percent
from pipelines.store.schemas import pseudo_labels_from_row
from weaksam.datasets.ground_truth import true_objects
from weaksam.structures import IMAGE_LABELS


def view(run: ShownRun) -> View | None:
    """Return every split of every evaluation of pseudo masks, with the images that are fitted worst and some by chance."""
    shown = []
    for name, content in evaluations(run, "pseudo_masks").items():
        table = run.products.get(run.recipe.of(name).evaluate.of)
        supervision = content.get("supervision", IMAGE_LABELS)
        for split, measured in content["pseudo_masks"].items():
            entry = {"heading": heading(name, split), "supervision": supervision, "groups": [], **measured}
            if measured["rows"]:
                label = f"Objects by the IoU of their best pseudo mask, {heading(name, split)}"
                entry["classes"] = [{**row, "bar": shares_bar({"IoU": row["iou"]})} for row in measured["classes"]]
                entry["chart"] = shares_chart(measured["histogram"], label=label, x_name="IoU", of="objects")
                if isinstance(table, PseudoMaskTable):
                    entry["groups"] = _examples(run, table, split, measured)
            shown.append(entry)
    return {"evaluations": shown} if shown else None


def _examples(run: ShownRun, table: PseudoMaskTable, split: str, measured: Mapping[str, Any]) -> Groups:
    """Return images with their pseudo masks and their true ones."""
    truth = run.true_masks(split)

    def draw(row: Row, size_hw: tuple[int, int], shown: Fitted, said: str) -> list[Picture]:
        found = pseudo_labels_from_row(dict(row))
        drawn = [pictures.pseudo_labels(shown, found, table.class_names, name=f"pseudo{said}")]
        if row["image_id"] in truth:
            known = true_objects(truth, row["image_id"], size_hw)
            drawn.append(pictures.true_masks(shown, known, table.class_names))
        return drawn

    return examples(run, table.table, split, measured["worst"], draw)


def tiles(view: View) -> list[Tile]:
    """Return the mean IoU of each split, with that of the filled boxes."""
    found = []
    for one in view["evaluations"]:
        if one["rows"]:
            own, filled = one["rows"][:2]
            remark = f"filled boxes {percent(filled['iou'])} %"
            found.append(Tile(f"Pseudo masks' IoU, {one['heading']}", f"{percent(own['iou'])} %", remark))
    return found


SECTION: Section[ShownRun] = Section(
    id="pseudo-masks", title="Pseudo masks", link="Masks", view=view, template=beside(__name__), tiles=tiles
)
