"""Drawn images with exact boxes and masks: a data set of any size that needs no download.

Every image is a pure function of one integer. It holds one to four objects of six shape classes over a textured
background with lines and class-agnostic blobs. Colour narrows the class down but does not decide it, nearly every object
carries a small marking that only weakly tells its class, and objects hide parts of one another: what makes weakly
supervised detection hard in photographs, in miniature. Nothing here is learned from or looks like photographs.

Seeds form one space of integers, cut into ranges that never meet:

    0 .. 3·10⁹ - 1            data sets: (seed · 3 + split) · 10⁶ + index, for seed 0..999 and split train, val, test
    from 4·10⁹, 10⁸ each      ``RESERVED``: images that the built-in models train on and are tested on; no recipe
                              reaches them
"""

from __future__ import annotations

import colorsys
import copy
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from weaksam.config import DataConfig, ShapesConfig
from weaksam.datasets.label_maps import MapsOfObjects, TrueLabelMaps
from weaksam.datasets.passed_over import PassedOver
from weaksam.errors import DataError, ImageError
from weaksam.masks_np import encode_rle
from weaksam.structures import GroundTruth, ImageRecord

CLASS_NAMES = ("ellipse", "rectangle", "triangle", "star", "ring", "cross")
SPLITS = ("train", "val", "test")
RESERVED = (
    "sam-train",
    "sam-val",
    "sam-test",
    "clues-train",
    "clues-val",
    "clues-test",
    "clip-train",
    "clip-val",
    "clip-test",
)

DRAWING_VERSION = 1  # part of fingerprints and contents: raise it whenever the same seed draws another image
IMAGES_PER_SPLIT = 1_000_000
RESERVED_START = 4_000_000_000
RESERVED_LENGTH = 100_000_000

NUM_OBJECTS_PROBABILITY = (0.2, 0.35, 0.3, 0.15)  # of 1, 2, 3, 4 objects: 2.4 on average
MIN_VISIBLE = 0.6  # of an object's own pixels; objects below it are marked difficult
MIN_VISIBLE_DIFFICULT = 0.3  # what a difficult object keeps at least
DIFFICULT_PROBABILITY = 0.2  # that one object may hide another down to MIN_VISIBLE_DIFFICULT
MIN_SIDE = 0.12  # of the image size; objects with a shorter box side are marked difficult
HUE_LINK = 0.85  # probability that the hue group is class % 3
MARKING_PROBABILITY = 0.96
MARKING_LINK = 0.3  # probability that the class picks the marking; else any of six: .3 + .7 / 6 = 42 % agree
MIN_CONTRAST = 110  # sum over R, G, B of the difference between an object's colour and the ground's, 0..765
SUPERSAMPLE = 4  # outlines are rasterised at this multiple of the image and averaged down

Polygon = NDArray[np.float64]  # [n, 2] x, y


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One drawn image and everything that is true of it. Object k (0-based) has the value k + 1 in the maps."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    instance_map: NDArray[np.uint8]  # [H, W] 0 = background, else the object that is visible here
    part_map: NDArray[np.uint8]  # [H, W] visible pixels of the object's marking; inside instance_map's object
    distractor_map: NDArray[np.uint8]  # [H, W] visible pixels of the class-agnostic blobs, counted from 1
    class_index: NDArray[np.int64]  # [N]
    boxes_xyxy: NDArray[np.float32]  # [N, 4] around the visible pixels, right and bottom exclusive
    difficult: NDArray[np.bool_]  # [N] mostly hidden or tiny


class Shapes:
    """The data set: ``ShapesConfig`` says how many images of which size; they are drawn when asked for."""

    kind: ClassVar[str] = "shapes"
    class_names: ClassVar[tuple[str, ...]] = CLASS_NAMES

    def __init__(self, config: ShapesConfig, *, splits: Sequence[str] = ()) -> None:
        """Choose the splits to use; () = all that hold an image. Raises ``DataError`` for one that does not."""
        self._config = config
        self._counts = {split: int(getattr(config, split)) for split in SPLITS}
        available = tuple(split for split in SPLITS if self._counts[split])
        if unknown := [split for split in splits if split not in available]:
            raise DataError(f"data.splits: {', '.join(unknown)} not in shapes:, which has {', '.join(available)}")
        self.splits: tuple[str, ...] = tuple(splits) or available

    @classmethod
    def from_config(cls, config: DataConfig) -> Shapes:
        """Open the data set that ``config`` means."""
        return cls(config.shapes, splits=config.splits)

    def records(self, split: str) -> list[ImageRecord]:
        """One record per image of ``split``, in order. Raises ``DataError`` for a split that does not exist."""
        records = []
        for index, truth in self._truths(split):
            easy = truth.class_index[~truth.difficult]
            records.append(
                ImageRecord(
                    image_id=_image_id(split, index),
                    uri=shape_uri(split, index, self._config),
                    split=split,
                    labels=tuple(sorted({int(c) for c in easy})),
                    labels_difficult=tuple(sorted({int(c) for c in truth.class_index})),
                )
            )
        return records

    def ground_truth(self, split: str, *, masks: bool = False) -> dict[str, GroundTruth]:
        """The true objects of every image of ``split`` by image id; masks are of their visible pixels."""
        truths = {_image_id(split, index): truth for index, truth in self._truths(split)}
        return {image_id: self._with_masks(image_id, of) for image_id, of in truths.items()} if masks else truths

    def true_label_maps(self, split: str) -> TrueLabelMaps:
        """Drawn of the objects' visible pixels, of every image."""
        return MapsOfObjects(truth=self.ground_truth(split, masks=True))

    def masks(self, image_id: str) -> NDArray[np.bool_]:
        """Visible pixels of every object of one image, ``[N, H, W]``, in the order of its ground truth."""
        split, _, number = image_id.rpartition("-")
        if split not in self.splits or not number.isdecimal() or int(number) >= self._counts[split]:
            raise DataError(f"shapes: no image {image_id!r}; ids run like {_image_id('train', 17)!r}")
        scene = _lay_out(data_set_seed(self._config.seed, split, int(number)), self._config.size)
        numbers = np.arange(1, len(scene.objects) + 1, dtype=np.uint8)
        return np.asarray(scene.instance_map[None] == numbers[:, None, None], bool)

    def _with_masks(self, image_id: str, truth: GroundTruth) -> GroundTruth:
        return replace(truth, mask_rle=[encode_rle(mask) for mask in self.masks(image_id)])

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """Nothing: the images are drawn."""
        return ()

    def fingerprint(self) -> str:
        """Changes when any image would change: the drawing's version and the options."""
        return hashlib.sha256(f"shapes v{DRAWING_VERSION} {self._config}".encode()).hexdigest()[:16]

    def _truths(self, split: str) -> Iterator[tuple[int, GroundTruth]]:
        if split not in SPLITS:
            raise DataError(f"shapes: expected a split of {', '.join(SPLITS)}, got {split!r}")
        for index in range(self._counts[split]):
            truth = _truth(data_set_seed(self._config.seed, split, index), self._config.size)
            yield index, copy.deepcopy(truth)  # whoever asks may write into its own


def data_set_seed(seed: int, split: str, index: int) -> int:
    """The drawing seed of image ``index`` (0..999,999) of ``split`` of data set ``seed`` (0..999)."""
    if not (0 <= seed < 1000 and split in SPLITS and 0 <= index < IMAGES_PER_SPLIT):
        raise DataError(
            f"shapes: expected seed 0..999, a split of {', '.join(SPLITS)} and index 0..{IMAGES_PER_SPLIT - 1:,}, "
            f"got {seed}, {split!r}, {index}"
        )
    return (seed * len(SPLITS) + SPLITS.index(split)) * IMAGES_PER_SPLIT + index


def reserved_seed(purpose: str, index: int) -> int:
    """The drawing seed of image ``index`` of one of ``RESERVED``; no data set draws it."""
    if not (purpose in RESERVED and 0 <= index < RESERVED_LENGTH):
        raise DataError(
            f"shapes: expected a purpose of {', '.join(RESERVED)} and index 0..{RESERVED_LENGTH - 1:,}, "
            f"got {purpose!r}, {index}"
        )
    return RESERVED_START + RESERVED.index(purpose) * RESERVED_LENGTH + index


def shape_uri(split: str, index: int, config: ShapesConfig) -> str:
    """Address of one image that says all there is to draw it: ```shapes:train/17?size=128&seed=0``."""
    return f"shapes:{split}/{index}?size={config.size}&seed={config.seed}"


def read_shape_png(uri: str) -> bytes:
    """Draw the image at ``uri`` as a PNG file. Raises ``ImageError("missing")`` when it is no such address."""
    scheme, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    split, _, index = path.partition("/")
    try:
        options = {name: int(value) for name, value in parse_qsl(query, strict_parsing=True)}
        if scheme != "shapes" or set(options) != {"size", "seed"}:
            raise ValueError("it has other parts")
        config = ShapesConfig(**options)
        image = draw(data_set_seed(config.seed, split, int(index)), config.size).image
    except ValueError as error:
        raise ImageError(
            "missing", f"expected an address like shapes:train/17?size=128&seed=0, got {uri} ({error})"
        ) from None
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def draw(seed: int, size: int) -> Drawing:
    """Draw the image of ``seed``, ``size`` x ``size`` pixels (32 or more). Same arguments, same pixels."""
    scene = _lay_out(seed, size)
    truth = scene.truth()
    return Drawing(
        image=_paint(scene, seed),
        instance_map=scene.instance_map,
        part_map=scene.part_map,
        distractor_map=scene.distractor_map,
        class_index=truth.class_index,
        boxes_xyxy=truth.boxes_xyxy,
        difficult=truth.difficult,
    )


def _image_id(split: str, index: int) -> str:
    return f"{split}-{index:05d}"


# ---------------------------------------------------------------------------------------------------- what is where


class _Window(NamedTuple):
    """Part of an image; right and bottom exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    def of(self, image: NDArray[Any]) -> NDArray[Any]:
        """View of this part of ``image``."""
        return image[self.y0 : self.y1, self.x0 : self.x1]


@dataclass(frozen=True)
class _Stencil:
    """A rasterised outline: its window of the image and how much of each pixel it covers."""

    window: _Window
    coverage: NDArray[np.float32]  # [h, w] 0..1

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels that are at least half covered."""
        return self.coverage >= 0.5


@dataclass(frozen=True)
class _Object:
    class_index: int
    body: _Stencil
    marking: _Stencil | None
    area: int  # pixels, hidden ones included


@dataclass(frozen=True)
class _Scene:
    """Everything but the paint."""

    size: int
    objects: Sequence[_Object]  # later ones lie on top
    blobs: Sequence[_Stencil]  # behind every object
    instance_map: NDArray[np.uint8]
    part_map: NDArray[np.uint8]
    distractor_map: NDArray[np.uint8]

    def truth(self) -> GroundTruth:
        """Boxes around visible pixels, classes and difficulty of the objects."""
        boxes = np.zeros((len(self.objects), 4), np.float32)
        difficult = np.zeros(len(self.objects), bool)
        for k, item in enumerate(self.objects):
            visible = item.body.window.of(self.instance_map) == k + 1
            columns, rows = np.flatnonzero(visible.any(0)), np.flatnonzero(visible.any(1))
            x, y = item.body.window.x0, item.body.window.y0
            boxes[k] = x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1
            side = min(boxes[k, 2] - boxes[k, 0], boxes[k, 3] - boxes[k, 1])
            difficult[k] = visible.sum() < MIN_VISIBLE * item.area or side < MIN_SIDE * self.size
        return GroundTruth(
            boxes_xyxy=boxes,
            class_index=np.array([item.class_index for item in self.objects], np.int64),
            difficult=difficult,
            crowd=np.zeros(len(self.objects), bool),
        )


@lru_cache(maxsize=10_000)  # the labels, the true boxes and every stage that measures ask for the same images
def _truth(seed: int, size: int) -> GroundTruth:
    return _lay_out(seed, size).truth()


def _lay_out(seed: int, size: int) -> _Scene:
    rng = np.random.Generator(np.random.PCG64(seed))
    instance_map = np.zeros((size, size), np.uint8)
    part_map = np.zeros((size, size), np.uint8)
    distractor_map = np.zeros((size, size), np.uint8)

    blobs = []
    for k in range(rng.integers(0, 4)):
        outline = _place([_blob(rng)], size * rng.uniform(0.06, 0.18), rng.uniform(0.6, 1), rng, size)
        blobs.append(_stencil(outline, _Window(0, 0, size, size)))
        blobs[k].window.of(distractor_map)[blobs[k].mask] = k + 1

    objects: list[_Object] = []
    for _ in range(1 + rng.choice(len(NUM_OBJECTS_PROBABILITY), p=NUM_OBJECTS_PROBABILITY)):
        min_visible = MIN_VISIBLE_DIFFICULT if rng.random() < DIFFICULT_PROBABILITY else MIN_VISIBLE
        for _attempt in range(8):
            item = _random_object(rng, size)
            if _leaves_visible(item.body, objects, instance_map, min_visible):
                objects.append(item)
                for values, value in ((instance_map, len(objects)), (part_map, 0), (distractor_map, 0)):
                    item.body.window.of(values)[item.body.mask] = value
                if item.marking is not None:
                    on_object = item.marking.window.of(instance_map) == len(objects)
                    item.marking.window.of(part_map)[item.marking.mask & on_object] = len(objects)
                break
    return _Scene(size, objects, blobs, instance_map, part_map, distractor_map)


def _leaves_visible(
    body: _Stencil, objects: Sequence[_Object], instance_map: NDArray[np.uint8], min_visible: float
) -> bool:
    """Whether every earlier object keeps ``min_visible`` of its pixels once ``body`` lies on top."""
    hidden = np.bincount(body.window.of(instance_map)[body.mask], minlength=len(objects) + 1)
    visible = np.bincount(instance_map.ravel(), minlength=len(objects) + 1)
    return all(
        hidden[k + 1] == 0 or visible[k + 1] - hidden[k + 1] >= min_visible * item.area
        for k, item in enumerate(objects)
    )


def _random_object(rng: np.random.Generator, size: int) -> _Object:
    class_index = int(rng.integers(len(CLASS_NAMES)))
    radius = size * rng.uniform(0.13, 0.27)
    body = _stencil(
        _place(_outline(class_index, rng), radius, rng.uniform(0.65, 1), rng, size), _Window(0, 0, size, size)
    )
    marking = _marking(class_index, body, radius, rng) if rng.random() < MARKING_PROBABILITY else None
    return _Object(class_index, body, marking, int(body.mask.sum()))


def _outline(class_index: int, rng: np.random.Generator) -> list[Polygon]:
    """Outline of a class in a disc of radius 1; a second polygon is a hole."""
    name = CLASS_NAMES[class_index]
    if name == "ellipse":
        return [_regular(36)]
    if name == "rectangle":
        return [_regular(4, 45)]
    if name == "triangle":
        return [_regular(3)]
    if name == "star":
        spokes = int(rng.integers(5, 7))
        radii = np.tile([1.0, rng.uniform(0.4, 0.55)], spokes)
        return [_regular(2 * spokes) * radii[:, None]]
    if name == "ring":
        return [_regular(36), _regular(36) * rng.uniform(0.45, 0.62)]
    arm = rng.uniform(0.26, 0.4)
    quarter = np.array([(arm, arm), (arm, 1), (-arm, 1)])
    turns = [quarter @ np.array([(c, s), (-s, c)]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return [np.concatenate(turns)]


def _marking(class_index: int, body: _Stencil, radius: float, rng: np.random.Generator) -> _Stencil:
    """A small figure on the object, at the one of four random places where most of it lies on the object."""
    kind = class_index if rng.random() < MARKING_LINK else int(rng.integers(len(CLASS_NAMES)))
    disc, square = _regular(16), _regular(4, 45)
    figures: list[list[Polygon]] = [
        [disc],
        [square * (1.2, 0.4)],
        [disc * 0.5 - (0.6, 0), disc * 0.5 + (0.6, 0)],
        [_regular(3)],
        [square * (1.1, 0.28) - (0, 0.5), square * (1.1, 0.28) + (0, 0.5)],
        [square * (1.2, 0.32), square * (0.32, 1.2)],
    ]
    angle, scale = rng.uniform(0, 360), max(radius * rng.uniform(0.18, 0.28), 2.0)
    turned = [_turn(polygon, angle) * scale for polygon in figures[kind]]
    rows, columns = np.nonzero(body.mask)
    tries = []
    for pixel in rng.integers(0, len(rows), 4):
        centre = (body.window.x0 + columns[pixel], body.window.y0 + rows[pixel])
        figure = _stencil([polygon + centre for polygon in turned], body.window, union=True)
        left, top = figure.window.x0 - body.window.x0, figure.window.y0 - body.window.y0
        height, width = figure.coverage.shape
        on_body = figure.coverage * body.coverage[top : top + height, left : left + width]
        tries.append(_Stencil(figure.window, on_body))
    return max(tries, key=lambda stencil: float(stencil.coverage.sum()))


def _blob(rng: np.random.Generator) -> Polygon:
    """A closed wavy outline of no class: a circle plus three harmonics."""
    angles = np.arange(0, 360, 10, dtype=np.float64)
    radii = np.ones(len(angles))
    for harmonic in (2, 3, 4):
        radii += rng.uniform(0, 0.55) / harmonic * _cosine(angles * harmonic + rng.uniform(0, 360))
    return np.asarray(_regular(36) * (radii / radii.max())[:, None], np.float64)


@lru_cache
def _regular(corners: int, start: float = 0.0) -> Polygon:
    """Regular polygon on the unit circle, its first corner ``start`` degrees past straight up."""
    angles = np.arange(corners, dtype=np.float64) * 360 / corners + start
    return np.stack([_cosine(angles - 90), _cosine(angles - 180)], axis=1)


def _cosine(degrees: NDArray[np.float64] | float) -> NDArray[np.float64]:
    # Rounded, so that the last digit of a platform's cosine cannot move a corner to the next sub-pixel.
    return np.asarray(np.round(np.cos(np.deg2rad(degrees)), 7), np.float64)


def _turn(polygon: Polygon, degrees: float) -> Polygon:
    c, s = float(_cosine(degrees)), float(_cosine(degrees - 90))
    return np.asarray(polygon @ np.array([(c, s), (-s, c)]), np.float64)


def _place(
    polygons: Sequence[Polygon], radius: float, aspect: float, rng: np.random.Generator, size: int
) -> list[Polygon]:
    """Scale to ``radius`` pixels (``aspect`` times that in height), turn, and move to where all of it is inside."""
    angle = rng.uniform(0, 360)
    turned = [_turn(polygon * (radius, radius * aspect), angle) for polygon in polygons]
    low, high = turned[0].min(0), turned[0].max(0)
    offset = rng.uniform(1 - low, size - 1 - high)
    return [polygon + offset for polygon in turned]


def _stencil(polygons: Sequence[Polygon], within: _Window, *, union: bool = False) -> _Stencil:
    """Rasterise the first polygon, cut to ``within``; the others are holes, or with ``union`` more of the same."""
    corners = np.concatenate(polygons)
    (low_x, low_y), (high_x, high_y) = corners.min(0), corners.max(0)
    window = _Window(
        max(math.floor(low_x), within.x0),
        max(math.floor(low_y), within.y0),
        min(math.floor(high_x) + 1, within.x1),
        min(math.floor(high_y) + 1, within.y1),
    )
    canvas = Image.new("L", ((window.x1 - window.x0) * SUPERSAMPLE, (window.y1 - window.y0) * SUPERSAMPLE))
    pen = ImageDraw.Draw(canvas)
    for k, polygon in enumerate(polygons):
        points = np.rint((polygon - (window.x0, window.y0)) * SUPERSAMPLE).astype(int)
        pen.polygon([(x, y) for x, y in points.tolist()], fill=255 if union or k == 0 else 0)
    return _Stencil(window, np.asarray(canvas.reduce(SUPERSAMPLE), np.float32) / np.float32(255))


# ------------------------------------------------------------------------------------------------------------ paint

Colour = NDArray[np.float32]  # [3] RGB 0..255
TEXTURES = ("flat", "stripes", "waves", "checks", "dots", "clouds")


def _paint(scene: _Scene, seed: int) -> NDArray[np.uint8]:
    rng = np.random.Generator(np.random.PCG64([seed, 1]))  # apart from the layout, which labels are read from alone
    size = scene.size
    whole = _Stencil(_Window(0, 0, size, size), np.ones((size, size), np.float32))
    ground = _colour(rng, (0, 1), saturation=(0.05, 0.5), value=(0.25, 0.9))
    image = _textured(whole, ground, size, rng)

    for _ in range(rng.integers(0, 4)):
        _cover(image, _line(rng, size), _colour(rng, (0, 1)))
    for blob in scene.blobs:
        _cover(image, blob, _textured(blob, _colour(rng, (0, 1), unlike=ground), size, rng))
    for item in scene.objects:
        group = item.class_index % 3 if rng.random() < HUE_LINK else int(rng.integers(3))
        colour = _colour(rng, ((group - 0.36) / 3, (group + 0.36) / 3), unlike=ground)
        _cover(image, item.body, _textured(item.body, colour, size, rng))
        if item.marking is not None:
            _cover(image, item.marking, _colour(rng, (0, 1), unlike=colour))

    noise = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8).astype(np.float32)
    image += (noise[0] - noise[1]) * (rng.uniform(1, 10) / 104)  # 104 levels: standard deviation of the difference
    return (np.clip(image, 0, 255) + np.float32(0.5)).astype(np.uint8)


def _cover(image: NDArray[np.float32], stencil: _Stencil, paint: NDArray[np.float32]) -> None:
    below = stencil.window.of(image)
    below += stencil.coverage[..., None] * (paint - below)


def _colour(
    rng: np.random.Generator,
    hue: tuple[float, float],
    *,
    saturation: tuple[float, float] = (0.4, 0.95),
    value: tuple[float, float] = (0.4, 0.98),
    unlike: Colour | None = None,
) -> Colour:
    """A random colour of the given ranges (hue wraps at 1), if possible some way from ``unlike``."""
    for _attempt in range(6):
        hsv = rng.uniform(hue[0], hue[1]) % 1, rng.uniform(*saturation), rng.uniform(*value)
        colour = np.array(colorsys.hsv_to_rgb(*hsv), np.float32) * 255
        if unlike is None or np.abs(colour - unlike).sum() >= MIN_CONTRAST:
            break
    return colour


def _textured(stencil: _Stencil, colour: Colour, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Paint for the stencil's window, ``[h, w, 3]``: a two-coloured pattern under a linear shading."""
    window = stencil.window
    angle = rng.uniform(0, 360)
    c, s = np.float32(_cosine(angle)), np.float32(_cosine(angle - 90))
    x = np.arange(window.x0, window.x1, dtype=np.float32)[None, :]
    y = np.arange(window.y0, window.y1, dtype=np.float32)[:, None]
    along, across = x * c + y * s, y * c - x * s

    kind = TEXTURES[rng.integers(len(TEXTURES))]
    period = np.float32(size * rng.uniform(0.045, 0.12))
    u, v = along / period, across / period
    u, v = u - np.floor(u), v - np.floor(v)
    if kind == "flat":
        pattern = np.zeros_like(u)
    elif kind == "stripes":
        pattern = (u < rng.uniform(0.3, 0.7)).astype(np.float32)
    elif kind == "waves":
        pattern = np.abs(2 * u - 1)
    elif kind == "checks":
        pattern = ((u < 0.5) ^ (v < 0.5)).astype(np.float32)
    elif kind == "dots":
        pattern = ((u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.09).astype(np.float32)
    else:
        cells = rng.integers(0, 256, (rng.integers(3, 9),) * 2, dtype=np.uint8)
        cloud = Image.fromarray(cells).resize((window.x1 - window.x0, window.y1 - window.y0), Image.Resampling.BICUBIC)
        pattern = np.asarray(cloud, np.float32) / 255

    second = colour + rng.uniform(-90, 90, 3).astype(np.float32) * np.float32(rng.uniform(0.3, 1))
    middle = np.float32((window.x0 + window.x1) / 2) * c + np.float32((window.y0 + window.y1) / 2) * s
    extent = max(window.x1 - window.x0, window.y1 - window.y0)
    shade = 1 + (along - middle) * np.float32(rng.uniform(0, 0.6) / extent)
    return np.asarray((colour + pattern[..., None] * (second - colour)) * shade[..., None], np.float32)


def _line(rng: np.random.Generator, size: int) -> _Stencil:
    """A thin bar anywhere on the ground."""
    bar = _turn(
        _regular(4, 45) * (rng.uniform(0.15, 0.8) * size, max(rng.uniform(0.005, 0.016) * size, 0.7)),
        rng.uniform(0, 360),
    )
    return _stencil([bar + rng.uniform(0.1 * size, 0.9 * size, 2)], _Window(0, 0, size, size))
