"""The report stage: one HTML page that shows a run, complete in itself: no scripts, no files beside it, no requests.

It reads what the other stages wrote (manifests, ``metrics.json``, ``analysis.json``, scalars, the tables of proposals and
detections, ``_dropped``) and, for its pictures, the images and their true boxes. What it shows of detectors is in
``detections``. Everything that comes from outside (names, ids, paths) is escaped by the template. The page is written
into the instance's folder and, to be found easily, to ``RUN/report.html``.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.analyse import noise as analyse_noise
from pipelines.analyse import prompts as analyse_prompts
from pipelines.analyse import similarity as analyse_similarity
from pipelines.analyse.prompts import ANALYSIS_FILE
from pipelines.analyse.similarity import matrix_file
from pipelines.analyse.stage import question_of
from pipelines.engine.ray_session import usable_cpus
from pipelines.engine.stage import Job, Stage
from pipelines.evaluate import proposals as evaluate_proposals
from pipelines.recipe.model import Recipe, label_of, render, verb_of
from pipelines.report import charts, pictures
from pipelines.report import detections as report_detections
from pipelines.report import dropped as report_dropped
from pipelines.report import gallery as report_gallery
from pipelines.store.dropped import dropped_by_reason
from pipelines.store.instances import Instance
from pipelines.store.numbers import percent
from pipelines.store.schemas import IMAGES, PROPOSALS
from pipelines.store.tables import read_json, write_bytes
from weaksam.drawing import KIND_COLOURS, OTHER_COLOUR, SOURCE_COLOURS, TRUTH_COLOUR
from weaksam.io.files import join, read_bytes
from weaksam.structures import TABLE_SOURCES

if TYPE_CHECKING:
    import jinja2

PAGE_FILE = "report.html"
SHOWN_UNFINISHED = ("index", "propose")  # verbs whose instances a page reads as far as they have come


def execute(job: Job) -> dict[str, Any]:
    """Gather, render and write the page."""
    page = render_page(gather(job)).encode()
    for uri in (job.instance.file(PAGE_FILE), join(job.instance.run_uri, PAGE_FILE)):
        write_bytes(uri, page)
    return {"text": f"{join(job.instance.run_uri, PAGE_FILE)} ({len(page) / 2**20:.1f} MiB)"}


def render_page(view: Mapping[str, Any]) -> str:
    """Fill the template; every string that is not markup already is escaped."""
    return page_templates("pipelines.report").get_template("report.html.j2").render(view)


def page_templates(package: str) -> jinja2.Environment:
    """Return the templates of a package, which may include those of this one: its pages look like this one's."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "pipelines.report"))]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment


def gather(job: Job) -> dict[str, Any]:
    """Collect everything that the template shows."""
    from weaksam.datasets import open_dataset

    recipe, proposals = job.recipe, report_gallery.proposals_of(job.upstream)
    scan = Scan()
    if proposals is not None:
        for part in proposals.table(PROPOSALS).iter_parts([f.name for f in PROPOSALS if f.name != "mask_rle"]):
            scan.add(part)
    manifests = {name: instance.manifest() or {} for name, instance in job.upstream.items()}
    metrics = _read_all(job.upstream, "evaluate", evaluate_proposals.METRICS_FILE)
    recalls = [(name, content) for name, content in metrics if "splits" in content]
    detected = report_detections.evaluations((name, content) for name, content in metrics if "detections" in content)
    analyses = _read_all(job.upstream, "analyse", ANALYSIS_FILE)
    ground_truth = cache(open_dataset(recipe.data).ground_truth)
    read_image = _image_reader(job.upstream["index"])
    dropped = [reason for instance in job.upstream.values() for reason in dropped_by_reason(instance)]
    return {
        "title": recipe.report.title or recipe.name,
        "description": recipe.description,
        "facts": _facts(job, manifests),
        "alerts": report_dropped.alerts(dropped, manifests, scan.box_counts),
        "tiles": [*report_detections.tiles(detected), *_tiles(scan, _manifest(proposals), recalls)],
        "iou_thresholds": recipe.evaluate.iou_thresholds,
        "evaluations": [
            _evaluation(name, split, m) for name, content in recalls for split, m in content["splits"].items()
        ],
        "analyses": [
            {**content, "table": analyse_prompts.table_rows(content), "verdict": analyse_prompts.verdict(content)}
            for name, content in analyses
            if question_of(recipe.of(name)) is analyse_prompts
        ],
        "similarities": [
            _similarity(job.upstream[name], content)
            for name, content in analyses
            if question_of(recipe.of(name)) is analyse_similarity
        ],
        "pseudo_labels": [
            {"heading": f"{label_of(name)} on {split}", "supervision": content["supervision"], **measured}
            for name, content in metrics
            for split, measured in content.get("pseudo_labels", {}).items()
        ],
        "noise": [_noise(content) for name, content in analyses if question_of(recipe.of(name)) is analyse_noise],
        "detectors": [name for name in job.upstream if verb_of(name) == "detect"],
        "trainings": report_detections.trainings(job.upstream),
        "detections": detected,
        "failures": report_detections.failures(job.upstream, ground_truth, read_image, recipe.report),
        "counts": [_count_chart(split, counts) for split, counts in sorted(scan.box_counts.items())],
        "stages": [_stage(job.upstream[name], manifest) for name, manifest in manifests.items()],
        "whole": _whole(recipe, proposals),
        "dropped": report_dropped.groups(dropped),
        "discarded": [
            {"source": source, "reason": reason, "count": count, "per_image": count / max(scan.images, 1)}
            for (source, reason), count in sorted(scan.discarded.items(), key=_table_order)
        ],
        "has_proposals": proposals is not None,
        "gallery": report_gallery.draw(job, ground_truth, read_image),
        "prompt_signs": report_gallery.prompt_signs(scan.kinds),
        "detection_score": recipe.report.detection_score,
        "colours": {
            "source": {name: SOURCE_COLOURS.get(name, OTHER_COLOUR) for name in sorted(scan.sources, key=_rank)},
            "kind": KIND_COLOURS,
            "truth": TRUTH_COLOUR,
            "top": pictures.TOP_COLOUR,
        },
        "recipe": render(recipe),
    }


@dataclass
class Scan:
    """What one pass over the proposals table collects, file by file."""

    images: int = 0
    box_counts: dict[str, list[int]] = field(default_factory=dict)  # split -> boxes of each image
    discarded: Counter[tuple[str, str]] = field(default_factory=Counter)  # (source, reason) -> boxes
    sources: set[str] = field(default_factory=set)  # of boxes
    kinds: set[str] = field(default_factory=set)  # of prompts

    def add(self, part: pa.Table) -> None:
        """Count one file of the table."""
        self.images += part.num_rows
        for met, column in ((self.sources, "source"), (self.kinds, "prompt_kind")):
            met.update(pc.unique(part[column].combine_chunks().flatten()).to_pylist())
        counts = pc.list_value_length(part["boxes_xyxy"]).to_pylist()
        for split, count in zip(part["split"].to_pylist(), counts, strict=True):
            self.box_counts.setdefault(split, []).append(count)
        for row in part["discarded"].combine_chunks().flatten().to_pylist():
            self.discarded[row["source"], row["reason"]] += row["count"]


def _read_all(upstream: Mapping[str, Instance], verb: str, file_name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (instance name, content) of a result file of every upstream instance of a verb."""
    found = ((n, read_json(i.file(file_name))) for n, i in upstream.items() if verb_of(n) == verb)
    return [(name, content) for name, content in found if content is not None]


def _facts(job: Job, manifests: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (name, value) of what was run on what."""
    recipe, index = job.recipe, manifests.get("index", {})
    proposals = report_gallery.proposals_of(job.upstream)
    not_run = [name for name in _reads(recipe, job.instance.name) if not manifests.get(name)]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "ray"))
    return [
        ("data", f"{recipe.data.uri} ({index.get('kind', recipe.data.kind)})"),
        ("found", index.get("text", "")),
        *([("passed over", report_dropped.passed_over(index))] if index.get("passed_over") else []),
        ("run", job.instance.run_uri),
        *([("not finished", ", ".join(not_run))] if not_run else []),
        *([] if proposals is None else _facts_of_proposals(recipe.of(proposals.name), proposals)),
        ("this machine", f"{platform.machine()}, {usable_cpus()} CPUs, {platform.system()}"),
        ("software", ", ".join((f"Python {platform.python_version()}", *versions))),
        ("made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def _facts_of_proposals(recipe: Recipe, proposals: Instance) -> list[tuple[str, str]]:
    """Return (name, value) of what proposals were made with; ``recipe`` is what their instance sees."""
    weights = (proposals.plan() or {}).get("parts", {}).get("fingerprints", {})
    sam = f"{recipe.sam.name}, SHA-256 {weights['sam'][:12]}…" if "sam" in weights else recipe.sam.name
    return [
        ("proposals", f"{proposals.name} {proposals.key}"),
        ("SAM", sam),
        ("clues", recipe.clues.name + (f", {recipe.clues.weights}" if recipe.clues.weights else "")),
        ("actors", str(_manifest(proposals).get("actors", "not recorded"))),
    ]


def _manifest(proposals: Instance | None) -> Mapping[str, Any]:
    """Return what is known of finished proposals."""
    return {} if proposals is None else proposals.manifest() or {}


def _tiles(
    scan: Scan, propose: Mapping[str, Any], metrics: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[tuple[str, str, str]]:
    """Return the page's first figures: (name, figure, remark)."""
    proof = propose.get("images", {})
    dropped = proof.get("dropped", 0)
    counts = [count for of_split in scan.box_counts.values() for count in of_split]
    tiles = (
        []
        if not proof and not scan.images
        else [
            (
                "images",
                f"{scan.images:,}",
                f"of {proof['images']:,}, {dropped:,} dropped" if dropped else "none dropped",
            ),
            (
                "boxes an image",
                f"{mean(counts):.1f}" if counts else "–",
                f"median {median(counts):g}" if counts else "",
            ),
        ]
    )
    for _, content in metrics:
        for split, measured in content["splits"].items():
            last = evaluate_proposals.full_row(measured)
            if last is not None and last["one_to_one"]["0.5"] is not None:
                others = " · ".join(f"{percent(last['one_to_one'][t])} at {t}" for t in ("0.75", "0.9"))
                tiles.append((f"recall at IoU .5, {split}", f"{percent(last['one_to_one']['0.5'])} %", others))
    rate = propose.get("throughput", {})
    if rate.get("images"):
        tiles.append(
            ("images a second", f"{rate['images_per_s']:.1f}", f"{rate['images']:,} in {_time(rate['seconds'])}")
        )
    return tiles


def _evaluation(name: str, split: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return one split's rows with their labels, and the curves of those whose recall is known."""
    label = label_of(name)
    heading = split if label in ("", "proposals") else f"{split}, {label}"
    rows = [{"label": evaluate_proposals.row_label(row), **row} for row in measured["rows"]]
    curves = [
        charts.Curve(
            label=row["label"],
            css_class=_css_class(row["name"]),
            recall={float(t): r for t, r in row["one_to_one"].items()},
        )
        for row in rows
        if None not in row["one_to_one"].values()
    ]
    legend = [(curve.label, curve.css_class, charts.legend_sign(n)) for n, curve in enumerate(curves)]
    chart = charts.recall_chart(curves, label=f"Recall by IoU threshold on {heading}; the table has the figures")
    return {"heading": heading, **measured, "rows": rows, "chart": chart if curves else None, "legend": legend}


def _noise(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """Return a noise analysis with a chart per loss."""
    iou = str(analyse_noise.ERROR_IOU)
    plots = []
    for name, what in analyse_noise.LOSSES.items():
        found = analysis["losses"][name]
        counts, rates = [row["count"] for row in found["bins"]], [row["error_rate"][iou] for row in found["bins"]]
        label = f"Error rate by {what}; the table has the figures"
        chart = charts.rates_chart(counts, rates, label=label, x_name=f"normalised {what}", rate_name="errors, %")
        plots.append({**found, "what": what, "chart": chart, "auroc": found["auroc"][iou]})
    return {**analysis, "plots": plots, "verdict": analyse_noise.verdict(analysis), "iou": iou}


def _similarity(instance: Instance, analysis: Mapping[str, Any]) -> dict[str, Any]:
    """Return a similarity analysis with the matrices of its first image as pictures."""
    first = analysis["images"][0]
    matrices = [
        pictures.similarity(
            read_bytes(instance.file(matrix_file(row["name"]))),
            alt=f"Cosine of every two proposals of {first}, {row['name']}: mean {row['values'][first]:.3f}",
            caption=f"{row['name']}: {row['values'][first]:.3f}",
        )
        for row in analysis["rows"]
        if row["values"][first] is not None
    ]
    return {**analysis, "first": first, "matrices": matrices}


def _table_order(item: tuple[tuple[str, str], int]) -> tuple[int, str, str]:
    """Sort discarded boxes like the table of recall."""
    (source, reason), _ = item
    return (*_rank(source), reason)


def _rank(source: str) -> tuple[int, str]:
    """Sort the method's sources in their order, then others by name."""
    return (TABLE_SOURCES.index(source) if source in TABLE_SOURCES else len(TABLE_SOURCES), source)


def _css_class(source: str) -> str:
    return f"source-{source}" if source in SOURCE_COLOURS else "source-other"


def _count_chart(split: str, counts: Sequence[int]) -> dict[str, Any]:
    what = f"{min(counts):,} to {max(counts):,} boxes, median {median(counts):g}"
    chart = charts.histogram(counts, label=f"Histogram of boxes per image on {split}: {what}", x_name="boxes an image")
    return {"split": split, "what": what, "chart": chart}


def _stage(instance: Instance, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return one line of the stages table; a resumed stage shows the rate of its last run."""
    rate = manifest.get("throughput", {})
    return {
        "name": instance.name,
        "key": instance.key,
        "seconds": _time(manifest.get("seconds", 0.0)),
        "images": f"{rate['images']:,}" if rate.get("images") else "–",
        "rate": f"{rate['images_per_s']:.1f}" if rate.get("images") else "–",
        "text": manifest.get("text", "") if manifest else "not finished",
    }


def _time(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    )


def _whole(recipe: Recipe, proposals: Instance | None) -> dict[str, str] | None:
    """Estimate from a preview what the whole data set would take; None when this is the whole or nothing was timed."""
    rate = _manifest(proposals).get("throughput", {}).get("images_per_s", 0.0)
    if proposals is None or not recipe.data.limit or not rate:
        return None
    from weaksam.datasets import open_dataset

    dataset = open_dataset(recipe.data)
    splits = recipe.of(proposals.name).propose.splits or recipe.data.splits or dataset.splits
    images = sum(len(dataset.records(split)) for split in splits)
    return {"images": f"{images:,}", "time": _time(images / rate)}


def _image_reader(index: Instance) -> Callable[[str], NDArray[np.uint8]]:
    """Give a function from image id to upright RGB image [H, W, 3]; it raises ImageError for one that cannot be read."""
    from weaksam.io.files import read_bytes
    from weaksam.io.images import decode_image

    uris = {row["image_id"]: row["uri"] for row in index.table(IMAGES).iter_rows(["image_id", "uri"])}
    return lambda image_id: decode_image(read_bytes(uris[image_id]))


def _reads(recipe: Recipe, _name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("index", *(name for name in recipe.active if verb_of(name) != STAGE.verb))))


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    # How often the page is made follows from what it shows, the recipe's own words among it.
    return {"report": recipe.report, "name": recipe.name, "description": recipe.description, "data": recipe.data}


STAGE = Stage(
    verb="report",
    help="Write the page to look at: tables, curves, dropped images and a gallery.",
    reads=_reads,
    method=_method,
    execute=execute,
)
