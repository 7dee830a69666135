"""PASCAL VOC, in the devkit's layout or as LabelImg and Roboflow write it, see ``voc_layout``.

Image-level labels come from names and difficult flags alone; coordinates are parsed by ``ground_truth`` and nowhere
else. VOC counts pixels from 1 and includes both corners: ``xmin ymin xmax ymax`` becomes ``xmin-1 ymin-1 xmax ymax``.
The ``filename`` inside an XML is not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from weaksam.config import DataConfig
from weaksam.datasets.class_names import refuse_look_alikes
from weaksam.datasets.ground_truth import StatedSize, TrueObject, ground_truth_of
from weaksam.datasets.label_maps import TrueLabelMaps
from weaksam.datasets.listing import list_data
from weaksam.datasets.passed_over import PassedOver, by_suffix, some
from weaksam.datasets.split_folders import split_folders
from weaksam.datasets.voc_layout import CLASSES, CLASSES_AUG, MAIN, OBJECTS, TRAINAUG, VocLayout, only_root
from weaksam.datasets.voc_masks import ObjectMasks, object_masks
from weaksam.datasets.voc_segmentation import Segmentations
from weaksam.datasets.voc_xml import VocObject, boxes_xyxy_of, objects_of, parse_annotation, size_hw_of
from weaksam.errors import DataError
from weaksam.io.files import absolute, join, read_annotations
from weaksam.structures import LABELS_OF_SEGMENTATION, GroundTruth, ImageRecord

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

# The official classes; a data set that uses only these has all twenty, in this order.
CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_PREFERRED_SPLITS = ("trainval", "train", "val", "test")


class VocDataset:
    """One year of a devkit, or anything laid out like one."""

    kind: ClassVar[str] = "voc"

    def __init__(self, uri: str, *, splits: Sequence[str] = (), stated_size: StatedSize = "check") -> None:
        """Open a data set.

        Args:
            uri: The folder that holds the data set, or one above it (``VOCdevkit``, or the folder that holds this).
            splits: Split lists to use, which may overlap; empty = as many as are disjoint, in the order trainval, train,
                val, test, others. Those of ``ImageSets/Segmentation`` are used only if they are named here.
            stated_size: What the ``<size>`` of an XML counts for.

        Raises:
            DataError: There is no such layout, several years of it, no such split, or nothing in its list.
        """
        self._root = only_root(uri)
        self._stated_size = stated_size
        self._layout = VocLayout(self._root, dict(list_data(self._root)))
        self._told: tuple[PassedOver, ...] = ()
        lists = self._read_lists(splits)
        known = (*lists, *self._layout.segmentation_lists)
        unknown = [name for name in splits if name not in lists]
        if unknown or not lists:
            raise DataError(
                f"{join(self._root, MAIN)}: expected split lists {', '.join(splits) or 'like trainval.txt'}, "
                f"found {', '.join(dict.fromkeys(known)) or 'none'}; set data.splits, or write the list: an image id a line"
            )
        paths = self._layout.lists | self._layout.segmentation_lists
        empty = {name: paths[name][0] for name, places in lists.items() if not places}
        if len(empty) == len(lists) or empty.keys() & set(splits):
            path = next(path for name, path in empty.items() if name in (splits or empty))
            raise DataError(
                f"{join(self._root, path)}: expected an image id a line, found none; fill the list, or remove it"
            )
        self._told += some("empty split lists", list(empty.values()), "fill or remove them")
        self._lists = {name: places for name, places in lists.items() if places}
        self.splits: tuple[str, ...] = tuple(splits) or _disjoint(self._lists)

    @classmethod
    def from_config(cls, config: DataConfig) -> VocDataset:
        """Open the data set that ``config`` means."""
        return cls(absolute(config.uri), splits=config.splits, stated_size=config.stated_size)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The official twenty if no other name occurs in the annotations, else all names that occur, sorted.

        Raises:
            DataError: Malformed XML, two files for one image, or names that differ in capitals only.
        """
        places: dict[str, str] = {}
        for image_id, objects in self._objects.items():
            for item in objects:
                places.setdefault(item.name, join(self._root, self._layout.annotations[image_id][0]))
        refuse_look_alikes(places)
        return CLASS_NAMES if places.keys() <= set(CLASS_NAMES) else tuple(sorted(places))

    def records(self, split: str) -> list[ImageRecord]:
        """One record per line of the split list; labels are None where an image has no XML.

        Labels of "trainaug" are the set of classes in an image's segmentation, None where it has none. An image without a file
        gets the address where it should be.

        Raises:
            DataError: Unknown split, malformed XML or segmentation, two files for one image, or no file for any.
        """
        self._require_pictures(split)
        if split == TRAINAUG:
            return self._segmented_records()
        index = {name: i for i, name in enumerate(self.class_names)}
        records = []
        for image_id in self._ids(split):
            objects = self._objects.get(image_id)
            records.append(
                ImageRecord(
                    image_id=image_id,
                    uri=join(self._root, self._picture(image_id)),
                    split=split,
                    labels=None if objects is None else _labels(index[o.name] for o in objects if not o.difficult),
                    labels_difficult=None if objects is None else _labels(index[o.name] for o in objects),
                )
            )
        return records

    def _segmented_records(self) -> list[ImageRecord]:
        if self.class_names != CLASS_NAMES:
            raise DataError(
                f"{self._root}: expected the official classes, by which the segmentations of {TRAINAUG} are numbered, got "
                f"others ({', '.join(sorted(set(self.class_names) - set(CLASS_NAMES))[:5])}); name other splits in data.splits"
            )
        return [
            ImageRecord(
                image_id=image_id,
                uri=join(self._root, self._picture(image_id)),
                split=TRAINAUG,
                labels=labels,
                labels_difficult=labels,
                label_source=LABELS_OF_SEGMENTATION,
            )
            for image_id, labels in self._segmented_labels.items()
        ]

    @cached_property
    def _segmented_labels(self) -> dict[str, tuple[int, ...] | None]:
        """The labels of every image of trainaug, None where it has no segmentation."""
        return {image_id: self._segmentations.labels(image_id) for image_id in self._ids(TRAINAUG)}

    @cached_property
    def _segmentations(self) -> Segmentations:
        """Only the official classes have known numbers."""
        return Segmentations(self._layout, len(CLASS_NAMES) if self.class_names == CLASS_NAMES else 0)

    def ground_truth(self, split: str, *, masks: bool = False) -> dict[str, GroundTruth]:
        """The objects of every image of ``split`` that has an XML, by image id; empty if none has, or none of them a box.

        Boxes are cut to the ``<size>`` that the XML states; one that states none, or 0, cuts nothing at that side. Masks are
        those of ``SegmentationObject`` or SBD, of the images that have a file there; one that fits no object is left out and
        counted.

        Raises:
            DataError: Unknown split, malformed XML, a box that lacks or is not four numbers, or a PNG that is none.
        """
        objects_of_split = [item for image_id in self._ids(split) for item in self._objects.get(image_id, ())]
        if objects_of_split and not any(item.boxed for item in objects_of_split):
            return {}
        index = {name: i for i, name in enumerate(self.class_names)}
        truth = {}
        for image_id, uri, root in self._parsed(self._ids(split)):
            boxes_xyxy, size_hw = boxes_xyxy_of(root, uri), size_hw_of(root, uri)
            objects = [
                TrueObject(box_xyxy, index[item.name], difficult=item.difficult)
                for box_xyxy, item in zip(boxes_xyxy, objects_of(root, uri), strict=True)
            ]
            found = self._masks(image_id, objects, size_hw) if masks else None
            if found is not None:
                objects = [item._replace(mask_rle=rle) for item, rle in zip(objects, found.mask_rle, strict=True)]
            truth[image_id] = ground_truth_of(
                objects,
                size_hw,
                self._stated_size,
                uri,
                masks=found is not None,
                masks_left_out=0 if found is None else found.left_out,
            )
        return truth

    def true_label_maps(self, split: str) -> TrueLabelMaps:
        """Those of ``SegmentationClass``, ``SegmentationClassAug`` or SBD, of the images that have a file there.

        None are known where the classes are not the official ones, by which these files are numbered.

        Raises:
            DataError: Unknown split.
        """
        return self._segmentations.label_maps(self._ids(split), self._stated_size)

    def _masks(self, image_id: str, objects: Sequence[TrueObject], size_hw: tuple[int, int]) -> ObjectMasks | None:
        """The masks of an image's objects; None where it has no segmentation."""
        numbered = self._segmentations.objects(image_id, (0, 0) if self._stated_size == "ignore" else size_hw)
        if numbered is None:
            return None
        return object_masks(numbered, [item.box_xyxy for item in objects], [item.class_index + 1 for item in objects])

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """Pictures, annotations and lists that are not read, what they lack, and files of other kinds."""
        layout = self._layout
        used = [image_id for split in self.splits for image_id in self._ids(split)]
        listed = {image_id for places in self._lists.values() for image_id in places}
        unlisted = [paths[0] for image_id, paths in layout.pictures.items() if image_id not in listed]
        alone = [
            paths[0]
            for image_id, paths in layout.annotations.items()
            if image_id not in layout.pictures and image_id not in listed
        ]
        missing = [self._picture(image_id) for image_id in used if image_id not in layout.pictures]
        unlabelled = [
            self._picture(image_id)
            for split in self.splits
            if split != TRAINAUG and not layout.annotations.keys().isdisjoint(self._ids(split))
            for image_id in self._ids(split)
            if image_id not in layout.annotations
        ]
        unsegmented = [
            self._picture(image_id)
            for split in self.splits
            if split == TRAINAUG
            for image_id, labels in self._segmented_labels.items()
            if labels is None
        ]
        unboxed = [
            layout.annotations[image_id][0]
            for image_id in used
            if (objects := self._objects.get(image_id)) and not any(item.boxed for item in objects)
        ]
        return (
            *self._told,
            *some("listed images without a file", missing, "put them there or remove them from the list"),
            *some("images without an XML file, whose labels are unknown", unlabelled),
            *some(
                f"images of {TRAINAUG} without a segmentation, whose labels are unknown",
                unsegmented,
                "put SBD beside it",
            ),
            *some("XML files without a box, of which the labels are read", unboxed),
            *some("pictures in no split list", unlisted, f"list them in {MAIN}"),
            *some("XML files without a picture", alone),
            *by_suffix(layout.others),
        )

    def fingerprint(self) -> str:
        """Changes with the split lists and with the names and stamps of annotations, PNGs of pixels, and images."""
        layout = self._layout
        paths = sorted(
            path for group in (layout.pictures, layout.annotations) for paths in group.values() for path in paths
        )
        paths += sorted(
            path for path in layout.files if path.startswith((f"{OBJECTS}/", f"{CLASSES}/", f"{CLASSES_AUG}/"))
        )
        lists = {name: list(places) for name, places in self._lists.items()}
        beside = sorted(layout.sbd_files.items()) if TRAINAUG in self.splits else []
        listings = repr((lists, [(path, layout.files[path]) for path in paths], beside))
        return hashlib.sha256(f"voc {listings}".encode()).hexdigest()[:16]

    def _read_lists(self, asked: Sequence[str]) -> dict[str, dict[str, str]]:
        """The splits: of split lists, or where there are no lists at all, of folders."""
        layout = self._layout
        if layout.lists or not layout.segmentation_lists.keys().isdisjoint(asked):
            return layout.read_lists(asked)
        if not layout.pictures:
            raise DataError(f"{self._root}: expected pictures, found none{self._others()}; check the path")
        folders = split_folders(layout.pictures)
        self._told += folders.passed_over
        return {
            split: {image_id: self._root for image_id in layout.pictures if folders.split_of(image_id) == split}
            for split in folders.splits
        }

    def _others(self) -> str:
        """Files of other kinds, as an aside."""
        told = by_suffix(self._layout.others)
        return f" ({', '.join(map(str, told))})" if told else ""

    def _ids(self, split: str) -> dict[str, str]:
        if split not in self._lists:
            raise DataError(f"{self._root}: expected a split of {', '.join(self._lists)}, got {split!r}")
        return self._lists[split]

    def _picture(self, image_id: str) -> str:
        """Its path, or that where it should be, which is never outside the data set's folder."""
        inside = "/".join(part for part in image_id.split("/") if part not in ("", ".", ".."))
        paths = self._layout.pictures.get(image_id, [f"{self._layout.base}{inside}.jpg"])
        return _only(paths, f"{self._root}: image {image_id!r}")

    def _require_pictures(self, split: str) -> None:
        ids, pictures = self._ids(split), self._layout.pictures
        if pictures.keys().isdisjoint(ids):
            image_id, where = next(iter(ids.items()))
            holds = (
                f"{len(pictures):,} others, such as {next(iter(pictures))!r}"
                if pictures
                else f"none at all{self._others()}"
            )
            raise DataError(
                f"{where}: expected pictures of the {len(ids):,} images of {split} in {join(self._root, self._layout.base)}, "
                f"found no file of any (e.g. {image_id!r}), but {holds}; write the pictures' names without folder and suffix, "
                "put the pictures there, or leave the list out of data.splits"
            )

    @cached_property
    def _objects(self) -> dict[str, list[VocObject]]:
        """The objects by image id, of every listed image that has an XML."""
        listed = dict.fromkeys(image_id for places in self._lists.values() for image_id in places)
        return {image_id: objects_of(root, uri) for image_id, uri, root in self._parsed(listed)}

    def _parsed(self, image_ids: Iterable[str]) -> Iterator[tuple[str, str, Element]]:
        found = {i: self._layout.annotations[i] for i in image_ids if i in self._layout.annotations}
        paths = [_only(paths, f"{self._root}: image {image_id!r}") for image_id, paths in found.items()]
        uris = [join(self._root, path) for path in paths]
        for image_id, uri, data in zip(found, uris, read_annotations(uris), strict=True):
            yield image_id, uri, parse_annotation(data, uri)


def _disjoint(lists: dict[str, dict[str, str]]) -> tuple[str, ...]:
    order = [name for name in _PREFERRED_SPLITS if name in lists]
    order += sorted(lists.keys() - set(order))
    chosen: list[str] = []
    taken: set[str] = set()
    for name in order:
        if taken.isdisjoint(lists[name]):
            chosen.append(name)
            taken.update(lists[name])
    return tuple(chosen)


def _only(paths: Sequence[str], whose: str) -> str:
    if len(paths) > 1:
        raise DataError(f"{whose} has two files, {paths[0]} and {paths[1]}; remove one")
    return paths[0]


def _labels(class_indices: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(class_indices)))
