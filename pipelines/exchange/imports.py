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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

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
from pipelines.recipe.keys import to_plain
from pipelines.store.instances import Instance, Lock, finished_instance, instance_key, prove
from pipelines.store.schemas import DROPPED, IMAGES, PROPOSALS, SCHEMA_VERSION, proposals_to_row
from weaksam.errors import ConfigError, DataError, ImageError
from weaksam.io.files import read_annotations
from weaksam.io.images import read_size
from weaksam.structures import Proposals

_ROWS_PER_PART = 128  # images; Selective Search has 2,000 boxes each
_READERS = 16
_READER_VERSION = 2  # raise it when the same file gives other boxes: instance keys contain it
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks; with them JSON, never a pickle, begins


def run_import(
    run_uri: str,
    file: str,
    *,
    name: str,
    split: str = "",
    source: str = "imported",
    missing: Missing = Missing.ERROR,
) -> dict[str, Any]:
    """Read a file of proposals into the run as ``import.<name>``; a file that is there already is not read again.

    Args:
        run_uri: a run with a finished ``index``.
        file: path or address of the file.
        name: label of the instance.
        split: whose images; empty = all indexed ones, which lists in split order (mmdet) do not allow.
        source: what the column ``source`` says of every box.
        missing: what becomes of indexed images that the file does not know: EMPTY writes a row without boxes.

    Returns:
        the manifest: ``images`` (the proof), ``boxes``, ``clipped``, ``discarded`` (without area), ``outside`` (discarded
        too), ``unknown`` (images of the file that the run does not have), ``missing``, ``file``, ``sha256`` and ``text``, a
        line for people.

    Raises:
        DataError: the file is malformed, names things that only code has use for, knows none of the images or, unless
            ``missing`` is EMPTY, not all; or none of its boxes lies in its image.
        RunError: no finished ``index``, or another process imports the same.
    """
    called = instance_name(name)
    index = finished_instance(run_uri, "index")
    (data,) = read_annotations([file])
    digest = hashlib.sha256(data).hexdigest()
    parts = {
        "verb": "import",
        "schema": SCHEMA_VERSION,
        "method": {"split": split, "source": source, "missing": missing, "reader": _READER_VERSION},
        "fingerprints": {"file": digest},
        "reads": {"index": index.key},
    }
    instance = Instance(run_uri, called, instance_key(parts))
    manifest = instance.finished(PROPOSALS)
    if manifest is not None:
        instance.make_current()
        return manifest

    images = index.table(IMAGES)
    kind = Index(index).facts.kind
    rows = [row for row in images.iter_rows(("image_id", "uri", "split")) if split in ("", row["split"])]
    ids = image_ids(images, kind, split) if split else [row["image_id"] for row in rows]
    uris = {row["image_id"]: row["uri"] for row in rows}
    found = read_boxes(data, file, ids, kind, in_split_order=bool(split), uris=uris)
    strangers, absent = sorted(found.keys() - set(ids)), [image_id for image_id in ids if image_id not in found]
    unknown = len(strangers)
    if unknown == len(found) or (absent and missing == Missing.ERROR):
        remedy = "" if unknown == len(found) else ", or --missing empty gives those images no boxes"
        called_so = f"; its other images are called like {strangers[0][:60]!a}" if strangers else ""
        raise DataError(
            f"{file}: expected proposals for each of the {len(ids):,} images{f' of split {split}' if split else ''}, "
            f"{len(absent):,} have none (such as {', '.join(absent[:3])}) and {unknown:,} of the file's {len(found):,} "
            f"images are not in the run; check --split{remedy}{called_so}"
        )
    with Lock(instance.folder, f"weaksam {instance.name}"):
        manifest = instance.finished(PROPOSALS)
        if manifest is not None:
            return manifest  # somebody finished it while this process read the file
        instance.set_aside_damaged(PROPOSALS)
        instance.reopen()
        instance.begin(parts, ProposalTable.__name__)
        counts = _write(instance, rows, found, source)
        proof = prove(ids, instance.table(PROPOSALS), instance.dropped)
        lost = counts["discarded"] + counts["outside"]
        if lost and not counts["boxes"]:
            raise DataError(
                f"{file}: none of its {lost:,} boxes has area in its image; are they of other images, or sizes?"
            )
        summary = {
            **counts,
            "images": to_plain(proof),
            "unknown": unknown,
            "missing": len(absent),
            "file": file,
            "sha256": digest,
            "text": f"{proof} · boxes {counts['boxes']:,} (clipped {counts['clipped']:,}, "
            f"without area {counts['discarded']:,}, outside their images {counts['outside']:,}) · images not in the run "
            f"{unknown:,}{f' (such as {strangers[0][:60]!a})' if strangers else ''}",
        }
        return instance.finish(summary)


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


def instance_name(name: str) -> str:
    """Return ``import.<name>``; raise ConfigError for what should not become a folder."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"--name: expected letters, digits, - and _, got {name!r}")
    return f"import.{name}"


def _write(
    instance: Instance, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Boxes], source: str
) -> dict[str, int]:
    """Write one row per image, or one of ``_dropped`` where the image cannot be read; return the boxes' counts."""
    counts = {"boxes": 0, "clipped": 0, "discarded": 0, "outside": 0}
    dropped = []
    with ThreadPoolExecutor(_READERS) as threads:
        for start in range(0, len(rows), _ROWS_PER_PART):
            part = rows[start : start + _ROWS_PER_PART]
            written = []
            for row, size in zip(part, threads.map(read_size, (row["uri"] for row in part)), strict=True):
                if isinstance(size, ImageError):
                    because = {"stage": "import", "reason": size.reason, "detail": size.detail}
                    dropped.append({**row, **because})
                    continue
                boxes = found.get(row["image_id"], np.zeros((0, 4), np.float32))
                proposals, clipped = to_proposals(boxes, size, source)
                counts["boxes"] += len(proposals)
                counts["clipped"] += clipped
                empty = int((boxes[:, 2:] <= boxes[:, :2]).any(axis=1).sum())
                counts["discarded"] += empty
                counts["outside"] += len(boxes) - empty - len(proposals)
                written.append(proposals_to_row(row["image_id"], row["split"], proposals))
            instance.table(PROPOSALS).write_rows(written, f"part-{start // _ROWS_PER_PART:05d}")
    if dropped:
        instance.dropped.write_rows([{name: row[name] for name in DROPPED.names} for row in dropped], "part-00000")
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
