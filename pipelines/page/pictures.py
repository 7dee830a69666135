"""Pictures of images with what was found in them: objects, heat maps, prompts, proposals, detections, pseudo labels, maps."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam.drawing import (
    CLASS_COLOURS,
    OTHER_COLOUR,
    SOURCE_COLOURS,
    TRUTH_COLOUR,
    draw_boxes,
    draw_masks,
    draw_outlines,
    draw_points,
    fit,
    heat_colours,
    overlay_heat_map,
)
from weaksam.label_maps import BACKGROUND, IGNORED
from weaksam.masks_np import decode_rle
from weaksam.structures import AutomaticMasks, Detections, GroundTruth, Prompts, Proposals, PseudoGroundTruth

IGNORED_COLOUR = "#808080"  # of pixels that nobody decides about
TOP_COLOUR = "#56b4e9"  # of a top detection that failed; tells from the yellow of true objects for every reader

_QUALITY = 78  # of WebP: sharp enough for lines, about 10 kB for a picture of 320 pixels
_MOST_CLASSES = 4  # whose heat maps are shown
_MOST_BOXES = 200  # drawn of one source; more hide the picture
_THIN_ABOVE = 25  # boxes: more are drawn with thin lines
_CONFUSION_SIDE = 324  # pixels, at least, of a confusion matrix
_MOST_DETECTIONS = 10  # drawn on an image, as of proposals where they are all that was found


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of the page; ``data_uri`` holds all of it."""

    data_uri: str
    width: int
    height: int
    alt: str
    caption: str
    legend: Sequence[tuple[str, str]] = ()  # (colour, what it stands for)


class Fitted(NamedTuple):
    """An image at the size at which its pictures are shown."""

    picture: Image.Image
    scale: float  # from the image's coordinates to the picture's


def fitted(image: NDArray[np.uint8], side: int) -> Fitted:
    """Scale an upright RGB image ``[H, W, 3]`` so that its longer side is ``side`` pixels; once for all of its pictures."""
    return Fitted(*fit(image, side))


def true_objects(image: Fitted, truth: GroundTruth | None, class_names: Sequence[str]) -> Picture:
    """The image, with its true boxes where they are known."""
    picture, scale = image
    if truth is None:
        return _encoded(picture, "The image; its true objects are not known", "image, no true boxes")
    names = Counter(class_names[c] for c in truth.class_index.tolist())
    listed = ", ".join(f"{count} {name}" for name, count in sorted(names.items())) or "none"
    drawn = draw_boxes(picture, truth.boxes_xyxy, [TRUTH_COLOUR] * len(truth.boxes_xyxy), scale=scale, width=3)
    return _encoded(drawn, f"The image with its true objects outlined: {listed}", f"true objects: {listed}")


def prompts(image: Fitted, prompts: Sequence[Prompts]) -> Picture:
    """The points that SAM was prompted with, by kind; the grid below the clues."""
    drawn, scale = image
    counts: Counter[str] = Counter()
    for of_source in prompts:
        radius = _grid_radius(len(of_source), max(drawn.size)) if of_source.source == "grid" else 5.0
        for kind, points_xy in _signs(of_source):
            drawn = draw_points(drawn, points_xy, kind, scale=scale, radius=radius)
        counts.update(of_source.kind)
    listed = ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none"
    return _encoded(drawn, f"The image with its prompts marked: {listed}", f"prompts: {listed}")


def proposals(image: Fitted, proposals: Proposals) -> list[Picture]:
    """The proposed boxes, one picture per source, in the order of the table."""
    of_box = np.array(proposals.source, dtype=np.str_)
    pictures = []
    for source in dict.fromkeys(proposals.source):
        boxes_xyxy = proposals.boxes_xyxy[of_box == source]
        shown = boxes_xyxy[:_MOST_BOXES]
        colours = [SOURCE_COLOURS.get(source, OTHER_COLOUR)] * len(shown)
        drawn = draw_boxes(image.picture, shown, colours, scale=image.scale, width=1 if len(shown) > _THIN_ABOVE else 3)
        count = _boxes(len(boxes_xyxy))
        if len(shown) < len(boxes_xyxy):
            count = f"first {len(shown)} of {count}"
        pictures.append(_encoded(drawn, f"The image with {count} from {source}", f"{source}: {count}"))
    return pictures


def detections(image: Fitted, found: Detections, class_names: Sequence[str], *, name: str, min_score: float) -> Picture:
    """The best detections, at most ten, of a score of at least ``min_score``, one colour per class, with masks if there are."""
    picture, scale = image
    order = np.argsort(-found.score, kind="stable")
    good = order[found.score[order] >= min_score]
    shown = good[:_MOST_DETECTIONS]
    scores: dict[int, list[str]] = {}
    for n in shown.tolist():
        scores.setdefault(int(found.class_index[n]), []).append(f"{found.score[n]:.2g}")
    colours = _class_colours(scores)
    of_box = [colours[c] for c in found.class_index[shown].tolist()]
    if found.mask_rle is not None:
        masks = (decode_rle(found.mask_rle[n]) for n in shown[::-1].tolist())
        picture = draw_masks(picture, masks, of_box[::-1])
    drawn = draw_boxes(picture, found.boxes_xyxy[shown[::-1]], of_box[::-1], scale=scale, width=3)  # the best on top
    legend = [(colours[c], f"{class_names[c]} {', '.join(of_class)}") for c, of_class in scores.items()]
    listed = "; ".join(text for _, text in legend) or "none"
    caption = _detections_caption(found, class_names, order, len(good), min_score)
    return _encoded(
        drawn, f"The image with its best detections outlined: {listed}", f"{name}: {caption}", legend=legend
    )


def pseudo_labels(image: Fitted, truth: PseudoGroundTruth, class_names: Sequence[str], *, name: str) -> Picture:
    """The pseudo boxes, one colour per class, and their masks where there are some."""
    picture, scale = image
    counts = Counter(truth.class_index.tolist())
    colours = _class_colours(counts)
    of_box = [colours[c] for c in truth.class_index.tolist()]
    if truth.mask_rle is not None:
        picture = draw_masks(picture, map(decode_rle, truth.mask_rle), of_box)
    drawn = draw_boxes(picture, truth.boxes_xyxy, of_box, scale=scale, width=3 if truth.mask_rle is None else 1)
    legend = [(colours[c], f"{count} {class_names[c]}") for c, count in counts.items()]
    listed = ", ".join(text for _, text in legend) or "none"
    what = _boxes(len(truth), "pseudo ") if truth.mask_rle is None else _masks(len(truth), "pseudo ")
    return _encoded(drawn, f"The image with its {what}: {listed}", f"{name}: {what}", legend=legend)


def true_masks(image: Fitted, truth: GroundTruth, class_names: Sequence[str]) -> Picture:
    """The image with its true masks, one colour per class; objects that have none are outlined by their boxes."""
    classes = truth.class_index.tolist()
    colours = _class_colours(dict.fromkeys(classes))
    masks = [(rle, colours[c]) for rle, c in zip(truth.mask_rle or (), classes, strict=True) if rle is not None]
    drawn = draw_masks(image.picture, (decode_rle(rle) for rle, _ in masks), [colour for _, colour in masks])
    drawn = draw_boxes(drawn, truth.boxes_xyxy, [colours[c] for c in classes], scale=image.scale, width=1)
    legend = [(colours[c], class_names[c]) for c in dict.fromkeys(classes)]
    return _encoded(drawn, "The image with its true masks", f"true: {_masks(len(masks))}", legend=legend)


def plain(image: Fitted) -> Picture:
    """The image and nothing else."""
    return _encoded(image.picture, "The image", "image")


def label_maps(image: Fitted, maps: Mapping[str, NDArray[np.uint8]], class_names: Sequence[str]) -> list[Picture]:
    """The image in grey under each of some label maps ``[H, W]``, by their names; a class has one colour in all of them."""
    grey = image.picture.convert("L")
    numbers = {name: np.unique(label_map).tolist() for name, label_map in maps.items()}
    shown = sorted({n for of_map in numbers.values() for n in of_map} - {BACKGROUND, IGNORED})
    colours = {**_class_colours(shown), IGNORED: IGNORED_COLOUR}
    pictures = []
    for name, label_map in maps.items():
        of_map = [n for n in numbers[name] if n != BACKGROUND]
        drawn = draw_masks(grey, (label_map == n for n in of_map), [colours[n] for n in of_map])
        legend = [(colours[n], "undecided" if n == IGNORED else class_names[n - 1]) for n in of_map]
        listed = ", ".join(text for _, text in legend) or "background alone"
        caption = name if of_map else f"{name}: {listed}"
        pictures.append(_encoded(drawn, f"The image with its pixels coloured by class: {listed}", caption, legend))
    return pictures


def superpixels(image: Fitted, masks: AutomaticMasks, *, name: str) -> Picture:
    """The image in grey under its superpixels, wholes on top; colours repeat, outlines tell neighbours apart."""
    order = np.argsort(masks.level, kind="stable").tolist()
    drawn_masks = [decode_rle(masks.mask_rle[n]) for n in order]
    colours = [CLASS_COLOURS[n % len(CLASS_COLOURS)] for n in order]
    drawn = draw_masks(image.picture.convert("L"), drawn_masks, colours, opacity=0.35)
    count = f"{len(masks):,}" if len(masks) else "none"
    return _encoded(
        draw_outlines(drawn, drawn_masks, colours), f"The image with its superpixels: {count}", f"{name}: {count}"
    )


def confusion(pixels: NDArray[np.int64], alt: str, caption: str) -> Picture:
    """A confusion matrix ``[N, N]``, true classes down, predicted ones across: shares of each row, dark 0, light 1."""
    shares = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    cells = Image.fromarray(heat_colours(shares))
    side = len(pixels) * max(1, math.ceil(_CONFUSION_SIDE / len(pixels)))
    return _encoded(cells.resize((side, side), Image.Resampling.NEAREST), alt, caption)


def best_proposals(image: Fitted, proposals: Proposals, *, name: str) -> Picture:
    """The ten proposals whose masks SAM rates best, each in the colour of its source; the first where none is rated."""
    picture, scale = image
    shown = np.argsort(-proposals.predicted_iou, kind="stable")[:_MOST_DETECTIONS]  # NaN comes last
    colours = [SOURCE_COLOURS.get(proposals.source[n], OTHER_COLOUR) for n in shown.tolist()]
    drawn = draw_boxes(picture, proposals.boxes_xyxy[shown], colours, scale=scale, width=2)
    what = f"{len(shown)} of {_boxes(len(proposals.boxes_xyxy))}"
    return _encoded(drawn, f"The image with the best {what} outlined", f"{name}: {what}")


def _class_colours(classes: Iterable[int]) -> dict[int, str]:
    return {c: CLASS_COLOURS[n % len(CLASS_COLOURS)] for n, c in enumerate(classes)}


def _boxes(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}{'box' if count == 1 else 'boxes'}"


def _masks(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}{'mask' if count == 1 else 'masks'}"


def _detections_caption(
    found: Detections, class_names: Sequence[str], order: NDArray[np.intp], good: int, min_score: float
) -> str:
    if not len(found):
        return "no detections"
    if not good:
        best = f"{class_names[found.class_index[order[0]]]} {found.score[order[0]]:.2g}"
        return f"no detection scores {min_score:g} or more; the best, {best}"
    count = f"{good:,} {'detection scores' if good == 1 else 'detections score'} {min_score:g} or more"
    return f"{count}; the best {_MOST_DETECTIONS}" if good > _MOST_DETECTIONS else count


def failure(
    image: Fitted,
    objects_xyxy: NDArray[np.float32],
    boxes_xyxy: NDArray[np.float32],
    *,
    caption: str,
) -> Picture:
    """The true objects [G, 4] of one class and, over them, the class's top detection [1, 4], or [0, 4] without one."""
    picture, scale = image
    colours = [TRUTH_COLOUR] * len(objects_xyxy) + [TOP_COLOUR] * len(boxes_xyxy)
    drawn = draw_boxes(picture, np.concatenate([objects_xyxy, boxes_xyxy]), colours, scale=scale, width=3)
    return _encoded(drawn, f"The class's true objects and its top detection outlined: {caption}", caption)


def heat_maps(
    image: Fitted,
    maps: Mapping[tuple[int, str], NDArray[np.float32]],
    class_names: Sequence[str],
) -> list[Picture]:
    """The activation maps over the image, class by class, at most four classes; of a class as they come, by their sources."""
    pictures = []
    for class_index in sorted({class_index for class_index, _ in maps})[:_MOST_CLASSES]:
        for source in (source for of_class, source in maps if of_class == class_index):
            drawn = overlay_heat_map(image.picture, maps[class_index, source])
            name = class_names[class_index]
            pictures.append(_encoded(drawn, f"Heat map of {name}, {source}", f"{name}, {source} map"))
    return pictures


def similarity(matrix_png: bytes, alt: str, caption: str) -> Picture:
    """Show a matrix that is a grey PNG of one pixel per element; not larger than it is, and without lines."""
    with Image.open(io.BytesIO(matrix_png)) as picture:
        return _encoded(picture, alt, caption)


def _signs(prompts: Prompts) -> list[tuple[str, NDArray[np.float32]]]:
    """Group what is drawn at once: the points of each class-joint prompt, and those of all other prompts of a kind."""
    alone: dict[str, list[NDArray[np.float32]]] = {}
    joint = []
    for points_xy, kind in zip(prompts.points_xy, prompts.kind, strict=True):
        if kind == "class-joint":
            joint.append((kind, points_xy))
        else:
            alone.setdefault(kind, []).append(points_xy)
    return joint + [(kind, np.concatenate(points)) for kind, points in alone.items()]


def _grid_radius(points: int, side: int) -> float:
    """Dots that leave most of the picture visible, however dense the grid."""
    spacing = side / math.sqrt(max(points, 1))
    return min(6.0, max(2.5, 0.4 * spacing))


def _encoded(picture: Image.Image, alt: str, caption: str, legend: Sequence[tuple[str, str]] = ()) -> Picture:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=_QUALITY)
    data_uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(
        data_uri=data_uri, width=picture.width, height=picture.height, alt=alt, caption=caption, legend=legend
    )
