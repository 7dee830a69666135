"""Data sets: images with image-level labels and, for evaluation, their true boxes.

To add one: a class like ``Dataset`` in a file of its own, a line in ``DATASETS``; the contract tests run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from weaksam.config import DataConfig
from weaksam.datasets import coco_layout, voc_layout
from weaksam.datasets.ground_truth import (
    BoxCounts,
    MaskCounts,
    count_boxes,
    count_masks,
    digest_of,
    mask_digest_of,
    true_objects,
)
from weaksam.datasets.label_maps import TrueLabelMaps
from weaksam.datasets.listing import list_data
from weaksam.datasets.passed_over import PassedOver
from weaksam.datasets.pictures_only import PicturesOnly
from weaksam.errors import ConfigError
from weaksam.io.files import absolute
from weaksam.registry import Registry
from weaksam.structures import GroundTruth, ImageRecord


class Dataset(Protocol):
    """What every kind of data set offers. Malformed input raises ``DataError`` with file, place and remedy."""

    @property
    def kind(self) -> str:
        """Its name in ``DATASETS``."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes in the order of ``class_index``; empty if nothing is labelled."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits in use: those asked for, else all that do not overlap."""

    def records(self, split: str) -> list[ImageRecord]:
        """The images of a split in a fixed order. Reads class names and difficult flags; never looks at a coordinate."""

    def ground_truth(self, split: str, *, masks: bool = False) -> dict[str, GroundTruth]:
        """The true objects by image id, of every image that is annotated; empty for a split that is not.

        With ``masks`` also their masks, where the annotations state any; reading them takes its time.
        """

    def true_label_maps(self, split: str) -> TrueLabelMaps:
        """Which class each pixel shows, of every image of which that is known; read one by one, as they are asked for."""

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """What lies in its folder and is not read, and what is listed and lacks; complete once all records were asked for."""

    def fingerprint(self) -> str:
        """Changes when the annotations, the list of images or a picture does. Cheap: lists and stamps, no content of images.

        Files that are written again as they were may change it, too.
        """


DATASETS: Registry[Callable[[DataConfig], Dataset]] = Registry(
    "weaksam.datasets",
    {
        "voc": "weaksam.datasets.voc:VocDataset.from_config",
        "coco": "weaksam.datasets.coco:CocoDataset.from_config",
        "folder": "weaksam.datasets.folder:FolderDataset.from_config",
        "shapes": "weaksam.datasets.shapes:Shapes.from_config",
    },
)


def open_dataset(config: DataConfig) -> Dataset:
    """Open the data set at ``config.uri``, of ``config.kind`` or the kind that its layout shows.

    Raises:
        ConfigError: No address is given, or one beside drawn images; or a split twice.
        DataError: The data set is malformed, or lacks one of ``config.splits``.
    """
    if not config.uri and config.kind != "shapes":
        raise ConfigError("data.uri: expected a folder, s3://… or shapes:, got nothing; give --data URI")
    twice = next((split for split in config.splits if config.splits.count(split) > 1), None)
    if twice is not None:
        raise ConfigError(f"data.splits: expected each split once, got {twice!r} {config.splits.count(twice)} times")
    kind = detect_kind(config.uri) if config.kind == "auto" else config.kind
    if kind == "shapes" and config.uri and detect_kind(config.uri) != "shapes":
        raise ConfigError(
            f"data.uri: expected shapes: with data.kind=shapes, which draws its images, got {config.uri}; give another recipe, "
            "or --set data.kind=auto"
        )
    dataset = DATASETS[kind](config)
    return PicturesOnly(dataset) if config.pictures_only else dataset


def detect_kind(uri: str) -> str:
    """Tell the kind of the data set at ``uri`` from its layout.

    ``shapes:`` is drawn; a devkit or pictures with XML files (``voc_layout``) are VOC; instances files (``coco_layout``) are
    COCO; everything else is a folder.

    Raises:
        ConfigError: It has the layouts of several kinds.
    """
    if uri.startswith("shapes:"):
        return "shapes"
    root = absolute(uri)
    paths = [path for path, _ in list_data(root)]
    roots, splits = voc_layout.find_roots(root, paths), coco_layout.annotation_files(root, paths)
    shown = {
        "voc": f"VOC ({', '.join(roots)})" if roots else "",
        "coco": f"COCO (splits {', '.join(splits)})" if splits else "",
        "folder": "a folder with labels.csv" if any(path.lower() == "labels.csv" for path in paths) else "",
    }
    kinds = [kind for kind, what in shown.items() if what]
    if len(kinds) > 1:
        raise ConfigError(
            f"{uri}: expected a data set of one kind, found {' and '.join(shown[kind] for kind in kinds)}; say which is meant: "
            f"--set data.kind={kinds[0]}"
        )
    return kinds[0] if kinds else "folder"


def check_true_boxes(
    dataset: Dataset, split: str, sizes_hw: Callable[[], Mapping[str, tuple[int, int]]] = dict
) -> tuple[BoxCounts, str]:
    """Read the true boxes of a split for their faults alone: what comes back says how many there are, not where.

    Their digest comes with it, which tells whether they are still the same.

    Args:
        dataset: The data set.
        split: One of its splits.
        sizes_hw: Called where true boxes are known; gives the sizes of some of the pictures by image id.

    Raises:
        DataError: A box is malformed, or one of these pictures has another size than its annotation states.
    """
    truth = dataset.ground_truth(split)
    for image_id, size_hw in (sizes_hw() if truth else {}).items():
        true_objects(truth, image_id, size_hw)
    return count_boxes(truth), digest_of(truth)


def check_true_masks(dataset: Dataset, split: str) -> tuple[MaskCounts, str]:
    """Read the true masks of a split for their faults alone, as ``check_true_boxes`` reads boxes; return counts and a digest.

    Raises:
        DataError: A mask is malformed.
    """
    truth = dataset.ground_truth(split, masks=True)
    return count_masks(truth), mask_digest_of(truth)


def check_true_label_maps(
    dataset: Dataset, split: str, sizes_hw: Callable[[], Mapping[str, tuple[int, int]]]
) -> tuple[int, str]:
    """Read some true label maps of a split for their faults alone; return how many there are, and a digest of all.

    Args:
        dataset: The data set.
        split: One of its splits.
        sizes_hw: Called where maps are known; gives the sizes of some of the pictures by image id: their maps are read.

    Raises:
        DataError: A map is malformed, or of a picture of another size.
    """
    maps = dataset.true_label_maps(split)
    known = len(maps.image_ids)
    for image_id, size_hw in (sizes_hw() if known else {}).items():
        maps.of(image_id, size_hw)
    return known, maps.digest()


def train_split(dataset: Dataset, config: DataConfig) -> str:
    """The split to which image-level labels are granted; "none" grants none, and there are none with ``pictures_only``.

    "auto" takes the split called trainval, train, all or default (CVAT's name for a set without splits), else the only one
    whose name begins with train. Capitals do not matter.

    Raises:
        ConfigError: The data set has no such split, or several that "auto" could mean.
    """
    splits = dataset.splits
    if config.pictures_only:
        return "none"
    if config.train_split == "none" or config.train_split in splits:
        return config.train_split
    if config.train_split == "auto":
        named = [split for split in splits if split.lower() in ("trainval", "train", "all", "default")]
        candidates = named or [split for split in splits if split.lower().startswith("train")]
        if len(candidates) == 1:
            return candidates[0]
    raise ConfigError(
        f"data.train_split: expected one of {', '.join(splits)}, or none to grant no labels, got {config.train_split!r}, "
        f"which {'does not single one out' if config.train_split == 'auto' else 'is not among data.splits'}"
    )
