"""COCO: instances files and folders of images; ``coco_layout`` says where they lie, ``picture_search`` how names find images.

Image-level labels come from ``category_id`` and ``iscrowd`` alone; ``bbox`` is looked at by ``ground_truth`` and nowhere
else. XYWH becomes XYXY with exclusive right and bottom. Classes are ordered by ascending category id, and are all that the
file names, whether or not an object is of them (Roboflow's first category is a heading without objects). A crowd, whose box
says little about single objects, is to labels what VOC's difficult objects are: it counts for ``labels_difficult`` only.

Of a split whose pictures are listed without annotations (``image_info_test-dev2017.json``) neither labels nor objects are
known.

An image's id is COCO's in decimal digits. Where splits count their images anew, so that one number means two pictures, it is
``<split>/<number>`` for every image of the data set.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from weaksam.config import DataConfig
from weaksam.datasets.coco_file import CocoFile, read_coco_file
from weaksam.datasets.coco_layout import annotation_files, one_per_split, picture_lists
from weaksam.datasets.coco_masks import read_masks
from weaksam.datasets.ground_truth import StatedSize, TrueObject, ground_truth_of
from weaksam.datasets.label_maps import MapsOfObjects, TrueLabelMaps
from weaksam.datasets.listing import list_data
from weaksam.datasets.passed_over import PassedOver, by_suffix, some
from weaksam.datasets.picture_search import Pictures, choose, names_split
from weaksam.errors import DataError
from weaksam.io.files import absolute, join, read_annotations
from weaksam.io.images import IMAGE_SUFFIXES
from weaksam.structures import GroundTruth, ImageRecord


class CocoDataset:
    """A folder of images with instances JSON files of any year or name; a file's name gives its split's."""

    kind: ClassVar[str] = "coco"

    def __init__(self, uri: str, *, splits: Sequence[str] = (), stated_size: StatedSize = "check") -> None:
        """Open a data set; the JSON files of the splits in use are parsed when first asked for.

        Args:
            uri: The folder that holds annotation files and images.
            splits: Splits to use; empty = all that have annotations. Only their files are read.
            stated_size: What the stated sizes of images count for.

        Raises:
            DataError: There are no instances files, not of these splits, or several of one.
        """
        self._root = uri
        self._stated_size = stated_size
        self._listing = dict(list_data(uri))
        self._available = annotation_files(uri, self._listing)
        lists = picture_lists(self._listing)
        self._unlabelled = {split for split in splits if split in lists and split not in self._available}
        self._available |= {split: lists[split] for split in self._unlabelled}
        missing = [split for split in splits if split not in self._available]
        if missing or not self._available:
            raise DataError(
                f"{join(uri, 'annotations')}: expected instances_{missing[0] if missing else 'train2017'}.json or the like, "
                f"found splits {', '.join(self._available) or 'none'}; set data.splits or check the path"
            )
        self.splits: tuple[str, ...] = tuple(splits) or tuple(self._available)
        self._paths = one_per_split(uri, self._available, self.splits)
        self._files: dict[str, CocoFile] = {}
        self._pictures_of: dict[str, list[str]] = {}

    @classmethod
    def from_config(cls, config: DataConfig) -> CocoDataset:
        """Open the data set that ``config`` means."""
        return cls(absolute(config.uri), splits=config.splits, stated_size=config.stated_size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by ascending category id, of the first split's file; the others must have the same."""
        return tuple(name for _, name in self._categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO's own id of every class, ascending."""
        return tuple(category_id for category_id, _ in self._categories)

    def records(self, split: str) -> list[ImageRecord]:
        """One record per image of the file, in its order; an image without objects has empty labels, if there are any.

        An image without a file gets the address where it should be.

        Raises:
            DataError: Unknown split, malformed file, duplicate ids, or none of its images found.
        """
        loaded = self._load(split)
        index = {category_id: i for i, category_id in enumerate(self.category_ids)}
        labels: dict[int, set[int]] = defaultdict(set)
        labels_difficult: dict[int, set[int]] = defaultdict(set)
        for item in loaded.annotations:
            labels_difficult[item.image].add(index[item.category])
            if not item.crowd:
                labels[item.image].add(index[item.category])
        known = split not in self._unlabelled
        return [
            ImageRecord(
                image_id=self._image_id(split, image.number),
                uri=join(self._root, path),
                split=split,
                labels=tuple(sorted(labels[image.number])) if known else None,
                labels_difficult=tuple(sorted(labels_difficult[image.number])) if known else None,
            )
            for image, path in zip(loaded.images, self._pictures(split), strict=True)
        ]

    def ground_truth(self, split: str, *, masks: bool = False) -> dict[str, GroundTruth]:
        """The objects of every image of ``split`` by image id.

        Boxes are cut to the image's stated size; degenerate ones are left out, and both are counted. Where a split has no list
        of annotations, or none of them has a "bbox", its true objects are not known, and the answer is empty; where none has a
        "segmentation", there are no masks.

        Raises:
            DataError: Unknown split, malformed file, a box that is not four numbers, or a segmentation that is none.
        """
        loaded = self._load(split)
        if split in self._unlabelled or (loaded.annotations and not any(item.has_box for item in loaded.annotations)):
            return {}
        index = {category_id: i for i, category_id in enumerate(self.category_ids)}
        objects: dict[int, list[TrueObject]] = defaultdict(list)
        mask_of = read_masks(loaded, sized=self._stated_size != "ignore") if masks else {}
        for item in loaded.annotations:
            box_xyxy, mask_rle = item.box_xyxy(loaded.uri), mask_of.get(item.place)
            objects[item.image].append(TrueObject(box_xyxy, index[item.category], crowd=item.crowd, mask_rle=mask_rle))
        return {
            self._image_id(split, image.number): ground_truth_of(
                objects[image.number], image.size_hw, self._stated_size, loaded.uri, masks=bool(mask_of)
            )
            for image in loaded.images
        }

    def true_label_maps(self, split: str) -> TrueLabelMaps:
        """Drawn of the objects' masks, crowds among them; errors are those of ``ground_truth``."""
        return MapsOfObjects(truth=self.ground_truth(split, masks=True))

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """Listed images without a file, and files that are neither images of the splits in use nor their annotations."""
        missing = [path for split in self.splits for path in self._pictures(split) if path not in self._listing]
        used = {path for split in self.splits for path in self._pictures(split)}
        known = {path for paths in self._available.values() for path in paths}
        others = [path for path in self._listing if path not in used and path not in known]
        unlisted = [path for path in others if path.lower().endswith(IMAGE_SUFFIXES)]
        texts = [path for path in others if path.lower().endswith((".json", ".json.gz"))]
        apart = {*unlisted, *texts}
        empty = [self._paths[split] for split in self.splits if not self._load(split).images]
        return (
            *some("listed images without a file", missing, "put them there or remove them from the list"),
            *some("annotation files that list no image", empty, "fill or remove them"),
            *some("images that no split in use lists", unlisted),
            *some(
                "annotation files that are not read", texts, "call one annotations/instances_<split>.json to read it"
            ),
            *by_suffix(path for path in others if path not in apart),
        )

    def fingerprint(self) -> str:
        """Changes with the content of the annotation files in use and with the names and stamps of all images."""
        digest = hashlib.sha256(b"coco")
        for split, path in self._paths.items():
            (data,) = read_annotations([join(self._root, path)])
            digest.update(f"{split} {hashlib.sha256(data).hexdigest()}".encode())
        images = [(name, stamp) for name, stamp in self._listing.items() if name.lower().endswith(IMAGE_SUFFIXES)]
        digest.update(repr(images).encode())
        return digest.hexdigest()[:16]

    @property
    def _categories(self) -> tuple[tuple[int, str], ...]:
        return self._load(self.splits[0]).categories

    def _load(self, split: str) -> CocoFile:
        if split not in self.splits:
            raise DataError(f"{self._root}: expected a split of {', '.join(self.splits)}, got {split!r}")
        if split not in self._files:
            loaded = self._files[split] = read_coco_file(
                join(self._root, self._paths[split]), annotated=split not in self._unlabelled
            )
            if loaded.categories != self._categories:
                raise DataError(
                    f"{loaded.uri}: expected the categories of {self._load(self.splits[0]).uri}, got other ids or names; "
                    "name splits of one data set in data.splits"
                )
        return self._files[split]

    def _image_id(self, split: str, number: int) -> str:
        return f"{split}/{number}" if self._numbered_anew else str(number)

    @cached_property
    def _numbered_anew(self) -> bool:
        """Whether one number means two pictures.

        Splits that list the same pictures overlap: that is another matter, and their numbers stay. So do those of COCO's own
        years, where one picture lies in two folders under two names that both end in its number.
        """
        pictures: dict[int, str] = {}
        for split in self.splits if len(self.splits) > 1 else ():
            for image, path in zip(self._load(split).images, self._pictures(split), strict=True):
                other = pictures.setdefault(image.number, path)
                if other != path and not self._is_of_another_year(image.number, path, other):
                    return True
        return False

    def _is_of_another_year(self, number: int, path: str, other: str) -> bool:
        """Whether two paths are one picture of COCO's in two years, by their names and sizes.

        Such names are ``COCO_train2014_000000000009.jpg`` and ``000000000009.jpg``.
        """
        names = {posixpath.splitext(posixpath.basename(one))[0] for one in (path, other)}
        of_coco = len(names) == 2 and all(name.endswith(f"{number:012}") for name in names)
        sizes = {self._listing[one].size if one in self._listing else None for one in (path, other)}
        return of_coco and len(sizes) == 1

    @cached_property
    def _search(self) -> Pictures:
        return Pictures(self._root, self._listing)

    def _pictures(self, split: str) -> list[str]:
        """The path of each image of a split relative to the root; of a missing one, where it should be."""
        if split not in self._pictures_of:
            loaded = self._load(split)
            found = [self._search.search(image.file_name) for image in loaded.images]
            if found and not any(one.paths for one in found):
                raise self._none_found(split, loaded)
            others = self._available.keys() - {split}
            paths = choose(
                found,
                split=split,
                other_splits=others,
                beside=posixpath.dirname(self._paths[split]),
                where=lambda n: f"{loaded.uri}: {loaded.images[n].where}",
            )
            self._refuse_pictures_of(others, split, loaded, paths)
            self._pictures_of[split] = paths
        return self._pictures_of[split]

    def _none_found(self, split: str, loaded: CocoFile) -> DataError:
        names = [image.file_name for image in loaded.images]
        lying = [path for path in self._listing if path.lower().endswith(IMAGE_SUFFIXES)]
        there = f"{len(lying):,} images of other names lie there, e.g. {lying[0]}" if lying else "no images lie there"
        return DataError(
            f"{self._root}: expected the {len(names):,} images of {loaded.uri} in {split}/, images/{split}/ or another folder, "
            f"found none (e.g. {min(names)}; {there}); put them there, correct file_name, or name the other splits in "
            "data.splits"
        )

    def _refuse_pictures_of(self, others: set[str], split: str, loaded: CocoFile, paths: Sequence[str]) -> None:
        """Refuse pictures that were found in the folder of another split alone, where they show something else.

        They are that split's own: its file lists them with another number, size or classes, or the name here says this split.
        A name that is the very path is taken at its word.
        """
        for other in sorted(others):
            there = [
                n
                for n, path in enumerate(paths)
                if path != loaded.images[n].file_name and _lies_in(path, other, split, self._available)
            ]
            if not there or len(self._available[other]) > 1:
                continue
            uri = join(self._root, self._available[other][0])
            theirs = self._load(other) if other in self.splits else read_coco_file(uri)
            listed = {path: image for image in theirs.images for path in self._search.search(image.file_name).paths}
            shown, shown_theirs = _categories_shown(loaded), _categories_shown(theirs)
            for n in there:
                image, image_theirs = loaded.images[n], listed.get(paths[n])
                folder = posixpath.dirname(image.file_name.replace("\\", "/"))
                is_theirs = image_theirs is not None and (
                    (image_theirs.number, image_theirs.size_hw, shown_theirs[image_theirs.number])
                    != (image.number, image.size_hw, shown[image.number])
                )
                if is_theirs or names_split(folder, split, others) > 0:
                    which = f"image {image_theirs.number} of" if image_theirs else "in the folder of"
                    raise DataError(
                        f"{loaded.uri}: {image.where}: {image.file_name!r} was found only as {paths[n]}, which is {which} "
                        f"split {other}; put the pictures of {split} into a folder {split}"
                    )


def _categories_shown(loaded: CocoFile) -> dict[int, set[int]]:
    shown: dict[int, set[int]] = defaultdict(set)
    for item in loaded.annotations:
        shown[item.image].add(item.category)
    return shown


def _lies_in(path: str, other: str, split: str, splits: dict[str, list[str]]) -> bool:
    folder = posixpath.dirname(path)
    return other in folder.split("/") and names_split(folder, split, splits.keys() - {split}) < 0
