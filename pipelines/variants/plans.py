"""What the tables of ``weaksam table`` consist of: rows, what their recipes differ in, and where their figures are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.evaluate.detections import DETECTOR, WHOLE_IMAGE
from pipelines.evaluate.proposals import full_row
from pipelines.products.measured import Evaluation
from pipelines.recipe.model import Recipe
from pipelines.runner import Run
from pipelines.store.instances import Instance
from pipelines.training.trained import Trained
from pipelines.variants.published import (
    CORLOC_READS_DIFFERENTLY,
    PEAKS_ARE_PADDED,
    RECALL_READS_HIGHER,
    SELECTIVE_SEARCH,
    TABLE_1,
    TABLE_1_ROWS,
    TABLE_4,
    TABLE_6,
    TABLE_10,
    WEAKSAM,
    Figures,
)
from weaksam.structures import TABLE_SOURCES

Kind = Literal["percent", "count", "memory"]
Measured = dict[str, float | None]  # name of a column -> figure
Splits = Mapping[str, Measured]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """In what a row's recipe differs from the given one."""

    detector: Literal["mist", "oicr"]
    selective_search: bool = False
    sources: tuple[str, ...] | None = None  # whose boxes are used; () = all, None = the recipe says

    @property
    def overrides(self) -> list[str]:
        """The differences as ``a.b=c``, except for the detector's own."""
        search = ["propose.method=selective-search"] if self.selective_search else []
        sources = () if self.selective_search else self.sources
        return search + ([] if sources is None else [f"mil.proposal_sources=[{', '.join(sources)}]"])


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: what was published, and how to measure it."""

    data: str
    detector: str
    proposals: str
    published: Figures
    variant: Variant | None  # None: nothing here measures it

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.detector}, {self.proposals}"


class Finished:
    """What the instances of a finished cell left."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.notes: list[str] = []

    def instance(self, name: str) -> Instance:
        """Return the cell's instance of that name."""
        return self._run.instance(name)

    def manifest(self, name: str) -> dict[str, Any]:
        """Return what it proved to have done."""
        return self.instance(name).manifest() or {}

    @property
    def training(self) -> str:
        """The split that labels were granted to."""
        return str(self.manifest("index")["labels_granted_to"])

    def detections(self) -> dict[str, Any]:
        """Return the metrics of the detections by split."""
        splits: dict[str, Any] = Evaluation(self.instance("evaluate.mil")).read()["detections"]
        return splits

    def proposals(self, sources: Sequence[str]) -> Mapping[str, Any] | None:
        """Return the metrics of the training split's proposals of these sources; () = all. None without such a row."""
        metrics = Evaluation(self.instance("evaluate.proposals")).read()
        measured = metrics["splits"][self.training]
        if not sources:
            return full_row(measured)
        return next((row for row in measured["rows"] if row["sources"] == list(sources)), None)

    def seconds(self, name: str) -> float | None:
        """Return how long an instance took; None, and a note, if it was interrupted and only its last run was timed."""
        manifest = self.manifest(name)
        if "steps" in manifest:
            whole = manifest["steps"]["resumed_at"] == 0
        else:
            whole = manifest["throughput"]["images"] == manifest["images"]["done"]
        if whole:
            return float(manifest["seconds"])
        self.notes.append(f"{name} was interrupted and went on; only its last run was timed, {manifest['seconds']:,} s")
        return None


def _detection_figures(measured: Mapping[str, Any]) -> Measured:
    """Return the columns of Table 1 of one split; null where it has no true boxes."""
    rows = {row["name"]: row for row in measured["rows"]}
    detector, whole = rows.get(DETECTOR, {}), rows.get(WHOLE_IMAGE, {})
    return {
        "AP50": detector.get("ap50_eleven_point"),
        "whole image": whole.get("ap50_eleven_point"),
        "part": detector.get("part"),
        "AP": detector.get("coco_ap"),
        "AP50 COCO": detector.get("coco_ap50"),
        "AP75": detector.get("coco_ap75"),
    }


def _figures_1(finished: Finished, _variant: Variant) -> Splits:
    tests = {split: m for split, m in finished.detections().items() if split != finished.training}
    return {split: _detection_figures(measured) for split, measured in tests.items()}


def _figures_4(finished: Finished, variant: Variant) -> Splits:
    row = finished.proposals(variant.sources or ())
    recalls = {"R@.5": "0.5", "R@.75": "0.75", "R@.9": "0.9"}
    of_proposals: Measured = {name: row["one_to_one"][t] if row else None for name, t in recalls.items()}
    of_proposals["boxes"] = row["boxes"] if row else None
    return {split: measured | of_proposals for split, measured in _figures_1(finished, variant).items()}


def _figures_6(finished: Finished, _variant: Variant) -> Splits:
    row = finished.proposals(())
    return {
        finished.training: {
            "boxes": row["boxes"] if row else None,
            "images": finished.manifest("propose")["images"]["done"],
            "propose s": finished.seconds("propose"),
            "train s": finished.seconds("train-mil"),
            "MiB a GPU": Trained(finished.instance("train-mil")).facts.gpu_memory_mib,
        }
    }


def _figures_10(finished: Finished, _variant: Variant) -> Splits:
    measured = finished.detections()[finished.training]
    rows = {row["name"]: row for row in measured["rows"]}
    detector, whole = rows.get(DETECTOR, {}), rows.get(WHOLE_IMAGE, {})
    figures = {"CorLoc": detector.get("corloc"), "whole image": whole.get("corloc"), "part": detector.get("part")}
    return {finished.training: figures}


VARIANTS = {
    ("OICR", SELECTIVE_SEARCH): Variant(detector="oicr", selective_search=True),
    ("OICR", WEAKSAM): Variant(detector="oicr"),
    ("MIST", SELECTIVE_SEARCH): Variant(detector="mist", selective_search=True),
    ("MIST", WEAKSAM): Variant(detector="mist"),
}


def data_name(recipe_name: str) -> str:
    """Return which data set of the paper a recipe is about: ``voc07-mine`` is voc07; its own name where it is none."""
    name = recipe_name.partition("-")[0]
    return name if name in TABLE_1 else recipe_name


def _rows_1(recipe: Recipe) -> list[Row]:
    given = data_name(recipe.name)
    return [
        Row(
            data=data,
            detector=detector,
            proposals=proposals,
            published=TABLE_1.get(data, {}).get((detector, proposals), {}),
            variant=VARIANTS.get((detector, proposals)) if data == given else None,
        )
        for data in dict.fromkeys((given, *TABLE_1))
        for detector, proposals in TABLE_1_ROWS
    ]


def _rows_4(recipe: Recipe) -> list[Row]:
    variants = {SELECTIVE_SEARCH: VARIANTS["MIST", SELECTIVE_SEARCH]}
    of_recipe = [source for source in TABLE_SOURCES if source in recipe.prompts.sources]
    for n, source in enumerate(of_recipe, 1):
        # All of them are named as none, as a recipe does it: the same cell as in the other tables.
        sources = () if n == len(of_recipe) else tuple(of_recipe[:n])
        variants[source if source == TABLE_SOURCES[0] else f"+ {source}"] = Variant(detector="mist", sources=sources)
    data = data_name(recipe.name)
    return [
        Row(data=data, detector="MIST", proposals=name, published=published, variant=variants.get(name))
        for name, published in TABLE_4.items()
    ]


def _rows_6(recipe: Recipe) -> list[Row]:
    data = data_name(recipe.name)
    return [
        Row(data=data, detector="MIST", proposals=name, published=published, variant=VARIANTS["MIST", name])
        for name, published in TABLE_6.items()
    ]


def _rows_10(recipe: Recipe) -> list[Row]:
    data = data_name(recipe.name)
    return [
        Row(data=data, detector=row[0], proposals=row[1], published=published, variant=VARIANTS[row])
        for row, published in TABLE_10.items()
    ]


_BASELINES = (
    "whole image: the whole image as the only box, with the detector's image scores. part: share of top detections that are "
    "a part of an object."
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a table is made."""

    title: str
    columns: Mapping[str, Kind]
    instances: tuple[str, ...]  # that a cell brings up to date
    rows: Callable[[Recipe], list[Row]]
    figures: Callable[[Finished, Variant], Splits]
    needs: tuple[Literal["training", "test"], ...]  # splits to measure on
    notes: tuple[str, ...]


PLANS: dict[int, Plan] = {
    1: Plan(
        title="Table 1: weakly-supervised detection",
        columns=dict.fromkeys(("AP50", "whole image", "part", "AP", "AP50 COCO", "AP75"), "percent"),
        instances=("evaluate.mil",),
        rows=_rows_1,
        figures=_figures_1,
        needs=("test",),
        notes=(
            "AP50 and its whole image: VOC's 11-point average precision, with levels of recall that are rounded as in the "
            "published codes unless evaluate.voc_levels is exact. The published one of voc12 is by area.",
            _BASELINES,
        ),
    ),
    4: Plan(
        title="Table 4: prompts",
        columns={
            "boxes": "count",
            **dict.fromkeys(("R@.5", "R@.75", "R@.9", "AP50", "whole image", "part"), "percent"),
        },
        instances=("evaluate.proposals", "evaluate.mil"),
        rows=_rows_4,
        figures=_figures_4,
        needs=("test",),
        notes=(
            "Published: VOC 2007. boxes an image and recall (one to one): of the training split.",
            RECALL_READS_HIGHER,
            PEAKS_ARE_PADDED,
            _BASELINES,
        ),
    ),
    6: Plan(
        title="Table 6: efficiency",
        columns={"boxes": "count", "images": "count", "propose s": "count", "train s": "count", "MiB a GPU": "memory"},
        instances=("evaluate.proposals", "train-mil"),
        rows=_rows_6,
        figures=_figures_6,
        needs=("training",),
        notes=(
            "Published: VOC 2007 on four GPUs of 24 GB. images: that proposals were made for in the time of propose, which "
            "does not hold the classifier's training.",
            PEAKS_ARE_PADDED,
        ),
    ),
    10: Plan(
        title="Table 10: correct localisation on the training split",
        columns=dict.fromkeys(("CorLoc", "whole image", "part"), "percent"),
        instances=("evaluate.mil",),
        rows=_rows_10,
        figures=_figures_10,
        needs=("training",),
        notes=("Published: VOC 2007 trainval.", CORLOC_READS_DIFFERENTLY, _BASELINES),
    ),
}
