"""Where VOC's files lie, and which of them belong together.

    JPEGImages/ Annotations/ ImageSets/Main/   the devkit's layout; its lists are the splits
    ImageSets/Segmentation/                    more splits, for who asks for them: "trainaug", and "segmentation-<name>"
    SBD/ or benchmark_RELEASE/dataset/         beside the devkit's folder: segmentations of more images, for "trainaug"
    JPEGImages/ Annotations/                   without lists: one split "all"
    pictures with XML of VOC's content         LabelImg's and Roboflow's: XML beside the pictures, or in a folder near them;
                                               folders called like splits are the splits

An image's id is the path of its picture without suffix, under ``JPEGImages`` if there is one. Suffixes' capitals do not
matter. A list's line finds its picture by that id; else without a suffix, as a path that ends there, in either Unicode form
and whatever its capitals; an XML finds the picture of its name that is nearest, of these the one whose folders end alike
(``annotations/val/1.xml`` and ``images/val/1.jpg``). Several that are meant alike are an error.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from weaksam.datasets.listing import list_data
from weaksam.datasets.named_pictures import find_named
from weaksam.datasets.picture_search import Pictures
from weaksam.datasets.voc_xml import sets_out_to_be_voc
from weaksam.errors import DataError
from weaksam.io.files import is_folder, join, list_files, list_folders, read_annotations, read_texts, split_lines
from weaksam.io.images import IMAGE_SUFFIXES
from weaksam.io.stamps import Stamp

MAIN = "ImageSets/Main"
_IMAGES, _ANNOTATIONS, _SETS = "JPEGImages", "Annotations", "ImageSets"
# PNGs that number the pixels of objects, and of classes.
OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"
CLASSES_AUG = "SegmentationClassAug"  # the same of images that SBD adds
TRAINAUG = "trainaug"  # the split whose labels are those of its segmentations
SBD_OBJECTS, SBD_CLASSES = "inst", "cls"  # folders of SBD with a MATLAB file an image
_SBD = ("SBD", "SBD/dataset", "benchmark_RELEASE/dataset")
_SEGMENTATION_SETS = "ImageSets/Segmentation/"
_OF_THE_DEVKIT = (
    f"{_SETS}/",
    f"{CLASSES}/",
    f"{CLASSES_AUG}/",
    f"{OBJECTS}/",
)  # known, and neither pictures nor annotations
_LINE_OF_CLASS_LIST = re.compile(r"(\S.*)\s(-1|0|1)")
_LOOKED_AT = 20  # XML files whose content is looked at before a folder is held for another layout


def find_roots(uri: str, paths: Sequence[str] | None = None) -> list[str]:
    """Folders of one of the layouts: at ``uri``, else in folders named ``VOC…`` at most two below it.

    Args:
        uri: A folder.
        paths: Of all files under it, if they are listed already.
    """
    roots = _devkits(uri, 2)
    if roots:
        return roots
    listed = [path for path, _ in list_data(uri)] if paths is None else paths
    return [uri] if _has_annotated_pictures(uri, listed) else []


def only_root(uri: str) -> str:
    """The one folder that ``find_roots`` finds. Raises ``DataError``, naming them, if there are several or none."""
    roots = find_roots(uri)
    if len(roots) != 1:
        found = f"several: {', '.join(roots)}; give one of them" if roots else "none; check the path"
        raise DataError(
            f"{uri}: expected one folder that holds {MAIN}, or pictures with VOC's XML files, found {found}"
        )
    return roots[0]


@dataclass(frozen=True)
class VocLayout:
    """The files of one data set. Paths are relative to ``root``."""

    root: str
    files: Mapping[str, Stamp]  # by path, of all files

    @cached_property
    def base(self) -> str:
        """The folder that ids are relative to, with its slash; empty, for the root itself, if all pictures lie elsewhere."""
        elsewhere = any(
            path.lower().endswith(IMAGE_SUFFIXES) and not path.startswith(_OF_THE_DEVKIT) for path in self.files
        )
        return "" if elsewhere and not any(path.startswith(f"{_IMAGES}/") for path in self.files) else f"{_IMAGES}/"

    @cached_property
    def pictures(self) -> dict[str, list[str]]:
        """Paths of pictures by image id; more than one is for the caller to judge."""
        found = defaultdict(list)
        for path in self.files:
            inside = path.startswith(self.base) and not path.startswith(_OF_THE_DEVKIT)
            if inside and path.lower().endswith(IMAGE_SUFFIXES):
                found[posixpath.splitext(path.removeprefix(self.base))[0]].append(path)
        return dict(found)

    @cached_property
    def annotations(self) -> dict[str, list[str]]:
        """Paths of XML files by image id; of those without a picture by the id that it would have."""
        found = defaultdict(list)
        for path in self.files:
            if path.lower().endswith(".xml") and path.lower().startswith(
                (self.base.lower(), f"{_ANNOTATIONS}/".lower())
            ):
                found[self._id_of_annotation(path)].append(path)
        return dict(found)

    def numbered(self, folder: str, image_id: str) -> str | None:
        """Path of the PNG in a folder that numbers the pixels of an image; None where there is none."""
        path = f"{folder}/{image_id}.png"
        return path if path in self.files else None

    @cached_property
    def sbd_files(self) -> dict[str, Stamp]:
        """Files of SBD by address; empty where it does not lie beside the root."""
        beside = [join(posixpath.dirname(self.root), name) for name in _SBD]
        found = next((uri for uri in beside if is_folder(join(uri, SBD_CLASSES))), None)
        if found is None:
            return {}
        folders = [join(found, name) for name in (SBD_CLASSES, SBD_OBJECTS) if is_folder(join(found, name))]
        return {join(folder, path): stamp for folder in folders for path, stamp in list_files(folder)}

    def sbd_file(self, folder: str, image_id: str) -> str:
        """Address of SBD's file of an image in ``SBD_OBJECTS`` or ``SBD_CLASSES``; empty where there is none."""
        return self._sbd_by_name.get(f"{folder}/{image_id}.mat", "")

    @cached_property
    def _sbd_by_name(self) -> dict[str, str]:
        return {"/".join(uri.split("/")[-2:]): uri for uri in self.sbd_files}

    @property
    def others(self) -> list[str]:
        """Files that are neither pictures nor annotations nor known parts of a devkit."""
        taken = {path for paths in (*self.pictures.values(), *self.annotations.values()) for path in paths}
        return [path for path in self.files if path not in taken and not path.startswith(_OF_THE_DEVKIT)]

    @cached_property
    def lists(self) -> dict[str, list[str]]:
        """Paths of lists by name, those of single classes among them; more than one is for the caller to judge."""
        folder = f"{MAIN}/" if is_folder(join(self.root, MAIN)) else f"{_SETS}/"
        found = defaultdict(list)
        for path in self.files:
            name = path.removeprefix(folder)
            if path.startswith(folder) and name.lower().endswith(".txt") and "/" not in name:
                found[name[: -len(".txt")]].append(path)
        return dict(found)

    @cached_property
    def segmentation_lists(self) -> dict[str, list[str]]:
        """Paths of the lists of ``ImageSets/Segmentation`` by the names of their splits, which no list of Main has."""
        found = {}
        for path in self.files:
            name = path.removeprefix(_SEGMENTATION_SETS)
            if path.startswith(_SEGMENTATION_SETS) and name.lower().endswith(".txt") and "/" not in name:
                stem = name[: -len(".txt")]
                found[stem if stem == TRAINAUG else f"segmentation-{stem}"] = [path]
        return {name: paths for name, paths in found.items() if name not in self.lists}

    def read_lists(self, asked: Iterable[str] = ()) -> dict[str, dict[str, str]]:
        """Split lists: by name, the address of each image's line (``train.txt:3``) by image id.

        Lists of single classes are left out, empty ones are not. Of ``segmentation_lists`` only those asked for are read.

        Raises:
            DataError: Two lists of one name, an image listed twice, or a line that may mean several images.
        """
        read = self.lists | {name: paths for name, paths in self.segmentation_lists.items() if name in asked}
        for paths in read.values():
            if len(paths) > 1:
                raise DataError(f"{self.root}: expected one list of a name, found {' and '.join(paths)}; remove one")
        uris = [join(self.root, *paths) for paths in read.values()]
        lists = zip(read, uris, map(split_lines, read_texts(uris)), strict=True)
        return {name: self._ids(lines, uri) for name, uri, lines in lists if not self._is_of_a_class(name, lines)}

    def find(self, name: str, where: str) -> str | None:
        """The image id that a name from a list means; None if it means no picture.

        Raises:
            DataError: Several pictures are meant alike.
        """
        if name in self.pictures or name in self.annotations:
            return name
        uncommented = re.split(r"\s#", name)[0].rstrip()
        readings = (name, _without_suffix(name), uncommented, _without_suffix(uncommented))
        return find_named(self._search, join(self.root, self.base), readings, where)

    @cached_property
    def _search(self) -> Pictures:
        return Pictures(self.root, self.pictures)

    def _id_of_annotation(self, path: str) -> str:
        """The id of the picture beside it, or of the nearest one of that name."""
        own_id = posixpath.splitext(path.partition("/")[2] if self.base else path)[0]
        if own_id in self.pictures:
            return own_id
        found = self._search.search(own_id).paths or self._search.search(posixpath.basename(own_id)).paths
        for nearness in (_shared_head, _shared_tail):
            near = [nearness(own_id, image_id) for image_id in found]
            found = tuple(image_id for image_id, length in zip(found, near, strict=True) if length == max(near))
        if len(found) > 1:
            raise DataError(
                f"{join(self.root, path)}: expected the annotations of one picture, found {' and '.join(found)} of that name; "
                "put the file beside its picture"
            )
        return found[0] if found else own_id

    def _is_of_a_class(self, name: str, lines: Sequence[str]) -> bool:
        """Whether a list is of one class (``dog_train.txt``: an id and -1, 0 or 1 a line): no line of it is an id."""
        matches = [_LINE_OF_CLASS_LIST.fullmatch(line.strip()) for line in lines if line.strip()]
        ids = [match[1].strip() for match in matches if match]
        if not ids or len(ids) < len(matches) or any(match[0] in self.pictures for match in matches if match):
            return False
        return "_" in name or any(image_id in self.pictures for image_id in ids)

    def _ids(self, lines: Iterable[str], uri: str) -> dict[str, str]:
        places: dict[str, str] = {}
        for number, raw in enumerate(lines, start=1):
            line, where = raw if raw in self.pictures else raw.strip(), f"{uri}:{number}"
            if not line or (line.startswith("#") and line not in self.pictures):
                continue
            image_id = self.find(line, where) or _without_suffix(line)
            if image_id in places:
                first = places[image_id].rpartition(":")[2]
                raise DataError(f"{where}: image {image_id!r} is listed already in line {first}; remove one of them")
            places[image_id] = where
        return places


def _devkits(uri: str, levels: int) -> list[str]:
    if is_folder(join(uri, MAIN)) or all(is_folder(join(uri, name)) for name in (_IMAGES, _ANNOTATIONS)):
        return [uri]
    below = [join(uri, name) for name in list_folders(uri) if levels and name.upper().startswith("VOC")]
    return [root for folder in below for root in _devkits(folder, levels - 1)]


def _has_annotated_pictures(uri: str, paths: Sequence[str]) -> bool:
    """Whether pictures have XML files of their names that set out to be VOC's."""
    stems = {_stem(path) for path in paths if path.lower().endswith(IMAGE_SUFFIXES)}
    of_pictures = [path for path in paths if path.lower().endswith(".xml") and _stem(path) in stems]
    uris = [join(uri, path) for path in of_pictures[:_LOOKED_AT]]
    return any(map(sets_out_to_be_voc, read_annotations(uris)))


def _shared_head(first: str, second: str) -> int:
    """How many of two paths' folders are the same, from the top."""
    return len(posixpath.commonprefix([posixpath.dirname(path).split("/") for path in (first, second)]))


def _shared_tail(first: str, second: str) -> int:
    """How many of two paths' folders are the same, from the end."""
    return len(posixpath.commonprefix([posixpath.dirname(path).split("/")[::-1] for path in (first, second)]))


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0].casefold()


def _without_suffix(name: str) -> str:
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in (*IMAGE_SUFFIXES, ".xml") else name
