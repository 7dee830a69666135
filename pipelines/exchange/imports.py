"""``weaksam import``: proposals that others made, read into a run as the instance ``import.<name>``.

What a file is, its content decides:

    pickle of a dict     wetectron
    pickle of a list     mmdet
    JSON list            COCO results
    MATLAB file          Selective Search

Boxes are clipped to their images, whose sizes are read from the images' headers;
boxes without area after that are discarded and counted, those outside their images apart. Scores are not kept: what they
mean differs from file to file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.dataflow.rows import planned_images
from pipelines.engine.stage import Content, ImagesRead, Job, Options, Stage
from pipelines.engine.voice import SILENT, Voice
from pipelines.exchange.boxes import Boxes, require_sequence
from pipelines.exchange.coco import read_coco
from pipelines.exchange.export import Missing
from pipelines.exchange.image_ids import KnownImages, image_ids
from pipelines.exchange.mmdet import read_mmdet
from pipelines.exchange.pickles import load_plain
from pipelines.exchange.selective_search import read_selective_search
from pipelines.exchange.wetectron import read_wetectron
from pipelines.products.index import Index
from pipelines.products.proposals import ProposalTable
from pipelines.products.rows import RowFacts
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe, label_of, verb_of
from pipelines.runner import Run
from pipelines.store.copies import remove_copies
from pipelines.store.dropped import write_dropped
from pipelines.store.instances import Instance, finished_instance
from pipelines.store.planned import CONTENT
from pipelines.store.proof import prove
from pipelines.store.schemas import PROPOSALS, proposals_to_row
from pipelines.store.tables import part_name
from weaksam.config import require
from weaksam.config.weights import NotInKey
from weaksam.errors import ConfigError, DataError, ImageError
from weaksam.io.files import read_annotations
from weaksam.io.images import read_size
from weaksam.structures import Proposals

_ROWS_PER_PART = 128  # images; Selective Search has 2,000 boxes each
_READERS = 16
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks; with them JSON, never a pickle, begins


@dataclass(frozen=True, kw_only=True)
class ImportFacts(RowFacts):
    """What an import says of its table."""

    boxes: int = 0
    clipped: int = 0  # boxes
    discarded: int = 0  # boxes without area
    outside: int = 0  # boxes outside their images, discarded too
    unknown: int = 0  # images of the file that the run does not have
    missing: int = 0  # images of the run that the file does not have
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Which file is read, and for which images."""

    index: Input = INDEX
    file: NotInKey[str]  # what it holds is in the key
    split: str
    source: str
    missing: str


class ImportStage(Stage[ImportOptions]):
    """See the module."""

    verb = "import"
    help = "Read proposals of another project into a run."
    product = ProposalTable
    revision = 2
    replaces_when_finished = True

    def options(self, recipe: Recipe, name: str) -> ImportOptions:
        """Take the section of imports.

        Raises:
            ConfigError: no file is named, or the instance's name should not become a folder.
        """
        config = recipe.imports
        require(bool(config.file), f"{name}.file", "a file of proposals", config.file)
        require_folder_name(name)
        return ImportOptions(file=config.file, split=config.split, source=config.source, missing=config.missing)

    def images(self, options: ImportOptions) -> ImagesRead:
        """Return those of the split; boxes are clipped to the pictures' sizes."""
        return ImagesRead(columns=(CONTENT,), splits=(options.split,) if options.split else ())

    def makes_rows(self, options: ImportOptions) -> bool:  # noqa: ARG002
        """True: the key has the file, and no image depends on another."""
        return True

    def knows_classes(self, options: ImportOptions) -> bool:  # noqa: ARG002
        """False: proposals are of no class."""
        return False

    def contents(self, options: ImportOptions) -> Mapping[str, Content]:
        """Return the file."""
        return {"file": Content(options.file, _sha256)}

    def run(self, job: Job[ImportOptions]) -> ImportFacts:
        """Read the file, and write a row for each image.

        Raises:
            DataError: the file is malformed, names things that only code has use for, knows none of the images or, unless
                they are to be empty, not all; or none of its boxes lies in its image.
        """
        options, index = job.options, job.input(job.options.index, Index)
        split, kind = options.split, index.facts.kind
        planned = job.instance.planned_rows()
        rows = planned_images(planned, index.read()).to_pylist()
        ids = image_ids(index.table, kind, split) if split else [row["image_id"] for row in rows]
        uris = {row["image_id"]: row["uri"] for row in rows}
        (data,) = read_annotations([options.file])
        found = read_boxes(data, options.file, ids, kind, in_split_order=bool(split), uris=uris)
        strangers, absent = _compare(found, ids, options)
        table = job.instance.table(PROPOSALS)
        counts = _write(job.instance, rows, found, options.source)
        remove_copies(table)  # of images that an import of the same file for other images had, too
        proof = prove(planned, table, job.instance.dropped)
        lost = counts["discarded"] + counts["outside"]
        if lost and not counts["boxes"]:
            raise DataError(
                f"{options.file}: none of its {lost:,} boxes has area in its image; are they of other images, or sizes?"
            )
        such_as = f" (such as {strangers[0][:60]!a})" if strangers else ""
        return ImportFacts(
            text=f"{proof} · boxes {counts['boxes']:,} (clipped {counts['clipped']:,}, without area "
            f"{counts['discarded']:,}, outside their images {counts['outside']:,}) · images not in the run "
            f"{len(strangers):,}{such_as}",
            images=proof,
            unknown=len(strangers),
            missing=len(absent),
            file=options.file,
            boxes=counts["boxes"],
            clipped=counts["clipped"],
            discarded=counts["discarded"],
            outside=counts["outside"],
        )


ANY_DROPPED = Options(max_dropped="100%")  # the line that an import ends with says how many


def run_import(run_uri: str, file: str, *, name: str, voice: Voice = SILENT, **options: str) -> dict[str, Any]:
    """Read a file of proposals into a run as ``import.<name>``; a file that is there already is not read again.

    Args:
        run_uri: a run with a finished ``index``.
        file: path or address of the file.
        name: label of the instance.
        voice: for what is said meanwhile.
        options: ``split``, ``source`` and ``missing`` of ``ImportConfig``.

    Returns:
        the manifest, with the fields of ``ImportFacts``.

    Raises:
        DataError: see ``ImportStage.run``.
        RunError: no finished ``index``, or another process imports the same.
    """
    instance = f"import.{name}"
    recipe = Recipe(name="import", stages=(instance,), instances={instance: {"file": file, **options}})
    index = finished_instance(run_uri, "index")
    return Run(recipe, run_uri, given=[index]).bring([instance], ANY_DROPPED, voice)[instance]


def require_folder_name(name: str) -> None:
    """Raise ConfigError for an instance's name whose label should not become a folder."""
    if not label_of(name).replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"expected {verb_of(name)}.NAME with a NAME of letters, digits, - and _, got {name!r}")


def _sha256(file: str) -> str:
    (data,) = read_annotations([file])
    return hashlib.sha256(data).hexdigest()


def _compare(found: Mapping[str, Boxes], ids: Sequence[str], options: ImportOptions) -> tuple[list[str], list[str]]:
    """Return the file's images that are not in the run, and those of the run that are not in the file; raise DataError."""
    strangers, absent = sorted(found.keys() - set(ids)), [image_id for image_id in ids if image_id not in found]
    unknown, split = len(strangers), options.split
    if unknown == len(found) or (absent and options.missing == Missing.ERROR):
        remedy = "" if unknown == len(found) else ", or --missing empty gives those images no boxes"
        called_so = f"; its other images are called like {strangers[0][:60]!a}" if strangers else ""
        raise DataError(
            f"{options.file}: expected proposals for each of the {len(ids):,} images{f' of split {split}' if split else ''}, "
            f"{len(absent):,} have none (such as {', '.join(absent[:3])}) and {unknown:,} of the file's {len(found):,} "
            f"images are not in the run; check --split{remedy}{called_so}"
        )
    return strangers, absent


def read_boxes(
    data: bytes,
    where: str,
    ids: Sequence[str],
    kind: str,
    *,
    in_split_order: bool,
    uris: Mapping[str, str] | None = None,
) -> dict[str, Boxes]:
    """Read a file of any of the formats.

    Args:
        data: the file's content.
        where: its name, for messages.
        ids: the images in the order of the formats (``image_ids``).
        kind: of the data set: decides how ids become numbers.
        in_split_order: ``ids`` are one whole split, so that a list without names can be matched.
        uris: where the pictures are, by id, so that a file may call them by their names.

    Returns:
        boxes by image id, in the file's order; ids that are not among ``ids`` keep the name that the file gives them.

    Raises:
        DataError: the file is damaged, holds code, contradicts itself, or means two images by one name.
    """
    known = KnownImages(ids, kind, uris or {})
    if data.startswith(b"MATLAB"):
        return read_selective_search(data, where, known)
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if (text[:1] in (b"[", b"{") and b"\0" not in text[:64]) or data.startswith(_UTF16):
        return read_coco(data, where, known)
    value = load_plain(data, where)
    if isinstance(value, dict):
        return read_wetectron(value, where, known, kind)
    require_sequence(value, where)
    if not in_split_order:
        raise DataError(
            f"{where}: a list of boxes without names (mmdet) is in the order of one split; name it with --split"
        )
    return read_mmdet(value, where, ids)


def _write(
    instance: Instance, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Boxes], source: str
) -> Counter[str]:
    """Write one row per image, or one of ``_dropped`` where the image cannot be read; return the boxes' counts."""
    counts: Counter[str] = Counter()
    dropped = []
    table = instance.table(PROPOSALS)
    with ThreadPoolExecutor(_READERS) as threads:
        for start in range(0, len(rows), _ROWS_PER_PART):
            part = rows[start : start + _ROWS_PER_PART]
            written = []
            for row, size in zip(part, threads.map(read_size, (row["uri"] for row in part)), strict=True):
                if isinstance(size, ImageError):
                    dropped.append({**row, "reason": size.reason, "detail": size.detail})
                    continue
                boxes = found.get(row["image_id"], np.zeros((0, 4), np.float32))
                proposals, clipped = to_proposals(boxes, size, source)
                counts["boxes"] += len(proposals)
                counts["clipped"] += clipped
                empty = int((boxes[:, 2:] <= boxes[:, :2]).any(axis=1).sum())
                counts["discarded"] += empty
                counts["outside"] += len(boxes) - empty - len(proposals)
                written.append(proposals_to_row(row["image_id"], row["input"], proposals))
            rows_of_part = pa.Table.from_pylist(written, schema=PROPOSALS)
            table.write_part(rows_of_part, part_name(rows_of_part))
    write_dropped(instance, dropped)
    return counts


def to_proposals(boxes_xyxy: Boxes, size_hw: tuple[int, int], source: str) -> tuple[Proposals, int]:
    """Clip boxes ``[N, 4]`` to their image, discard those without area; also return how many of the others were clipped."""
    height, width = size_hw
    clipped = np.clip(boxes_xyxy, 0, np.asarray([width, height, width, height], np.float32))
    kept = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    number = int(kept.sum())
    proposals = Proposals(
        size_hw=size_hw,
        boxes_xyxy=clipped[kept],
        source=[source] * number,
        prompt_index=np.full(number, -1, np.int32),
        mask_index=np.full(number, -1, np.int8),
        predicted_iou=np.full(number, np.nan, np.float32),
        discarded={(source, "no area"): len(kept) - number} if number < len(kept) else {},
    )
    return proposals, int((clipped != boxes_xyxy).any(axis=1)[kept].sum())


STAGE = ImportStage()
