"""Where COCO's annotation files lie, and the splits that they are of.

    annotations/instances_<split>.json   COCO's own layout, at the root or in a folder below it
    <split>/_annotations.coco.json       Roboflow's export; at the root itself the split is "all"
    <any other name>.json                where there is none of these: every file whose content is an instances file
    annotations/image_info_<split>.json  COCO's own list of pictures that are kept without annotations, for splits that are
                                         asked for by name

Capitals do not matter. A name of the third sort gives its split without words like "annotations": ``train.json``,
``coco_train.json`` and ``train/labels.json`` are all of "train", ``result.json`` at the root is of "all".
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from weaksam.errors import DataError
from weaksam.io.files import join, read_annotations

_STANDARD = re.compile(r"(?:.*/)?annotations/instances_([^/]+)\.json", re.IGNORECASE)
_PICTURES_ALONE = re.compile(r"(?:.*/)?annotations/image_info_([^/]+)\.json", re.IGNORECASE)
_ROBOFLOW = re.compile(r"(?:(?:.*/)?([^/]+)/)?_annotations\.coco\.json", re.IGNORECASE)
# Words in the names of annotation files that name no split.
_FILLERS = {"annotation", "annotations", "instances", "coco", "label", "labels", "result", "results", "dataset", "data"}
_NOT_SPLITS = {*_FILLERS, "json", "jsons"}  # folders
# Files of other names are opened only where there are few: one JSON per image is another layout.
_MOST_IN_A_FOLDER = 16
_MOST = 64


def annotation_files(uri: str, paths: Iterable[str]) -> dict[str, list[str]]:
    """Return the annotation files by split, sorted by split; more than one for a split is for the caller to judge.

    Args:
        uri: the root, to open files of other names.
        paths: of all files under it, relative to it.
    """
    texts = [path for path in paths if path.lower().endswith(".json")]
    found: dict[str, list[str]] = {}
    for path in texts:
        standard, roboflow = _STANDARD.fullmatch(path), _ROBOFLOW.fullmatch(path)
        if standard or roboflow:
            split = standard[1] if standard else (roboflow and roboflow[1]) or "all"
            found.setdefault(split, []).append(path)
    if not found:
        for path in _instances_among(uri, texts):
            found.setdefault(split_of(path), []).append(path)
    return dict(sorted(found.items()))


def picture_lists(paths: Iterable[str]) -> dict[str, list[str]]:
    """Return the lists of pictures without annotations by split; arguments and more as those of ``annotation_files``."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if listed := _PICTURES_ALONE.fullmatch(path):
            found.setdefault(listed[1], []).append(path)
    return found


def one_per_split(uri: str, found: Mapping[str, Sequence[str]], splits: Iterable[str]) -> dict[str, str]:
    """Return the annotation file of each of ``splits``. Raises ``DataError`` that names them where there are several."""
    for split in splits:
        if len(found[split]) > 1:
            raise DataError(
                f"{uri}: expected one annotation file for split {split}, found {', '.join(found[split])}; move all but one out "
                "of this folder, rename one after a split of its own, or name the other splits in data.splits"
            )
    return {split: found[split][0] for split in splits}


def split_of(path: str) -> str:
    """Return the split that an annotation file of any name is of."""
    folder, name = posixpath.split(path)
    words = [word for word in re.split(r"[_. -]+", name[: -len(".json")]) if word and word.lower() not in _FILLERS]
    if words:
        return "_".join(words)
    parent = posixpath.basename(folder)
    return parent if parent and parent.lower() not in _NOT_SPLITS else "all"


def _instances_among(uri: str, paths: Sequence[str]) -> list[str]:
    """Return those of some JSON files that are instances files by their content, which may still be malformed."""
    in_folder = Counter(posixpath.dirname(path) for path in paths)
    looked_at = [path for path in paths if in_folder[posixpath.dirname(path)] <= _MOST_IN_A_FOLDER]
    if len(looked_at) > _MOST:
        return []
    contents = read_annotations([join(uri, path) for path in looked_at])
    return [path for path, data in zip(looked_at, contents, strict=True) if _sets_out_to_be_instances(data)]


def _sets_out_to_be_instances(data: bytes) -> bool:
    text = data.decode(json.detect_encoding(data), errors="replace")
    return all(f'"{key}"' in text for key in ("images", "annotations", "categories")) and '"segments_info"' not in text
