"""What flows through the method: images with labels, activation maps, prompts, proposals.

Letters used in every docstring of this package:

    B images    N boxes or masks    C classes    P prompts    M maps    H, W pixels of the upright original image

Boxes are float32 ``[N, 4]`` XYXY, absolute pixels of the upright (EXIF-transposed) image, right and bottom *exclusive*,
so that width is ``x2 - x1`` and the plain IoU is the published "legacy" one with its +1. Points are ``(x, y)`` pixels.
``class_index`` runs over 0..C-1 without a background class; -1 stands for "of no class".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weaksam.masks_np import Rle

if TYPE_CHECKING:  # tables are read without torch
    from torch import Tensor

# The order in which the proposals of one image are concatenated, prompted and exported (method 3.4). Where two boxes are
# equally good, the one that comes first is taken.
SOURCES = ("grid", "coarse", "fine", "cross")
MAP_KINDS = ("coarse", "fine", "cross")  # of activation maps; each is the source of the prompts that its peaks make
# The order in which tables add them up: the rows of Table 4.
TABLE_SOURCES = ("grid", "fine", "coarse", "cross")
SELECTIVE_SEARCH = "selective-search"
# What image-level labels are taken from: the names of annotated objects, or the set of classes in a segmentation.
LABELS_OF_OBJECTS, LABELS_OF_SEGMENTATION = "objects", "segmentation"
WHOLE_IMAGE = "whole-image"  # of the one box of an image that has no other
# What a table, a detector or a figure owes its boxes to: image-level labels, true boxes (``export --as pseudo-labels``) or true
# masks (the stage ``true-masks``).
IMAGE_LABELS, BOXES, MASKS = "image-labels", "boxes", "masks"
# The levels of SAM's three masks for a prompt that may mean several things, by their numbers.
SUBPART, PART, WHOLE = 0, 1, 2


def in_table_order(sources: Iterable[str]) -> list[str]:
    """Return sources, each once: the method's as tables add them up, then others by name."""
    found = set(sources)
    return [*(source for source in TABLE_SOURCES if source in found), *sorted(found - set(TABLE_SOURCES))]


@dataclass(frozen=True, kw_only=True, slots=True)  # data sets have millions
class ImageRecord:
    """One image of a data set and what is known of it without looking at boxes.

    ``labels`` are the classes with at least one object not marked difficult, ``labels_difficult`` the classes with any
    object; both sorted. ``None`` means unknown, an empty tuple means that none of the classes is present.
    """

    image_id: str
    uri: str
    split: str
    labels: tuple[int, ...] | None
    labels_difficult: tuple[int, ...] | None
    label_source: str = LABELS_OF_OBJECTS


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """The true objects of one image. Read by evaluation, analysis, report and export only, never by training."""

    boxes_xyxy: NDArray[np.float32]  # [N, 4]
    class_index: NDArray[np.int64]  # [N]
    difficult: NDArray[np.bool_]  # [N] VOC's difficult flag; never set by COCO
    crowd: NDArray[np.bool_]  # [N] COCO's iscrowd; never set by VOC
    cut: int = 0  # boxes that stuck out of their image and of which a part is kept
    left_out: int = 0  # boxes that are not here because nothing of them lies inside: empty, reversed or outside
    size_hw: tuple[int, int] = (0, 0)  # that the annotations state; 0 where they do not
    where: str = ""  # the file that states all this, for messages
    to_scale: bool = False  # boxes are pixels of ``size_hw`` and wait to be scaled to the picture's own size
    # [N], None for an object that has none; None: nobody asked for masks, or the annotations state none.
    mask_rle: Sequence[Rle | None] | None = None
    masks_left_out: int = 0  # masks that were asked for and are not here because they are of none of the objects

    def take(self, index: Sequence[int]) -> GroundTruth:
        """Return some of the objects, by their numbers, with all that is known of them and of the image."""
        at = np.asarray(index, np.int64)
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[at],
            class_index=self.class_index[at],
            difficult=self.difficult[at],
            crowd=self.crowd[at],
            mask_rle=None if self.mask_rle is None else [self.mask_rle[n] for n in at],
        )


def no_objects() -> GroundTruth:
    """The ground truth of an image that holds nothing."""
    nothing = np.zeros(0, np.bool_)
    return GroundTruth(
        boxes_xyxy=np.zeros((0, 4), np.float32), class_index=np.zeros(0, np.int64), difficult=nothing, crowd=nothing
    )


@dataclass(frozen=True, kw_only=True)
class ClassMaps:
    """Activation maps of one present class over one image, each min-max normalised to [0, 1]; float32 ``[M, H, W]``.

    Keys of ``maps`` are kinds: "coarse" and "fine" hold one map, "cross" one per (head, layer), head-major. A kind of which
    there is no map is left out.
    """

    class_index: int
    maps: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of one source for one image: each prompt is one or more positive points, prompted together.

    ``points_xy`` holds one float32 ``[n_p, 2]`` array per prompt. ``kind`` is "grid", "semantic" (one CAM peak),
    "class-joint" (all peaks of one class together) or "instance" (one cluster of cross-attention peaks).
    """

    source: str
    points_xy: Sequence[NDArray[np.float32]]
    kind: Sequence[str]
    class_index: Sequence[int]

    def __len__(self) -> int:
        return len(self.points_xy)


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Class-agnostic object proposals of one image, all sources concatenated in the order of ``SOURCES``.

    Row n of the boxes came from prompt ``prompt_index[n]`` of the prompts below (-1: from no prompt) as SAM's mask
    number ``mask_index[n]`` (0 sub-part, 1 part, 2 whole; -1: from no mask).
    """

    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]  # [N, 4]
    source: Sequence[str]  # [N]
    prompt_index: NDArray[np.int32]  # [N]
    mask_index: NDArray[np.int8]  # [N]
    predicted_iou: NDArray[np.float32]  # [N], NaN where no SAM was asked
    discarded: dict[tuple[str, str], int] = field(default_factory=dict)  # (source, reason) -> boxes
    prompts: Sequence[Prompts] = ()  # prompt_index counts through these in order
    mask_rle: Sequence[Rle] | None = None  # one per box, only when asked for

    def __len__(self) -> int:
        return len(self.boxes_xyxy)


@dataclass(frozen=True, kw_only=True)
class AutomaticMasks:
    """What SAM finds in one image where it is asked for everything; masks may overlap, and need not cover the image."""

    size_hw: tuple[int, int]
    mask_rle: Sequence[Rle]  # [N], each with at least one pixel
    level: NDArray[np.int8]  # [N] SUBPART, PART or WHOLE
    area: NDArray[np.int32]  # [N] pixels
    boxes_xyxy: NDArray[np.float32]  # [N, 4], tight around the masks
    predicted_iou: NDArray[np.float32]  # [N] SAM's own estimate; near [0, 1] but not bound to it
    stability: NDArray[np.float32]  # [N] in [0, 1]
    point_xy: NDArray[np.float32]  # [N, 2], the prompt
    crop_xyxy: NDArray[np.float32]  # [N, 4], the part of the image that SAM saw

    def __len__(self) -> int:
        return len(self.mask_rle)

    def take(self, index: Sequence[int]) -> AutomaticMasks:
        """Return some of the masks, by their numbers, with all that is known of them."""
        at = np.asarray(index, np.int64)
        return AutomaticMasks(
            size_hw=self.size_hw,
            mask_rle=[self.mask_rle[n] for n in at],
            level=self.level[at],
            area=self.area[at],
            boxes_xyxy=self.boxes_xyxy[at],
            predicted_iou=self.predicted_iou[at],
            stability=self.stability[at],
            point_xy=self.point_xy[at],
            crop_xyxy=self.crop_xyxy[at],
        )


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Classified and scored boxes of one image, in any order."""

    boxes_xyxy: NDArray[np.float32]  # [N, 4]
    class_index: NDArray[np.int64]  # [N]
    score: NDArray[np.float32]  # [N]
    image_scores: NDArray[np.float32]  # [C] of the whole image for each class, NaN where unknown
    mask_rle: Sequence[Rle] | None = None  # [N]; None where the detector finds no masks

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def take(self, index: Sequence[int]) -> Detections:
        """Return some of the detections, by their numbers; the scores of the image stay."""
        at = np.asarray(index, np.int64)
        return Detections(
            boxes_xyxy=self.boxes_xyxy[at],
            class_index=self.class_index[at],
            score=self.score[at],
            image_scores=self.image_scores,
            mask_rle=None if self.mask_rle is None else [self.mask_rle[n] for n in at],
        )


@dataclass(frozen=True, kw_only=True)
class PseudoGroundTruth:
    """What a detector is retrained on for one image: boxes that another detector's scores (or a person) vouch for."""

    boxes_xyxy: NDArray[np.float32]  # [N, 4]
    class_index: NDArray[np.int64]  # [N]
    score: NDArray[np.float32]  # [N] of the detection that a box was
    score_normalised: NDArray[np.float32]  # [N] in [0, 1] among the image's detections of the class
    mask_rle: Sequence[Rle] | None = None  # [N]; None where nobody has made masks of the boxes

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def take(self, index: Sequence[int]) -> PseudoGroundTruth:
        """Return some of the boxes, by their numbers, with all that is known of them."""
        at = np.asarray(index, np.int64)
        return PseudoGroundTruth(
            boxes_xyxy=self.boxes_xyxy[at],
            class_index=self.class_index[at],
            score=self.score[at],
            score_normalised=self.score_normalised[at],
            mask_rle=None if self.mask_rle is None else [self.mask_rle[n] for n in at],
        )
