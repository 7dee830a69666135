"""How well detectors find objects, and masks: those measured on a split stand in one table, and class by class in another.

Masks have a table for each detector, and pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluate.detections import DETECTOR, WHOLE_IMAGE
from pipelines.evaluate.sections.detected_masks import mask_examples
from pipelines.evaluate.sections.measured import evaluations, shares_bar
from pipelines.page.section import Section, Tile, View, beside
from pipelines.page.shown_run import ShownRun, short_name
from pipelines.products.detections import DetectionTable
from pipelines.store.numbers import percent
from weaksam.structures import IMAGE_LABELS

_SHARES = ("correct", "part", "elsewhere")  # of top detections
_OF_MASKS = {"ap": "AP", "ap25": "AP25", "ap50": "AP50", "ap50_area": "AP50 area", "ap70": "AP70", "ap75": "AP75"}


def view(run: ShownRun) -> View | None:
    """Return, split by split, what every evaluation of detections measured."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for name, content in evaluations(run, "detections").items():
        supervision = content.get("supervision", IMAGE_LABELS)
        marked = "" if supervision == IMAGE_LABELS else f" (supervision: {supervision})"
        for split, measured in content["detections"].items():
            detector = {"name": f"{short_name(name)}{marked}", **measured}
            if "masks" in measured:
                table = run.products.get(run.recipe.of(name).evaluate.of)
                if isinstance(table, DetectionTable):
                    detector["groups"] = mask_examples(run, table, split, measured["masks"])
            by_split.setdefault(split, []).append(detector)
    splits = [_split(split, detectors) for split, detectors in sorted(by_split.items())]
    return {"splits": splits, "shares": _SHARES, "of_masks": _OF_MASKS} if splits else None


def _split(split: str, detectors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a split with the detectors that were measured on it, each above its trivial ones, and those that were not."""
    measured = [detector for detector in detectors if detector["objects"] is not None]
    rows = [
        {**row, "name": one["name"] if row["name"] == DETECTOR else row["name"], "is_detector": row["name"] == DETECTOR,
         "bar": shares_bar({share: row[share] for share in _SHARES})}
        for one in measured
        for row in one["rows"]
    ]  # fmt: skip
    return {
        "split": split,
        "detectors": measured,
        "unknown": [detector for detector in detectors if detector["objects"] is None],
        "rows": rows,
        "classes": _classes(measured),
        "masked": [_with_masks(detector) for detector in measured if "masks" in detector],
    }


def _with_masks(detector: Mapping[str, Any]) -> dict[str, Any]:
    """Return a detector whose rows of masks have bars: the detector's and the trivial ones, then those of its classes."""
    masks = detector["masks"]
    rows = [
        {**row, "kind": kind, "bar": shares_bar({"AP50": row["ap50"]})}
        for kind, of_kind in (
            ("detector", masks["rows"][:1]),
            ("trivial", masks["rows"][1:]),
            ("class", masks["classes"]),
        )
        for row in of_kind
    ]
    groups = detector.get("groups", [])
    return {"name": detector["name"], "without_mask": masks["without_mask"], "rows": rows, "groups": groups}


def _classes(detectors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the classes with each detector's figures beside each other, those that some detector finds best first."""
    classes: dict[str, dict[str, Any]] = {}
    for n, detector in enumerate(detectors):
        for row in detector["classes"]:
            of_class = classes.setdefault(
                row["name"], {"name": row["name"], "objects": row["objects"], "figures": [None] * len(detectors)}
            )
            of_class["figures"][n] = {
                **row,
                "ap50_bar": shares_bar({"AP50": row["ap50_eleven_point"]}),
                "corloc_bar": shares_bar({"CorLoc": row["corloc"]}),
            }
    return sorted(classes.values(), key=_best_ap50, reverse=True)


def _best_ap50(of_class: Mapping[str, Any]) -> float:
    known = (figures["ap50_eleven_point"] for figures in of_class["figures"] if figures is not None)
    return max((share for share in known if share is not None), default=-1.0)


def tiles(view: View) -> list[Tile]:
    """Return each detector's figures, with what the whole image as the only box gets."""
    found = []
    for one in view["splits"]:
        for detector in one["detectors"]:
            rows = {row["name"]: row for row in detector["rows"]}
            for measure, key in (("AP50", "ap50_eleven_point"), ("CorLoc", "corloc")):
                if rows[DETECTOR][key] is not None:
                    remark = f"whole image {percent(rows[WHOLE_IMAGE][key])} %"
                    name = f"{measure}, {detector['name']} on {one['split']}"
                    found.append(Tile(name, f"{percent(rows[DETECTOR][key])} %", remark))
            if "masks" in detector:
                own, filled = detector["masks"]["rows"][:2]
                remark = f"filled boxes {percent(filled['ap50'])} %"
                found.append(
                    Tile(f"AP50 of masks, {detector['name']} on {one['split']}", f"{percent(own['ap50'])} %", remark)
                )
    return found


SECTION: Section[ShownRun] = Section(
    id="detections", title="Detections", view=view, template=beside(__name__), tiles=tiles
)
