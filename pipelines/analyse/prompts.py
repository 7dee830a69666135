"""``analyse.prompts``, Table 4 with controls: do the clues say *where*, or would as many points anywhere do?

Beside each kind of activation map of the recipe stand two controls on the same images, with the same SAM and the same filters:

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

from pipelines.analyse.question import Question, analysed_split, first_proposed
from pipelines.dataflow.passes import work_off
from pipelines.dataflow.pools import Pools
from pipelines.dataflow.rows import finish_batch, guarded, use_cpu
from pipelines.engine.product import Facts
from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable
from pipelines.evaluate.proposals import row_label
from pipelines.products.index import Index
from pipelines.products.measured import Analysis
from pipelines.products.proposal_boxes import ImageBoxes, count_points
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.config import ResourcesConfig
from pipelines.recipe.keys import INDEX, NOTHING, Input
from pipelines.recipe.model import Recipe
from pipelines.store.instances import Instance
from pipelines.store.numbers import known, percent
from pipelines.store.schemas import (
    PROMPT_COLUMNS,
    PROPOSALS,
    prompts_from_columns,
    prompts_to_columns,
    proposals_to_row,
)
from weaksam.config import DataConfig, ProposalsConfig, SamConfig
from weaksam.config.weights import NotInKey
from weaksam.datasets.ground_truth import StatedSize, true_objects
from weaksam.metrics.seeds import mean_and_spread
from weaksam.structures import MAP_KINDS, TABLE_SOURCES, GroundTruth, Prompts, Proposals

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from weaksam.metrics.proposal_recall import RecallRow

PLANNED = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("input", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("reason", pa.string()),  # null: these images went through propose
        pa.field("detail", pa.string()),
        *PROMPT_COLUMNS,
    ]
)


@dataclass(frozen=True, kw_only=True)
class PromptsOptions:
    """Which proposals the controls are compared with, and on which images."""

    index: Input = INDEX
    proposals: Input  # "" where they were made without clues: there is nothing to compare
    split: str
    images: int  # first in hash order; 0 = all
    seeds: tuple[int, ...]  # of the random control
    sam: NotInKey[SamConfig]  # its weights are in the key of the proposals
    filters: ProposalsConfig
    sources: tuple[str, ...]
    iou_thresholds: tuple[float, ...]
    include_difficult: bool
    stated_size: StatedSize
    data: NotInKey[DataConfig]
    resources: NotInKey[ResourcesConfig]


class PromptsQuestion(Question[PromptsOptions]):
    """Do the clues say where?"""

    title = "is each kind of activation map better than random points and a denser grid (Table 4)?"

    def options(self, recipe: Recipe) -> PromptsOptions:
        """Look up how the proposals were made."""
        question, made = recipe.analyse, recipe.of(recipe.analyse.proposals)
        has_clues = made.uses_clues and bool(set(MAP_KINDS) & set(made.prompts.sources))
        return PromptsOptions(
            proposals=question.proposals if has_clues else NOTHING,
            split=question.split,
            images=question.max_images,
            seeds=question.random_seeds,
            sam=made.sam,
            filters=made.proposals,
            sources=made.prompts.sources,
            iou_thresholds=recipe.evaluate.iou_thresholds,
            include_difficult=recipe.evaluate.include_difficult,
            stated_size=recipe.data.stated_size,
            data=recipe.data,
            resources=recipe.resources,
        )

    def run(self, job: Job[PromptsOptions]) -> Facts:
        """Segment the controls of the chosen images, compare, and print the table."""
        from weaksam.datasets import open_dataset

        options = job.options
        if not options.proposals:
            return Facts(text="nothing to compare: the recipe prompts with no clues")
        proposals, index = job.input(options.proposals, ProposalTable), job.input(options.index, Index)
        split = analysed_split(options.split, index, options.data.uri)
        planned = planned_images(proposals, index, split, options.images, job.instance.planned_rows())
        spec = {
            "instance": job.instance,
            "sam": options.sam,
            "proposals": options.filters,
            "sources": options.sources,
            "seeds": options.seeds,
        }

        def operators(dataset: Any, pools: Pools) -> Any:
            place = {"threads": pools.sizes.threads, "device": pools.sizes.device}
            return pools.actors(dataset, ControlActor, pools.sizes.segment_actors, **spec, **place)

        facts = work_off(job, planned, PROPOSALS, options.resources, operators)
        controls = {image.image_id: image for image in ProposalTable(job.instance).images()}
        rows = compare(
            ((image, controls[image.image_id]) for image in proposals.images() if image.image_id in controls),
            open_dataset(options.data).ground_truth(split),
            options.sources,
            options.seeds,
            iou_thresholds=options.iou_thresholds,
            include_difficult=options.include_difficult,
        )
        analysis = {"split": split, "images": len(controls), "seeds": options.seeds, "rows": rows}
        Analysis(job.instance).write(analysis)
        job.voice.table(text_table(analysis, options.iou_thresholds))
        return replace(facts, text=f"{facts.text} · {verdict(analysis)}")


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
    """Make the controls of one image: per seed the prompts of all kinds of maps at random places, per kind a denser grid.

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
    clues = [source for source in TABLE_SOURCES if source in MAP_KINDS and source in sources]
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

        use_cpu(threads, device)
        self._instance = instance
        self._sam = load_sam(sam, device)
        self._proposals = proposals
        self._sources = sources
        self._seeds = seeds

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Segment the controls of each image of a batch; images that fail go to ``_dropped``."""
        rows = [guarded(self._segment, row, ()) for row in batch.to_pylist()]
        return finish_batch(self._instance, rows, PROPOSALS)

    def _segment(self, row: dict[str, Any]) -> dict[str, Any]:
        from weaksam.io.files import read_bytes
        from weaksam.io.images import decode_image

        image = decode_image(read_bytes(row["uri"]))
        size_hw = (image.shape[0], image.shape[1])
        prompts = prompts_from_columns(row)
        controls = control_prompts(row["image_id"], size_hw, prompts, self._sources, self._seeds)
        return proposals_to_row(
            row["image_id"], row["input"], segment_controls(self._sam, image, controls, self._proposals)
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
        without true objects); a kind of activation map also has ``dense_grid`` of the same figures, and ``random`` with their
        means over the seeds and ``spread``: the largest minus the smallest recall, by threshold.
    """
    from weaksam.metrics.proposal_recall import ProposalRecall, cumulative

    method = [source for source in TABLE_SOURCES if source in sources]
    rows = cumulative(method)
    for source in method:
        if source in MAP_KINDS:
            before = rows[source]
            rows[f"dense-grid:{source}"] = (f"dense-grid:{source}",)
            for seed in seeds:
                rows[f"random-{seed}:{source}"] = tuple(f"random-{seed}:{s}" if s in MAP_KINDS else s for s in before)
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
        if source in MAP_KINDS:
            row["random"] = _of_seeds([counted[f"random-{seed}:{source}"] for seed in seeds])
            row["dense_grid"] = counted[f"dense-grid:{source}"]
        table.append(row)
    return table


def _plain(row: RecallRow, points: Counter[str]) -> dict[str, Any]:
    return {
        "points": sum(points[source] for source in row.sources) / max(row.images, 1),
        "boxes": row.mean_boxes,
        "recall": {f"{t:g}": known(row.recall(t)) for t in row.thresholds},
    }


def _of_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    recalls = {t: mean_and_spread(run["recall"][t] for run in runs) for t in runs[0]["recall"]}
    return {
        "points": sum(run["points"] for run in runs) / len(runs),
        "boxes": sum(run["boxes"] for run in runs) / len(runs),
        "recall": {t: recall.mean for t, recall in recalls.items()},
        "spread": {t: recall.spread for t, recall in recalls.items()},
    }


def text_table(analysis: Mapping[str, Any], iou_thresholds: Sequence[float]) -> TextTable:
    """Lay out the rows for people to read, each kind of activation map followed by its two controls."""
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


def planned_images(proposals: ProposalTable, index: Index, split: str, max_images: int, planned: pa.Table) -> pa.Table:
    """Return the images to analyse as PLANNED rows, of those whose identities are ``planned``."""
    chosen = set(first_proposed(proposals.table, split, max_images))
    uris = index.uris(sorted(chosen))
    inputs = dict(zip(planned["image_id"].to_pylist(), planned["input"].to_pylist(), strict=True))
    rows = proposals.table.iter_rows(("image_id", *(field.name for field in PROMPT_COLUMNS)))
    of_image = ((row["image_id"], row) for row in rows)
    wanted = [row | {"uri": uris[i], "input": inputs[i]} for i, row in of_image if i in chosen]
    return pa.Table.from_pylist(wanted, schema=PLANNED)


QUESTION = PromptsQuestion()
