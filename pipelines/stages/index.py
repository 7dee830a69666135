"""The index stage: list a data set's images once, with the labels that the recipe grants, into the ``images`` table.

Labels are granted to the training split only and are null everywhere else, so that no test label can leak into gating or
training. Where the recipe measures by true boxes they are read and counted, and true masks where it measures by these, so that
a malformed one is an error before hours of work and not after them; no coordinate is kept. Of true label maps, which are
large, some are read. ``--limit N`` keeps the first N ids of each split in hash order, a sample that does not depend on how the
data set sorts its files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from pipelines.engine.stage import Content, Job, Stage
from pipelines.engine.voice import SILENT, Tone, Toned, Voice
from pipelines.products.index import NO_SPLIT, Index, Indexed, IndexFacts, first_in_hash_order, in_hash_order
from pipelines.recipe.model import Recipe
from pipelines.registry import stage_of
from pipelines.store.contents import known_contents, remember_contents
from pipelines.store.files import DamagedFileError
from pipelines.store.instances import Instance, rows_uri
from pipelines.store.schemas import IMAGES, with_class_names
from weaksam.config import DataConfig
from weaksam.datasets.ground_truth import BoxCounts, MaskCounts, StatedSize
from weaksam.datasets.passed_over import PassedOver
from weaksam.errors import DataError, ImageError
from weaksam.io.contents import ImageContent, contents_of
from weaksam.io.files import is_drawn
from weaksam.io.images import read_size
from weaksam.structures import LABELS_OF_OBJECTS, ImageRecord

if TYPE_CHECKING:
    from weaksam.datasets import Dataset

_SIZES_LOOKED_AT = 64  # pictures of a split; the measuring stages compare them all
_READERS = 16
_NAMED = 8  # classes that a line has room for
_FEW = 5  # images of a class, from which hardly anything is learnt of it; a misspelt name has few, too


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """What the images are, and how their true boxes are read, which is of no matter to the table."""

    data: DataConfig
    true_boxes: StatedSize | None  # what stated sizes count for where they are checked; None where they are not
    masks: bool  # whether true masks are checked, too
    label_maps: bool  # and true label maps


class IndexStage(Stage[IndexOptions]):
    """See the module."""

    verb = "index"
    help = "List a data set's images and the labels that the recipe grants."
    product = Index

    def options(self, recipe: Recipe, name: str) -> IndexOptions:  # noqa: ARG002
        """Look at true boxes, masks and label maps where an instance that the recipe lists measures by them."""
        by_boxes = any(stage_of(other).measures_by_true_boxes(recipe.of(other)) for other in recipe.stages)
        by_masks = any(stage_of(other).measures_by_true_masks(recipe.of(other)) for other in recipe.stages)
        by_maps = any(stage_of(other).measures_by_true_label_maps(recipe.of(other)) for other in recipe.stages)
        stated_size = recipe.data.stated_size if by_boxes else None
        return IndexOptions(data=recipe.data, true_boxes=stated_size, masks=by_masks, label_maps=by_maps)

    def images(self, options: IndexOptions) -> None:  # noqa: ARG002
        """None: it says which images there are."""
        return

    def contents(self, options: IndexOptions) -> Mapping[str, Content]:
        """Return the data set."""
        return {"data": Content(options.data, _fingerprint)}

    def run(self, job: Job[IndexOptions]) -> IndexFacts:
        """Write the ``images`` table, say what was passed over, and return the counts per split."""
        found = listed(job.options, job.instance, job.voice, remember=True)
        job.instance.table(found.images.schema).write_part(found.images, "part-0")
        if found.facts.passed_over:
            told = "; ".join(map(str, found.facts.passed_over))
            job.voice.say(Toned(f"  passed over: {told}", Tone.VERBATIM))
        return found.facts


def listed(options: IndexOptions, index: Instance, voice: Voice = SILENT, *, remember: bool = False) -> Indexed:
    """List a data set as its index does, without writing it.

    Args:
        options: of the index.
        index: the instance, finished or not: what was remembered beside it of pictures' contents is used.
        voice: shows how many pictures were read.
        remember: keep their contents for the next index.

    Raises:
        DataError: the data set is malformed or has no images where they are needed, or ids or pictures are not unique.
    """
    from weaksam.datasets import open_dataset, train_split

    config = options.data
    dataset = open_dataset(config)
    labelled = train_split(dataset, config)
    available = {split: dataset.records(split) for split in dataset.splits}
    passed_over = dataset.passed_over
    _require_images(available, passed_over, labelled, config)
    _require_unique(available, config.uri)
    truth = {} if options.true_boxes is None else _check_true_boxes(dataset, available)
    mask_truth = _check_true_masks(dataset, available) if options.masks else {}
    map_truth = _check_true_label_maps(dataset, available) if options.label_maps else {}

    records = [r for split in dataset.splits for r in first_in_hash_order(available[split], config.limit)]
    contents = _read_contents([r.uri for r in records], index, voice, remember=remember)
    columns = {
        "image_id": [r.image_id for r in records],
        "uri": [r.uri for r in records],
        "split": [r.split for r in records],
        "content": [contents[r.uri].digest for r in records],
        "labels": [r.labels if r.split == labelled else None for r in records],
        "labels_difficult": [r.labels_difficult if r.split == labelled else None for r in records],
    }
    del contents
    counts = Counter(r.split for r in records)
    parts = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    boxes = {split: counted for split, (counted, _) in truth.items()}
    masks = {split: counted for split, (counted, _) in mask_truth.items()}
    labels = _what_labels_say(records, dataset.class_names, labelled)
    if not config.limit:
        labels += _rare_classes(records, dataset.class_names, labelled)
    facts = IndexFacts(
        text=" · ".join(
            [f"images {len(records):,} ({parts})", labels, *_what_boxes_say(boxes), *_what_masks_say(masks)]
        ),
        splits=dict(counts),
        available={split: len(all_records) for split, all_records in available.items()},
        classes=len(dataset.class_names),
        labels_granted_to=labelled,
        label_source=next((r.label_source for r in records if r.split == labelled), LABELS_OF_OBJECTS),
        kind=dataset.kind,
        passed_over=tuple(passed_over),
        true_boxes=boxes,
        truth={split: digest for split, (_, digest) in truth.items()},
        true_masks=masks,
        mask_truth={split: digest for split, (_, digest) in mask_truth.items()},
        true_label_maps={split: count for split, (count, _) in map_truth.items()},
        label_map_truth={split: digest for split, (_, digest) in map_truth.items()},
    )
    images = pa.Table.from_pydict(columns, schema=with_class_names(IMAGES, dataset.class_names))
    return Indexed(key=index.key, images=images, facts=facts)


def indexed_data(index: Instance) -> DataConfig:
    """Return which data set an index lists; raise DamagedFileError if its plan does not say."""
    try:
        return TypeAdapter(DataConfig).validate_python((index.plan() or {})["parts"]["method"]["data"])
    except (KeyError, ValidationError) as error:
        raise DamagedFileError(index.plan_uri, "it does not say which data set", index.mended_by) from error


def _require_images(
    available: Mapping[str, Sequence[ImageRecord]], told: Sequence[PassedOver], labelled: str, config: DataConfig
) -> None:
    """Refuse a data set without images, and an empty split that was asked for or that labels are granted to."""
    wanted = {*config.splits, labelled}
    for split, records in available.items():
        if not records and (split in wanted or not any(available.values())):
            what = f", and passed over {'; '.join(map(str, told))}" if told else ""
            raise DataError(
                f"{config.uri}: expected images in split {split}, found none in its list{what}; list some, or name the splits "
                "that have images in data.splits and the one to learn from in data.train_split"
            )


def _require_unique(available: Mapping[str, Sequence[ImageRecord]], uri: str) -> None:
    """Refuse an id or a picture that stands for two images."""
    by_id: dict[str, ImageRecord] = {}
    by_uri: dict[str, ImageRecord] = {}
    for record in (record for records in available.values() for record in records):
        other = by_id.setdefault(record.image_id, record)
        if other is not record:
            raise DataError(
                f"{uri}: image id {record.image_id!r} stands in split {other.split} and in split {record.split}; "
                f"ids must be unique, name the splits you want in data.splits"
            )
        other = by_uri.setdefault(record.uri, record)
        if other is not record:
            raise DataError(
                f"{uri}: the picture {record.uri} is image {other.image_id!r} of split {other.split} and image "
                f"{record.image_id!r} of split {record.split}; list it once, or name the splits you want in data.splits"
            )


def _check_true_boxes(
    dataset: Dataset, available: Mapping[str, Sequence[ImageRecord]]
) -> dict[str, tuple[BoxCounts, str]]:
    """Count the true boxes of each annotated split, and take a digest of them.

    Malformed ones are an error now and not after hours of work. Some pictures' sizes are compared with those that their
    annotations state.
    """
    from weaksam.datasets import check_true_boxes

    found = {split: check_true_boxes(dataset, split, partial(_some_sizes, of)) for split, of in available.items()}
    return {split: (counts, digest) for split, (counts, digest) in found.items() if counts.images}


def _check_true_masks(dataset: Dataset, splits: Iterable[str]) -> dict[str, tuple[MaskCounts, str]]:
    """Count the true masks of each split that has some, and take a digest of them; malformed ones are an error now."""
    from weaksam.datasets import check_true_masks

    found = {split: check_true_masks(dataset, split) for split in splits}
    return {split: (counts, digest) for split, (counts, digest) in found.items() if counts.images}


def _check_true_label_maps(
    dataset: Dataset, available: Mapping[str, Sequence[ImageRecord]]
) -> dict[str, tuple[int, str]]:
    """Count the true label maps of each split that has some, and take a digest of them; some pictures' are read."""
    from weaksam.datasets import check_true_label_maps

    found = {split: check_true_label_maps(dataset, split, partial(_some_sizes, of)) for split, of in available.items()}
    return {split: (count, digest) for split, (count, digest) in found.items() if count}


def _some_sizes(records: Sequence[ImageRecord]) -> dict[str, tuple[int, int]]:
    """Return (height, width) of the first pictures in hash order by image id; one that cannot be read has none."""
    uris = {record.image_id: record.uri for record in records}
    some = in_hash_order(list(uris))[:_SIZES_LOOKED_AT]
    with ThreadPoolExecutor(_READERS) as threads:
        sizes = dict(zip(some, threads.map(read_size, (uris[image_id] for image_id in some)), strict=True))
    return {image_id: size for image_id, size in sizes.items() if not isinstance(size, ImageError)}


def _read_contents(uris: Sequence[str], index: Instance, voice: Voice, *, remember: bool) -> dict[str, ImageContent]:
    """Tell what each picture holds by its address, and remember it for the next index in this run folder."""
    run_uri = rows_uri(index.run_uri)
    known = known_contents(run_uri)
    found: dict[str, ImageContent] = {}
    reads = not all(map(is_drawn, uris))
    label = f"{index.name}: reading images"
    with voice.rows(label, len(uris), lambda: len(found)) if reads else nullcontext():
        found.update(contents_of(uris, known))
    if remember and any(content.stamp is not None and known.get(uri) is not content for uri, content in found.items()):
        remember_contents(run_uri, known | found)
    return found


def _rare_classes(records: Sequence[ImageRecord], class_names: Sequence[str], labelled: str) -> str:
    images = Counter(n for r in records if r.split == labelled for n in r.labels_difficult or ())
    rare = sorted((count, class_index) for class_index, count in images.items() if count < _FEW)
    return (
        f" · in fewer than {_FEW} images: {_some([f'{class_names[n]} {count}' for count, n in rare])}" if rare else ""
    )


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def _what_labels_say(records: Sequence[ImageRecord], class_names: Sequence[str], labelled: str) -> str:
    known = [r.labels_difficult for r in records if r.split == labelled and r.labels_difficult is not None]
    granted = sum(r.split == labelled for r in records)
    named = (
        f"classes {len(class_names):,}: {', '.join(class_names[:_NAMED])}{', …' if len(class_names) > _NAMED else ''}"
    )
    if labelled == NO_SPLIT:
        return f"{named} · labels granted to no split" if class_names else "no labels"
    if not known:
        return f"no labels: no image of the split {labelled} is annotated"
    if not class_names:
        return "no labels: the data set has no classes"
    some = f" ({len(known):,} of {granted:,} images)" if len(known) < granted else ""
    shown = {class_index for labels in known for class_index in labels}
    unseen = [name for class_index, name in enumerate(class_names) if class_index not in shown]
    listed = f" · without an object there: {_some(unseen)}" if unseen else ""
    source = next(r.label_source for r in records if r.split == labelled)
    taken_from = "" if source == LABELS_OF_OBJECTS else f", taken from the {source}"
    return f"{named} · labels granted to {labelled}{some}{taken_from}{listed}"


def _what_boxes_say(boxes: Mapping[str, BoxCounts]) -> list[str]:
    left_out, cut = sum(of.left_out for of in boxes.values()), sum(of.cut for of in boxes.values())
    if not left_out and not cut:
        return []
    return [f"true boxes left out {left_out:,} (without area or outside), cut {cut:,}"]


def _what_masks_say(masks: Mapping[str, MaskCounts]) -> list[str]:
    without, left_out = sum(of.without for of in masks.values()), sum(of.left_out for of in masks.values())
    if not without and not left_out:
        return []
    return [f"true masks of no object {left_out:,}, objects without one {without:,}"]


def _fingerprint(config: DataConfig) -> str:
    from weaksam.datasets import open_dataset

    return open_dataset(config).fingerprint()


STAGE = IndexStage()
