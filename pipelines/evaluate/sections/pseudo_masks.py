"""How well pseudo masks fit the true objects: beside masks that no network makes, object by object, and as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.evaluate.sections.measured import evaluations, rows_of
from pipelines.page import pictures
from pipelines.page.charts import shares_chart
from pipelines.page.section import Section, Tile, View, beside
from pipelines.page.shown_run import ShownRun, heading
from pipelines.products.index import in_hash_order
from pipelines.products.pseudo_labels import PseudoMaskTable
from pipelines.store.numbers import percent
from pipelines.store.schemas import pseudo_labels_from_row
from weaksam.datasets.ground_truth import true_objects
from weaksam.errors import ImageError
from weaksam.structures import IMAGE_LABELS


def view(run: ShownRun) -> View | None:
    """Return every split of every evaluation of pseudo masks, with the images that are fitted worst and some by chance."""
    shown = []
    for name, content in evaluations(run, "pseudo_masks").items():
        table = run.products.get(run.recipe.of(name).evaluate.of)
        supervision = content.get("supervision", IMAGE_LABELS)
        for split, measured in content["pseudo_masks"].items():
            entry = {"heading": heading(name, split), "supervision": supervision, **measured}
            if measured["rows"]:
                label = f"Objects by the IoU of their best pseudo mask, {heading(name, split)}"
                entry["chart"] = shares_chart(measured["histogram"], label=label, x_name="IoU", of="objects")
                if isinstance(table, PseudoMaskTable):
                    entry["groups"] = list(_pictures(run, table, split, measured))
            shown.append(entry)
    return {"evaluations": shown} if shown else None


def _pictures(
    run: ShownRun, table: PseudoMaskTable, split: str, measured: Mapping[str, Any]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield what pictures of a split show, and each image with its pseudo masks beside its true ones."""
    most = run.recipe.report.failures
    worst = {entry["image_id"]: entry["iou"] for entry in measured["worst"][:most]}
    others = [image_id for image_id in in_hash_order(table.table.ids()) if image_id not in worst][:most]
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
    run: ShownRun, split: str, class_names: tuple[str, ...], row: Mapping[str, Any], iou: float | None
) -> dict[str, Any]:
    image_id = row["image_id"]
    entry = {"image_id": image_id, "iou": iou, "pictures": [], "trouble": ""}
    try:
        image = run.read_image(image_id)
    except ImageError as error:
        return {**entry, "trouble": str(error)}
    shown = pictures.fitted(image, run.recipe.report.gallery_side)
    found = pseudo_labels_from_row(dict(row))
    drawn = [pictures.pseudo_labels(shown, found, class_names, name="pseudo")]
    truth = run.true_masks(split)
    if image_id in truth:
        known = true_objects(truth, image_id, (image.shape[0], image.shape[1]))
        drawn.append(pictures.true_masks(shown, known, class_names))
    return {**entry, "pictures": drawn}


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
