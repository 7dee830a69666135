"""``analyse.prompts``, Table 4 with controls: do the clues say *where*, or would as many points anywhere do?

Beside each clue source of the recipe stand two controls on the same images, with the same SAM and the same filters:

* random: every place that the clues prompted is replaced by a uniformly random one; which points go together, how many
  there are and which masks are kept stays as it was. Several seeds give a mean and a spread.
* dense grid: the grid alone, made denser until it has at least as many points as the grid and the clues so far.

A row counts everything up to its source: the random control of "+ coarse" is the grid with random "fine" and random
"coarse" points. The prompts come from the proposals table, so no classifier runs here, and SAM encodes each image once.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.dataflow.passes import Pools, work_off
from pipelines.dataflow.rows import guarded, use_threads, write_dropped
from pipelines.engine import ray_session
from pipelines.engine.stage import Job
from pipelines.engine.text_table import Kind, TextTable
from pipelines.evaluate.proposals import row_label
from pipelines.recipe.model import Recipe
from pipelines.stages.index import in_hash_order, truth_options
from pipelines.store.instances import Instance
from pipelines.store.numbers import known, percent
from pipelines.store.proposal_boxes import ImageBoxes, count_points, iter_boxes
from pipelines.store.schemas import (
    IMAGES,
    PROMPT_COLUMNS,
    PROPOSALS,
    prompts_from_columns,
    prompts_to_columns,
    proposals_to_row,
)
from pipelines.store.tables import Table, write_json
from weaksam.datasets.ground_truth import true_objects
from weaksam.errors import DataError
from weaksam.structures import CLUE_SOURCES, TABLE_SOURCES, GroundTruth, Prompts, Proposals

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from weaksam.config import ProposalsConfig, SamConfig
    from weaksam.metrics.proposal_recall import RecallRow

ANALYSIS_FILE = "analysis.json"

PLANNED = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("reason", pa.string()),  # null: these images went through propose
        pa.field("detail", pa.string()),
        *PROMPT_COLUMNS,
    ]
)


def execute(job: Job) -> dict[str, Any]:
    """Segment the controls of the chosen images, compare, write ``analysis.json`` and print it."""
    from weaksam.datasets import open_dataset

    question = job.recipe.analyse
    recipe = job.recipe.of(question.proposals)  # what the proposals were made with
    if not recipe.uses_clues or not set(CLUE_SOURCES) & set(recipe.prompts.sources):
        return {"text": "nothing to compare: the recipe prompts with no clues"}
    propose, index = job.upstream[question.proposals], job.upstream["index"]
    split = analysed_split(job.recipe, index)
    planned = _planned(propose, index, split, question.max_images)
    ray_session.connect(job.recipe.resources, job.options.address)
    sizes = ray_session.connected_pool_sizes(job.recipe.resources, planned.num_rows, with_clues=False)
    spec = {
        "instance": job.instance,
        "sam": recipe.sam,
        "proposals": recipe.proposals,
        "sources": recipe.prompts.sources,
        "seeds": question.random_seeds,
        "threads": sizes.threads,
        "device": "cuda" if sizes.gpu_share else "cpu",
    }

    def operators(dataset: Any, pools: Pools) -> Any:
        return pools.actors(dataset, ControlActor, sizes.segment_actors, **spec)

    manifest = work_off(job, planned, PROPOSALS, sizes, operators)

    truth = open_dataset(recipe.data).ground_truth(split)
    controls = {image.image_id: image for image in iter_boxes(job.instance.table(PROPOSALS))}
    analysis = {
        "split": split,
        "images": len(controls),
        "seeds": question.random_seeds,
        "rows": compare(
            (
                (image, controls[image.image_id])
                for image in iter_boxes(propose.table(PROPOSALS))
                if image.image_id in controls
            ),
            truth,
            recipe.prompts.sources,
            question.random_seeds,
            iou_thresholds=job.recipe.evaluate.iou_thresholds,
            include_difficult=job.recipe.evaluate.include_difficult,
        ),
    }
    write_json(job.instance.file(ANALYSIS_FILE), analysis)
    job.console.print(text_table(analysis, job.recipe.evaluate.iou_thresholds))
    return {**manifest, "text": f"{manifest['text']} · {verdict(analysis)}"}


@dataclass(frozen=True, kw_only=True)
class Control:
    """Prompts of one control, named like the sources whose filters they get, and their names in the table."""

    prompts: list[Prompts]
    names: dict[str, str]  # "fine" -> "random-0:fine", "grid" -> "dense-grid:fine"


def control_prompts(
    image_id: str,
    size_hw: tuple[int, int],
    prompts: Sequence[Prompts],
    sources: Sequence[str],
    seeds: Sequence[int],
) -> list[Control]:
    """Make the controls of one image: per seed all clue sources at random places, per clue source a denser grid.

    Args:
        image_id: decides the random places together with seed and source, so that images differ and reruns do not.
        size_hw: of the image; random points are whole pixels of it.
        prompts: what ``propose`` prompted, the grid and the clues.
        sources: of the recipe. One of them without a prompt in this image still has its grid, as dense as before.
        seeds: one random control each.

    Returns:
        The random controls, then the grids; none for sources without clues.
    """
    from weaksam.proposals.prompts import grid_prompts

    by_source = {p.source: p for p in prompts}
    clues = [source for source in TABLE_SOURCES if source in CLUE_SOURCES and source in sources]
    prompted = [by_source[source] for source in clues if source in by_source]
    controls = [
        Control(
            prompts=[_moved(p, size_hw, _generator(seed, image_id, p.source)) for p in prompted],
            names={p.source: f"random-{seed}:{p.source}" for p in prompted},
        )
        for seed in seeds
        if prompted
    ]
    points = count_points(prompts_to_columns(prompts))
    so_far = points["grid"]
    for source in clues:
        so_far += points[source]
        if so_far:
            grid = grid_prompts(size_hw, math.isqrt(so_far - 1) + 1)
            controls.append(Control(prompts=[grid], names={"grid": f"dense-grid:{source}"}))
    return controls


def _moved(prompts: Prompts, size_hw: tuple[int, int], rng: np.random.Generator) -> Prompts:
    """Send every place of one source's prompts to a random pixel; a place that several prompts share stays shared."""
    height, width = size_hw
    places: dict[tuple[int, float, float], tuple[int, int]] = {}

    def moved(class_index: int, x: float, y: float) -> tuple[int, int]:
        if (class_index, x, y) not in places:
            places[class_index, x, y] = int(rng.integers(width)), int(rng.integers(height))
        return places[class_index, x, y]

    points_xy = [
        np.array([moved(c, x, y) for x, y in points.tolist()], np.float32).reshape(-1, 2)
        for points, c in zip(prompts.points_xy, prompts.class_index, strict=True)
    ]
    return replace(prompts, points_xy=points_xy)


def _generator(seed: int, image_id: str, source: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {source} {image_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


def segment_controls(
    sam: Sam, image: NDArray[np.uint8], controls: Sequence[Control], config: ProposalsConfig
) -> Proposals:
    """Run SAM over all controls of one image [H, W, 3], encoded once; each control is filtered as if it were alone."""
    from weaksam.proposals.filters import propose
    from weaksam.sam.encode import encode_image

    encoded = encode_image(sam, image)
    config = replace(config, whole_image_if_empty=False, keep_masks=False)
    done = [(propose(sam, encoded, control.prompts, config), control.names) for control in controls]
    first_prompt = np.cumsum([0, *(sum(map(len, control.prompts)) for control in controls)])
    return Proposals(
        size_hw=(image.shape[0], image.shape[1]),
        boxes_xyxy=np.concatenate([np.zeros((0, 4), np.float32), *(p.boxes_xyxy for p, _ in done)]),
        source=[names[source] for p, names in done for source in p.source],
        prompt_index=np.concatenate(
            [np.zeros(0, np.int32), *(p.prompt_index + n for (p, _), n in zip(done, first_prompt, strict=False))]
        ).astype(np.int32),
        mask_index=np.concatenate([np.zeros(0, np.int8), *(p.mask_index for p, _ in done)]),
        predicted_iou=np.concatenate([np.zeros(0, np.float32), *(p.predicted_iou for p, _ in done)]),
        discarded={(names[s], reason): n for p, names in done for (s, reason), n in p.discarded.items()},
        prompts=[replace(prompts, source=names[prompts.source]) for p, names in done for prompts in p.prompts],
    )


class ControlActor:
    """Holds SAM; turns images and the prompts they had into the proposals of their controls. Columns PLANNED -> PROPOSALS."""

    def __init__(
        self,
        instance: Instance,
        sam: SamConfig,
        proposals: ProposalsConfig,
        sources: tuple[str, ...],
        seeds: tuple[int, ...],
        threads: int,
        device: str,
    ) -> None:
        from weaksam.sam.load import load_sam

        use_threads(threads, device)
        self._instance = instance
        self._sam = load_sam(sam, device)
        self._proposals = proposals
        self._sources = sources
        self._seeds = seeds

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Segment the controls of each image of a batch; images that fail go to ``_dropped``."""
        rows = [guarded(self._segment, row, ()) for row in batch.to_pylist()]
        write_dropped(self._instance, [row for row in rows if row.get("reason")])
        return pa.Table.from_pylist([row for row in rows if not row.get("reason")], schema=PROPOSALS)

    def _segment(self, row: dict[str, Any]) -> dict[str, Any]:
        from weaksam.io.files import read_bytes
        from weaksam.io.images import decode_image

        image = decode_image(read_bytes(row["uri"]))
        size_hw = (image.shape[0], image.shape[1])
        prompts = prompts_from_columns(row)
        controls = control_prompts(row["image_id"], size_hw, prompts, self._sources, self._seeds)
        return proposals_to_row(
            row["image_id"], row["split"], segment_controls(self._sam, image, controls, self._proposals)
        )


def compare(
    images: Iterable[tuple[ImageBoxes, ImageBoxes]],
    truth: Mapping[str, GroundTruth],
    sources: Sequence[str],
    seeds: Sequence[int],
    *,
    iou_thresholds: Sequence[float],
    include_difficult: bool,
) -> list[dict[str, Any]]:
    """Count what the method and its controls find.

    Args:
        images: per image the method's boxes and the controls'.
        truth: image id -> true objects; an image that is not there has none.
        sources: of the method that get a row.
        seeds: of the random controls.
        iou_thresholds: of the one-to-one recall.
        include_difficult: count objects marked difficult.

    Returns:
        Per source ``name``, ``sources`` of the row, ``points`` and ``boxes`` per image and ``recall`` by threshold (null
        without true objects); a clue source also has ``dense_grid`` of the same figures, and ``random`` with their means
        over the seeds and ``spread``: the largest minus the smallest recall, by threshold.
    """
    from weaksam.metrics.proposal_recall import ProposalRecall, cumulative

    method = [source for source in TABLE_SOURCES if source in sources]
    rows = cumulative(method)
    for source in method:
        if source in CLUE_SOURCES:
            before = rows[source]
            rows[f"dense-grid:{source}"] = (f"dense-grid:{source}",)
            for seed in seeds:
                rows[f"random-{seed}:{source}"] = tuple(
                    f"random-{seed}:{s}" if s in CLUE_SOURCES else s for s in before
                )
    recall = ProposalRecall(rows, thresholds=iou_thresholds, include_difficult=include_difficult)
    points: Counter[str] = Counter()
    for of_method, of_controls in images:
        recall.add(
            np.concatenate([of_method.boxes_xyxy, of_controls.boxes_xyxy]),
            [*of_method.source, *of_controls.source],
            true_objects(truth, of_method.image_id, of_method.size_hw),
        )
        points += of_method.points + of_controls.points

    counted = {row.name: _plain(row, points) for row in recall.rows()}
    table = []
    for source in method:
        row = {"name": source, "sources": rows[source], **counted[source]}
        if source in CLUE_SOURCES:
            row["random"] = _mean_and_spread([counted[f"random-{seed}:{source}"] for seed in seeds])
            row["dense_grid"] = counted[f"dense-grid:{source}"]
        table.append(row)
    return table


def _plain(row: RecallRow, points: Counter[str]) -> dict[str, Any]:
    return {
        "points": sum(points[source] for source in row.sources) / max(row.images, 1),
        "boxes": row.mean_boxes,
        "recall": {f"{t:g}": known(row.recall(t)) for t in row.thresholds},
    }


def _mean_and_spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    recalls = {t: [run["recall"][t] for run in runs] for t in runs[0]["recall"]}
    return {
        "points": sum(run["points"] for run in runs) / len(runs),
        "boxes": sum(run["boxes"] for run in runs) / len(runs),
        "recall": {t: None if None in r else sum(r) / len(r) for t, r in recalls.items()},
        "spread": {t: None if None in r else max(r) - min(r) for t, r in recalls.items()},
    }


def text_table(analysis: Mapping[str, Any], iou_thresholds: Sequence[float]) -> TextTable:
    """Lay out the rows for the console, each clue source followed by its two controls."""
    title = f"{analysis['split']}: {analysis['images']:,} images, clues against controls"
    text = TextTable(title)
    text.add_columns(Kind.NAME, "source")
    text.add_columns(Kind.FIGURE, "points", "boxes", *(f"R@{t:g}" for t in iou_thresholds))
    for label, row in table_rows(analysis):
        spread = row.get("spread")
        recalls = [
            percent(row["recall"][f"{t:g}"]) + (f" ±{percent(spread[f'{t:g}'])}" if spread else "")
            for t in iou_thresholds
        ]
        text.add_row(label, f"{row['points']:.1f}", f"{row['boxes']:.1f}", *recalls)
    return text


def table_rows(analysis: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (label, row) in the order in which people read them: a source, then its controls."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for row in analysis["rows"]:
        rows.append((row_label(row), row))
        if "random" in row:
            rows.append((f"random × {len(analysis['seeds'])}", row["random"]))
            rows.append(("denser grid", row["dense_grid"]))
    return rows


def verdict(analysis: Mapping[str, Any]) -> str:
    """Say in one line how often the clue rows beat their controls, over all sources and thresholds."""
    cells = [
        (row["recall"][t], row["random"]["recall"][t], row["random"]["spread"][t], row["dense_grid"]["recall"][t])
        for row in analysis["rows"]
        if "random" in row
        for t in row["recall"]
    ]
    if not cells or None in cells[0]:
        return "nothing to compare: the true boxes of this split are not known"
    random = sum(recall - mean > spread for recall, mean, spread, _ in cells)
    dense = sum(recall > denser for recall, _, _, denser in cells)
    return (
        f"of {len(cells)} recalls of clue rows, {_exceed(random)} random points by more than the seeds' spread, "
        f"{_exceed(dense)} the denser grid"
    )


def _exceed(count: int) -> str:
    return f"{count} exceeds" if count == 1 else f"{count} exceed"


def analysed_split(recipe: Recipe, index: Instance) -> str:
    """Return the split to analyse; by default the one that labels were granted to."""
    if recipe.analyse.split != "auto":
        return recipe.analyse.split
    granted = (index.manifest() or {}).get("labels_granted_to")
    if not granted:
        raise DataError(f"analyse.split: auto means the training split, but {recipe.data.uri} has none; name a split")
    return str(granted)


def first_proposed(proposals: Table, split: str, most: int) -> list[str]:
    """Return the ids of the split's images that have proposals, the first in hash order; ``most`` 0 = all.

    Raises:
        DataError: there are none.
    """
    ids = [row["image_id"] for row in proposals.iter_rows(["image_id", "split"]) if row["split"] == split]
    if not ids:
        raise DataError(f"analyse.split: no image of split {split!r} has proposals; see propose.splits")
    return in_hash_order(ids)[: most or None]


def method(recipe: Recipe) -> Mapping[str, Any]:
    """Return the part of the recipe that can change the numbers; what SAM's weights hold is in the key of ``propose``."""
    made = recipe.of(recipe.analyse.proposals)
    return {
        "split": recipe.analyse.split,
        "images": recipe.analyse.max_images,
        "seeds": recipe.analyse.random_seeds,
        "sam": replace(made.sam, weights="", sha256=""),
        "proposals": made.proposals,
        "iou_thresholds": recipe.evaluate.iou_thresholds,
        "include_difficult": recipe.evaluate.include_difficult,
        **truth_options(recipe),
    }


def reads(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the instances that are read."""
    return ("index", recipe.analyse.proposals)


def _planned(propose: Instance, index: Instance, split: str, max_images: int) -> pa.Table:
    """Return the images to analyse as PLANNED rows."""
    table = propose.table(PROPOSALS)
    chosen = set(first_proposed(table, split, max_images))
    uris = {row["image_id"]: row["uri"] for row in index.table(IMAGES).iter_rows(["image_id", "uri"])}
    columns = ["image_id", "split", *(field.name for field in PROMPT_COLUMNS)]
    rows = [row | {"uri": uris[row["image_id"]]} for row in table.iter_rows(columns) if row["image_id"] in chosen]
    return pa.Table.from_pylist(rows, schema=PLANNED)
