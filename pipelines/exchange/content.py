"""What there is to export of one split: its images in the order of the formats, and what a run found in each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines import registry
from pipelines.exchange.image_ids import image_ids, narrow
from pipelines.exchange.pictures import pictures_of
from pipelines.products.detections import DetectionTable
from pipelines.products.index import Index
from pipelines.products.label_maps import LabelMapTable
from pipelines.products.proposals import ProposalTable
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.stages.index import indexed_data
from pipelines.store.instances import Instance
from pipelines.store.schemas import detections_from_row, label_map_from_row
from pipelines.store.tables import Rows
from weaksam.errors import DataError
from weaksam.label_maps import BACKGROUND, IGNORED
from weaksam.masks_np import Rle, rle_area
from weaksam.structures import BOXES, IMAGE_LABELS, MASKS, Detections, PseudoGroundTruth

_PROPOSALS = ("image_id", "split", "boxes_xyxy", "predicted_iou")


@dataclass(frozen=True, kw_only=True)
class SplitImages:
    """The images of a split that are to be exported."""

    index: Instance  # finished
    kind: str  # of the data set: decides how ids become numbers
    split: str
    ids: Sequence[str]  # in the order of the formats
    skip_missing: bool  # go on without the rows that images lack

    def missing(self, rows: Container[str], source: Instance, what: str, why: str) -> list[str]:
        """Return the ids of images without a row of ``source``; raise DataError if there are any and they are not skipped."""
        absent = [image_id for image_id in self.ids if image_id not in rows]
        if absent and not self.skip_missing:
            some = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
            raise DataError(
                f"{source.folder}: {len(absent):,} of {len(self.ids):,} images of split {self.split} have no {what} ({some}): "
                f"they were dropped or {why}"
            )
        return absent

    def category_ids(self, class_names: Sequence[str]) -> Sequence[int]:
        """Return the data set's own id of each class, 1..C where it has none."""
        if self.kind != "coco" or not Index(self.index).class_names:
            return range(1, len(class_names) + 1)
        from weaksam.datasets import open_dataset
        from weaksam.datasets.coco import CocoDataset

        dataset = open_dataset(indexed_data(self.index))
        assert isinstance(dataset, CocoDataset)
        if dataset.class_names != tuple(class_names):
            raise DataError(
                f"{self.index.run_uri}: the classes of its tables are not those of the data set any more, so that their ids "
                "are unknown; run `weaksam run` on it again, or put the annotations back"
            )
        return dataset.category_ids


class Content(Protocol):
    """What a run found in the images of a split."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many ``images``, ``boxes``, images without any box (``empty``) and images without a row (``missing``).

        Of label maps, a class that an image shows counts as a box.
        """

    @property
    def text(self) -> str:
        """The counts in words."""


@dataclass(frozen=True, kw_only=True)
class SplitProposals:
    """The proposals of a split, image by image."""

    of: SplitImages
    boxes_xyxy: Sequence[NDArray[np.float32]]  # each [N, 4], exclusive; [0, 4] for an image without a row
    # each [N], NaN if SAM did not say; None for an image without a row
    predicted_iou: Sequence[NDArray[np.float32] | None]

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``Content``."""
        return {
            "images": len(self.of.ids),
            "boxes": sum(map(len, self.boxes_xyxy)),
            "empty": sum(len(boxes) == 0 for boxes in self.boxes_xyxy),
            "missing": sum(ious is None for ious in self.predicted_iou),
        }

    @property
    def text(self) -> str:
        """See ``Content``."""
        n = self.counts
        note = f" · {n['missing']:,} missing written as empty" if n["missing"] else ""
        return f"images {n['images']:,} ({n['empty']:,} without a box{note}) · boxes {n['boxes']:,}"


@dataclass(frozen=True, kw_only=True)
class SplitDetections:
    """The detections of a split, of the images that have a row."""

    of: SplitImages
    class_names: Sequence[str]
    images: Mapping[str, Detections]  # by image id

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``Content``."""
        return {
            "images": len(self.of.ids),
            "boxes": sum(map(len, self.images.values())),
            "empty": sum(len(found) == 0 for found in self.images.values()),
            "missing": len(self.of.ids) - len(self.images),
        }

    @property
    def text(self) -> str:
        """See ``Content``."""
        n = self.counts
        note = f" ({n['missing']:,} without detections left out)" if n["missing"] else ""
        return f"images {n['images']:,}{note} · detections {n['boxes']:,}"


class LabelledImage(NamedTuple):
    """One image with the boxes of its objects."""

    image_id: str
    file_name: str  # ``pictures``: the picture's path under the folder of its split's pictures
    size_hw: tuple[int, int]
    found: PseudoGroundTruth | Detections
    uri: str = ""

    def boxes(self) -> Iterable[tuple[list[float], int, float]]:
        """Return (corners, class index, score) of each box."""
        found = self.found
        return zip(found.boxes_xyxy.tolist(), found.class_index.tolist(), found.score.tolist(), strict=True)

    def masks(self) -> Sequence[Rle | None]:
        """Return the mask of each box, None where there is none."""
        return [None] * len(self.found) if self.found.mask_rle is None else self.found.mask_rle


_OWED_TO = {IMAGE_LABELS: "image labels alone", BOXES: "true boxes", MASKS: "true masks"}


@dataclass(frozen=True, kw_only=True)
class LabelledSplit(ABC):
    """The images of a split with the boxes of their objects, as annotation files hold them."""

    what: ClassVar[str]  # the boxes are
    to_learn_from: ClassVar[bool]  # a trainer is what comes next

    of: SplitImages
    class_names: Sequence[str]
    supervision: str
    pictures_root: str  # the folder that holds the pictures; empty for drawings
    images: Sequence[LabelledImage]
    missing: int  # images without a row

    @property
    @abstractmethod
    def counts(self) -> Mapping[str, int]:
        """See ``Content``."""

    @property
    @abstractmethod
    def text(self) -> str:
        """See ``Content``."""

    @property
    def description(self) -> str:
        """What the boxes are, and what they were computed from."""
        return f"{self.what} of weaksam, from {_OWED_TO[self.supervision]}"


@dataclass(frozen=True, kw_only=True)
class SplitPredictions(LabelledSplit):
    """The detections of a split that score enough, of all images that have a row."""

    what = "detections"
    to_learn_from = False

    least_score: float
    without_mask: int = 0  # detections left out whose masks have no pixel, as those of boxes smaller than one

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``Content``."""
        return {
            "images": len(self.images),
            "boxes": sum(len(image.found) for image in self.images),
            "empty": sum(len(image.found) == 0 for image in self.images),
            "missing": self.missing,
        }

    @property
    def text(self) -> str:
        """See ``Content``."""
        n = self.counts
        note = f", {n['missing']:,} dropped" if n["missing"] else ""
        apart = f" · left out, without a pixel {self.without_mask:,}" if self.without_mask else ""
        return (
            f"images {n['images']:,} ({n['empty']:,} without a box{note}) · boxes {n['boxes']:,} that score "
            f"{self.least_score:g} or more{apart}"
        )


@dataclass(frozen=True, kw_only=True)
class SplitPseudoLabels(LabelledSplit):
    """The pseudo ground truth of a split, of the images that have a box: a trainer takes others for background."""

    what = "pseudo labels"
    to_learn_from = True

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``Content``; ``images`` have a box, ``empty`` ones are left out."""
        return {
            "images": len(self.images),
            "boxes": sum(len(image.found) for image in self.images),
            "empty": len(self.of.ids) - self.missing - len(self.images),
            "missing": self.missing,
        }

    @property
    def text(self) -> str:
        """See ``Content``."""
        n = self.counts
        note = f", {n['missing']:,} without a row" if n["missing"] else ""
        return (
            f"images {n['images']:,} (left out: {n['empty']:,} without any box{note}) · boxes {n['boxes']:,} · "
            f"supervision: {self.supervision}"
        )


@dataclass(frozen=True, kw_only=True)
class SplitLabelMaps:
    """The label maps of a split, of the images that have a row."""

    of: SplitImages
    class_names: Sequence[str]
    supervision: str
    file_names: Mapping[str, str]  # by image id, in the order of the formats: ``pictures``
    classes: Mapping[str, Sequence[int]]  # by image id: the indices of those that its map shows, ascending
    table: Rows

    def maps(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield (image id, map ``[H, W]``) of each image in the order of the table, holding one file in memory."""
        return _maps_of(self.table, self.file_names)

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``Content``."""
        return {
            "images": len(self.classes),
            "boxes": sum(map(len, self.classes.values())),
            "empty": sum(not shown for shown in self.classes.values()),
            "missing": len(self.of.ids) - len(self.classes),
        }

    @property
    def text(self) -> str:
        """See ``Content``."""
        n = self.counts
        note = f", left out without a row {n['missing']:,}" if n["missing"] else ""
        return (
            f"images {n['images']:,} ({n['empty']:,} of background alone{note}) · classes in them {n['boxes']:,} · "
            f"supervision: {self.supervision}"
        )


def images_of(index: Instance, split: str, only: str, *, skip_missing: bool) -> SplitImages:
    """Return the images of a split, or those of them that the file ``only`` names, if it is not empty.

    Raises:
        DataError: no image in the split, or ``narrow``'s.
    """
    kind = Index(index).facts.kind
    ids = image_ids(Index(index).table, kind, split)
    ids = narrow(ids, only, kind) if only else ids
    return SplitImages(index=index, kind=kind, split=split, ids=ids, skip_missing=skip_missing)


def proposals_of(images: SplitImages, source: Instance) -> SplitProposals:
    """Read the proposals of a split."""
    boxes, ious = read_split(ProposalTable(source).table, images.split)
    images.missing(boxes, source, "proposals", "are not asked for; --missing empty writes them without boxes")
    none = np.zeros((0, 4), np.float32)
    return SplitProposals(
        of=images,
        boxes_xyxy=[boxes.get(image_id, none) for image_id in images.ids],
        predicted_iou=[ious.get(image_id) for image_id in images.ids],
    )


def detections_of(images: SplitImages, source: Instance) -> SplitDetections:
    """Read the detections of a split."""
    table, wanted = DetectionTable(source).table, set(images.ids)
    found = {
        row["image_id"]: detections_from_row(row)
        for row in table.iter_rows()
        if row["split"] == images.split and row["image_id"] in wanted
    }
    images.missing(found, source, "detections", "are not asked for; --missing empty leaves them out")
    present = {image_id: found[image_id] for image_id in images.ids if image_id in found}
    return SplitDetections(of=images, class_names=table.class_names(), images=present)


def predictions_of(images: SplitImages, source: Instance, least_score: float) -> SplitPredictions:
    """Read the detections of a split that score ``least_score`` or more."""
    named, detected = pictures_of(images.index, images.split), DetectionTable(source)
    found = {image.image_id: image for image in detected.images() if image.split == images.split}
    absent = images.missing(found, source, "detections", "are not asked for")
    enough = {image_id: found[image_id].detections.score >= least_score for image_id in images.ids if image_id in found}
    drawn = {image_id: _is_drawn(found[image_id].detections) for image_id in enough}
    predicted = [
        LabelledImage(
            image_id,
            named.names[image_id],
            found[image_id].size_hw,
            _kept(found[image_id].detections, keep & drawn[image_id]),
            named.uris[image_id],
        )
        for image_id, keep in enough.items()
    ]
    return SplitPredictions(
        of=images,
        class_names=detected.class_names,
        supervision=detected.facts.supervision,
        pictures_root=named.root,
        images=predicted,
        missing=len(absent),
        least_score=least_score,
        without_mask=sum(int((keep & ~drawn[image_id]).sum()) for image_id, keep in enough.items()),
    )


def _is_drawn(found: Detections) -> NDArray[np.bool_]:
    """Return which detections have a pixel; without masks all of them."""
    masks = found.mask_rle
    return np.ones(len(found), np.bool_) if masks is None else rle_area(masks) > 0


def _kept(found: Detections, keep: NDArray[np.bool_]) -> Detections:
    """Return some of the detections of an image, best first."""
    order = np.flatnonzero(keep)[np.argsort(-found.score[keep], kind="stable")]
    return replace(
        found,
        boxes_xyxy=found.boxes_xyxy[order],
        class_index=found.class_index[order],
        score=found.score[order],
        mask_rle=None if found.mask_rle is None else [found.mask_rle[n] for n in order.tolist()],
    )


def pseudo_labels_of(images: SplitImages, source: Instance) -> SplitPseudoLabels:
    """Read the pseudo ground truth of a split."""
    named = pictures_of(images.index, images.split)
    product = registry.product_of(source)
    assert isinstance(product, PseudoLabelTable)
    found = {image.image_id: image for image in product.images() if image.split == images.split}
    absent = images.missing(found, source, "pseudo labels", "are not labelled; --missing empty leaves them out")
    labelled = [
        LabelledImage(
            image_id,
            named.names[image_id],
            found[image_id].size_hw,
            found[image_id].truth,
            named.uris[image_id],
        )
        for image_id in images.ids
        if image_id in found and len(found[image_id].truth)
    ]
    return SplitPseudoLabels(
        of=images,
        class_names=product.class_names,
        supervision=product.facts.supervision,
        pictures_root=named.root,
        images=labelled,
        missing=len(absent),
    )


def label_maps_of(images: SplitImages, source: Instance) -> SplitLabelMaps:
    """Read which classes the label maps of a split show."""
    product = registry.product_of(source)
    assert isinstance(product, LabelMapTable)
    names, table = pictures_of(images.index, images.split).names, product.table
    classes = {
        image_id: [n - 1 for n in np.unique(label_map).tolist() if n not in (BACKGROUND, IGNORED)]
        for image_id, label_map in _maps_of(table, set(images.ids))
    }
    images.missing(classes, source, "label map", "are not asked for; --missing empty leaves them out")
    return SplitLabelMaps(
        of=images,
        class_names=product.class_names,
        supervision=product.facts.supervision,
        file_names={image_id: names[image_id] for image_id in images.ids if image_id in classes},
        classes=classes,
        table=table,
    )


def _maps_of(table: Rows, image_ids: Container[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for row in table.iter_rows(("image_id", "label_map")):
        if row["image_id"] in image_ids:
            yield row["image_id"], label_map_from_row(row)


def read_split(proposals: Rows, split: str) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Return the boxes ``[N, 4]``, XYXY exclusive, and predicted IoUs ``[N]`` of a split's images by id, file by file."""
    boxes: dict[str, NDArray[np.float32]] = {}
    scores: dict[str, NDArray[np.float32]] = {}
    for part in proposals.iter_parts(_PROPOSALS):
        rows = part.filter(pc.equal(part["split"], split)).combine_chunks()
        column = rows["boxes_xyxy"].combine_chunks()
        ends = np.cumsum(pc.list_value_length(column).to_numpy(zero_copy_only=False))[:-1]
        flat = column.flatten().flatten().to_numpy().reshape(-1, 4)
        ious = rows["predicted_iou"].combine_chunks().flatten().to_numpy()
        ids = rows["image_id"].to_pylist()
        boxes.update(zip(ids, np.split(flat, ends), strict=False))
        scores.update(zip(ids, np.split(ious, ends), strict=False))
    return boxes, scores
