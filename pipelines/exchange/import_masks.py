"""``weaksam import-masks``: pseudo labels with masks that others made, read into a run as ``import-masks.<name>``.

What a file is, its content decides:

    JSON file                          COCO's instances: run lengths, compressed or not, or polygons
    folder with SegmentationObject/    VOC's PNGs, with or without its XML
    folder with data.yaml              YOLO's polygons
    folder of other JSON files         Labelme's shapes

The product is that of ``segment``: boxes and areas are those of the masks, and an object without a pixel is rejected. What the
masks are owed to is in the key, in every row and in all that is made of them: the file says it, as ours do, or whoever
imports it.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from pipelines.dataflow.rows import finish_batch, planned_images
from pipelines.engine.stage import Content, ImagesRead, Job, Stage
from pipelines.engine.voice import SILENT, Voice
from pipelines.exchange.coco import CocoMasks
from pipelines.exchange.image_ids import KnownImages
from pipelines.exchange.imports import ANY_DROPPED, require_folder_name
from pipelines.exchange.labelme import LabelmeMasks
from pipelines.exchange.masked_objects import MaskedObject, MaskFile
from pipelines.exchange.pictures import pictures_of
from pipelines.exchange.voc_masks import VocMasks
from pipelines.exchange.yolo import DATA_YAML, YoloMasks
from pipelines.products.index import NO_SPLIT, Index
from pipelines.products.pseudo_labels import PseudoMaskFacts, PseudoMaskTable
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.runner import Run
from pipelines.stages.segment import EMPTY
from pipelines.store.copies import remove_copies
from pipelines.store.instances import finished_instance
from pipelines.store.planned import CONTENT
from pipelines.store.proof import prove
from pipelines.store.schemas import PSEUDO_MASKS, pseudo_masks_to_row, with_class_names
from pipelines.store.tables import part_name
from weaksam.boxes_np import paired_iou
from weaksam.config import require
from weaksam.config.weights import NotInKey
from weaksam.datasets.voc_layout import OBJECTS
from weaksam.errors import DataError, ImageError
from weaksam.io.files import is_folder, list_files, read_annotations
from weaksam.io.images import read_size
from weaksam.masks_np import rle_area, rle_boxes
from weaksam.structures import BOXES, IMAGE_LABELS, MASKS, PseudoGroundTruth

CROWD = "crowd"  # why an object is rejected
_READERS = 16
_ROWS_PER_PART = 512  # images
_ANNOTATIONS = (".json", ".png", ".txt", ".xml", ".yaml")  # of a folder; its other files are pictures


class OwedTo(StrEnum):
    """What masks may be owed to."""

    IMAGE_LABELS = IMAGE_LABELS
    BOXES = BOXES
    MASKS = MASKS


@dataclass(frozen=True, kw_only=True)
class ImportMasksFacts(PseudoMaskFacts):
    """What an import says of its table."""

    unknown: int = 0  # images of the file that the split does not have
    missing: int = 0  # images of the split that the file does not have
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportMasksOptions:
    """Which file is read, and what its masks are owed to."""

    index: Input = INDEX
    file: NotInKey[str]  # what it holds is in the key
    supervision: str  # "" = what the file says


class ImportMasksStage(Stage[ImportMasksOptions]):
    """See the module."""

    verb = "import-masks"
    help = "Read pseudo labels with masks of another project into a run."
    product = PseudoMaskTable
    replaces_when_finished = True

    def options(self, recipe: Recipe, name: str) -> ImportMasksOptions:
        """Take the section of imported masks.

        Raises:
            ConfigError: no file is named, or the instance's name should not become a folder.
        """
        config = recipe.import_masks
        require(bool(config.file), f"{name}.file", "a file or folder of masks", config.file)
        require_folder_name(name)
        return ImportMasksOptions(file=config.file, supervision=config.supervision)

    def images(self, options: ImportMasksOptions) -> ImagesRead:  # noqa: ARG002
        """Return those that labels are granted to; masks are of the pictures' sizes."""
        return ImagesRead(columns=(CONTENT,), granted=True)

    def makes_rows(self, options: ImportMasksOptions) -> bool:  # noqa: ARG002
        """True: the key has the file, and no image depends on another."""
        return True

    def contents(self, options: ImportMasksOptions) -> Mapping[str, Content]:
        """Return the file or folder."""
        return {"file": Content(options.file, _digest)}

    def run(self, job: Job[ImportMasksOptions]) -> ImportMasksFacts:
        """Read the file, and write a row for each image; one that it does not have gets no mask.

        Raises:
            DataError: the file is malformed, is of other images or classes, does not say what its masks are owed to or says
                otherwise than asked; or labels are granted to no split.
        """
        options, index = job.options, job.input(job.options.index, Index)
        if index.granted_split == NO_SPLIT:
            raise DataError("expected a split to learn from, got none; name it in data.train_split")
        masks = open_masks(options.file, index.class_names)
        supervision = _supervision(masks.supervision, options)
        planned = job.instance.planned_rows()
        rows = planned_images(planned, index.read()).to_pylist()
        marks, strangers = _matched(masks, index, options.file)
        table = job.instance.table(with_class_names(PSEUDO_MASKS, index.class_names))
        row_of = partial(_row, masks=masks, marks=marks, class_names=index.class_names, supervision=supervision)
        with ThreadPoolExecutor(_READERS) as threads:
            for start in range(0, len(rows), _ROWS_PER_PART):
                done = list(threads.map(row_of, rows[start : start + _ROWS_PER_PART]))
                part = finish_batch(job.instance, done, table.schema)
                table.write_part(part, part_name(part))
        remove_copies(table)  # of images that an import of the same file for other images had, too
        proof = prove(planned, table, job.instance.dropped)
        rejected = Counter[str]()
        kept = 0
        for row in job.instance.current(table).iter_rows(("area", "rejected")):
            kept += len(row["area"])
            rejected.update(each["reason"] for each in row["rejected"])
        told = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items()) or "none"
        such_as = f" (such as {strangers[0][:60]!a})" if strangers else ""
        missing = sum(row["image_id"] not in marks for row in rows)
        return ImportMasksFacts(
            text=f"{proof} · masks {kept:,} · rejected: {told} · images not in the file {missing:,} · images not in the split "
            f"{len(strangers):,}{such_as} · supervision: {supervision}",
            images=proof,
            split=index.granted_split,
            boxes=kept,
            rejected=dict(rejected),
            supervision=supervision,
            unknown=len(strangers),
            missing=missing,
            file=options.file,
        )


def run_import_masks(
    run_uri: str, file: str, *, name: str, supervision: str = "", voice: Voice = SILENT
) -> dict[str, Any]:
    """Read pseudo labels with masks into a run as ``import-masks.<name>``; what is there already is not read again.

    Args:
        run_uri: a run with a finished ``index``.
        file: path or address of the file or folder.
        name: label of the instance.
        supervision: what the masks are owed to: "image-labels", "boxes" or "masks"; "" = what the file says.
        voice: for what is said meanwhile.

    Returns:
        the manifest, with the fields of ``ImportMasksFacts``.

    Raises:
        DataError: see ``ImportMasksStage.run``.
        RunError: no finished ``index``, or another process imports the same.
    """
    instance = f"import-masks.{name}"
    said = {"file": file, "supervision": supervision}
    recipe = Recipe(name="import masks", stages=(instance,), instances={instance: said})
    index = finished_instance(run_uri, "index")
    return Run(recipe, run_uri, given=[index]).bring([instance], ANY_DROPPED, voice)[instance]


def open_masks(uri: str, class_names: Sequence[str]) -> MaskFile:
    """Open a file or folder of any of the formats; ``class_names`` are those of the run, which VOC's PNGs have numbers of.

    Raises:
        DataError: it is of none of them, or malformed.
    """
    if not is_folder(uri):
        return CocoMasks(uri)
    paths = [path for path, _ in list_files(uri)]
    if any(path.startswith(f"{OBJECTS}/") for path in paths):
        return VocMasks(uri, paths, class_names)
    if DATA_YAML in paths:
        return YoloMasks(uri, paths)
    if any(path.endswith(".json") for path in paths):
        return LabelmeMasks(uri, paths)
    raise DataError(
        f"{uri}: expected a folder with {OBJECTS} (VOC), {DATA_YAML} (YOLO) or JSON files (Labelme), or a file of COCO's "
        f"instances, got a folder of {len(paths):,} other files; name the folder that holds them"
    )


def _digest(uri: str) -> str:
    """Return what tells a file from any other, or a folder by its annotations' names, sizes and times."""
    if not is_folder(uri):
        return hashlib.sha256(next(read_annotations([uri]))).hexdigest()
    listed = [f"{path} {stamp}\n" for path, stamp in list_files(uri) if posixpath.splitext(path)[1] in _ANNOTATIONS]
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def _supervision(said: str, options: ImportMasksOptions) -> str:
    """Return what the masks are owed to, which nobody guesses."""
    found = said or options.supervision
    if found not in tuple(OwedTo):
        raise DataError(
            f"{options.file}: expected what its masks are owed to, got {found[:60]!r}; say --supervision {IMAGE_LABELS} if "
            f"nobody drew anything, {BOXES} if they were made of boxes that people drew, {MASKS} if people drew or mended masks"
        )
    if options.supervision not in ("", found):
        raise DataError(
            f"{options.file}: says supervision: {found}, not {options.supervision}; leave --supervision out"
        )
    return found


def _matched(masks: MaskFile, index: Index, file: str) -> tuple[dict[str, str], list[str]]:
    """Return what the file calls the images of the granted split, by id, and its other images; raise DataError if all are."""
    pictures = pictures_of(index.instance, index.granted_split)
    called: dict[str, list[str]] = {}
    for image_id, name in pictures.names.items():
        called.setdefault(masks.mark_of(name), []).append(image_id)
    known = KnownImages(pictures.uris, index.facts.kind, pictures.uris)
    marks: dict[str, str] = {}
    strangers = []
    for mark in sorted(masks.marks):
        meant = called.get(mark) or [known.find(posixpath.basename(mark), file)]
        if len(meant) > 1:
            raise DataError(
                f"{file}: {mark} may be image {' or '.join(meant[:4])}; rename one of them, or write COCO's file"
            )
        (image_id,) = meant
        if image_id not in pictures.uris:
            strangers.append(mark)
        elif image_id in marks:
            raise DataError(
                f"{file}: image {image_id} stands in it as {marks[image_id]} and as {mark}; keep one of them"
            )
        else:
            marks[image_id] = mark
    if not marks:
        theirs = f"{len(strangers):,} others, such as {strangers[0][:60]!a}" if strangers else "none"
        raise DataError(
            f"{file}: expected masks of the {len(pictures.uris):,} images of the split {index.granted_split}, such as "
            f"{min(called, default='none')[:60]!a}, got {theirs}; call them as the pictures are called"
        )
    return marks, strangers


def _row(
    row: Mapping[str, Any], *, masks: MaskFile, marks: Mapping[str, str], class_names: Sequence[str], supervision: str
) -> dict[str, Any]:
    """Return the row of one image, or why it cannot be used."""
    size_hw = read_size(row["uri"])
    try:
        if isinstance(size_hw, ImageError):
            raise size_hw
        found = masks.objects(marks[row["image_id"]], size_hw) if row["image_id"] in marks else []
    except ImageError as error:
        return {**row, "reason": error.reason, "detail": error.detail}
    rles = [each.mask_rle for each in found]
    area, boxes_xyxy = rle_area(rles), rle_boxes(rles)
    prompted = [
        each.box_xyxy if each.box_xyxy is not None and _holds_pixels(each.box_xyxy, size_hw) else own
        for each, own in zip(found, boxes_xyxy, strict=True)
    ]
    prompted_xyxy = np.asarray(prompted, np.float32).reshape(-1, 4)
    unknown = np.full(len(found), np.nan, np.float32)
    return pseudo_masks_to_row(
        row["image_id"],
        row["input"],
        size_hw,
        PseudoGroundTruth(
            boxes_xyxy=boxes_xyxy,
            class_index=np.array([_class_index(each, class_names, row["image_id"]) for each in found], np.int64),
            score=np.array([each.score for each in found], np.float32),
            score_normalised=unknown,
            mask_rle=rles,
        ),
        prompted_xyxy=prompted_xyxy,
        columns={
            "area": area,
            "box_iou": paired_iou(prompted_xyxy.astype(np.float64), boxes_xyxy.astype(np.float64)),
            "predicted_iou": unknown,
            "stability": unknown,
        },
        reasons=[CROWD if each.crowd else "" if pixels else EMPTY for each, pixels in zip(found, area, strict=True)],
        supervision=supervision,
    )


def _holds_pixels(box_xyxy: Sequence[float], size_hw: tuple[int, int]) -> bool:
    """Whether some of a box that a file states is in the image; of others the mask's own box stands for it."""
    left, top, right, bottom = box_xyxy
    return max(left, 0) < min(right, size_hw[1]) and max(top, 0) < min(bottom, size_hw[0])


def _class_index(found: MaskedObject, class_names: Sequence[str], image_id: str) -> int:
    if found.class_name not in class_names:
        raise DataError(
            f"image {image_id}: expected one of the run's classes {', '.join(class_names[:100]) or '(it has none)'}, got "
            f"{found.class_name[:60]!r}; rename it in the file, or take these objects out"
        )
    return class_names.index(found.class_name)


STAGE = ImportMasksStage()
