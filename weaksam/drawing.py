"""Boxes, masks, captions, points and heat maps on an image, for reports and notebooks.

Takes and gives PIL images, changes none in place.

Everything is drawn at the size at which it is looked at: ``fit`` first, then pass the scale that it returned. Colours
are Okabe and Ito's, which stay apart for colour-blind readers; every sign and every line wider than a pixel has a
dark rim, so it shows on any picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

SOURCE_COLOURS = {"grid": "#56b4e9", "fine": "#e69f00", "coarse": "#f07fc0", "cross": "#2fd1a0"}
KIND_COLOURS = {"grid": "#56b4e9", "semantic": "#e69f00", "class-joint": "#f07fc0", "instance": "#2fd1a0"}
TRUTH_COLOUR = "#f0e442"
OTHER_COLOUR = "#ffffff"
CLASS_COLOURS = ("#56b4e9", "#e69f00", "#2fd1a0", "#f07fc0", "#d55e00", "#ffffff")
_RIM = "#101418"
# Has letters of Latin, Greek, Cyrillic, Armenian, Georgian, Arabic and Hebrew names; Pillow's own font has those of ASCII.
_FONT = Path(__file__).with_name("fonts") / "DejaVuSans.ttf"
_CAPTION_SIZE = 13.0  # pixels, of the font
# Dark to light with rising lightness, so that it also reads in grey.
_HEAT = np.array([(13, 8, 60), (92, 20, 120), (186, 45, 98), (240, 116, 48), (253, 236, 130)], dtype=np.float64)


def fit(image: NDArray[np.uint8], longest_side: int) -> tuple[Image.Image, float]:
    """Scale an upright RGB image [H, W, 3] up or down so that its longer side is ``longest_side`` pixels.

    Returns:
        The picture, no side below one pixel, and the factor from the image's coordinates to the picture's.
    """
    height, width = image.shape[:2]
    scale = longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), scale


def draw_boxes(
    picture: Image.Image, boxes_xyxy: NDArray[np.float32], colours: Sequence[str], *, scale: float = 1.0, width: int = 2
) -> Image.Image:
    """Outline boxes [N, 4] (exclusive right and bottom, in pixels before ``scale``), one colour each, in their order."""
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    # A rectangle's right and bottom are inclusive for PIL; a box thinner than a pixel still shows as a line.
    corners = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4) * scale
    corners[:, 2:] = np.maximum(corners[:, 2:] - 1, corners[:, :2])
    for box, colour in zip(corners.tolist(), colours, strict=True):
        x1, y1, x2, y2 = box
        if width > 1:
            pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_RIM, width=width + 2)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=width)
    return drawn


def draw_masks(
    picture: Image.Image, masks: Iterable[NDArray[np.bool_]], colours: Sequence[str], *, opacity: float = 0.5
) -> Image.Image:
    """Colour the pixels of masks, each [H, W] of the image before it was fitted, in their order: later ones lie on top."""
    drawn = picture.convert("RGB")
    for mask, colour in zip(masks, colours, strict=True):
        share = Image.fromarray(mask.astype(np.uint8) * 255).resize(drawn.size, Image.Resampling.BILINEAR)
        drawn.paste(Image.new("RGB", drawn.size, colour), mask=share.point([round(opacity * n) for n in range(256)]))
    return drawn


def draw_outlines(picture: Image.Image, masks: Iterable[NDArray[np.bool_]], colours: Sequence[str]) -> Image.Image:
    """Line masks, each [H, W] of the image before it was fitted, along their inner edge, a pixel wide, in their order."""
    drawn = picture.convert("RGB")
    for mask, colour in zip(masks, colours, strict=True):
        inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(drawn.size, Image.Resampling.NEAREST)
        edge = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(3)))
        drawn.paste(Image.new("RGB", drawn.size, colour), mask=edge)
    return drawn


def draw_captions(
    picture: Image.Image,
    boxes_xyxy: NDArray[np.float32],
    captions: Sequence[str],
    colours: Sequence[str],
    *,
    scale: float = 1.0,
) -> Image.Image:
    """Write a line of text above the top left corner of each box [N, 4], or within the picture where there is no room."""
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    font = _caption_font()
    corners = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)[:, :2] * scale
    for (x, y), caption, colour in zip(corners.tolist(), captions, colours, strict=True):
        left, top, right, bottom = pen.textbbox((0, 0), caption, font=font)
        width, height = right - left + 4, bottom - top + 4
        x = min(max(x, 0), max(picture.width - width, 0))
        y = y - height if y >= height else min(max(y, 0), max(picture.height - height, 0))
        pen.rectangle((x, y, x + width - 1, y + height - 1), fill=_RIM)  # PIL includes the far corner
        pen.text((x + 2 - left, y + 2 - top), caption, fill=colour, font=font)
    return drawn


@cache
def _caption_font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_FONT, _CAPTION_SIZE)


def draw_points(
    picture: Image.Image, points_xy: NDArray[np.float32], kind: str, *, scale: float = 1.0, radius: float = 5.0
) -> Image.Image:
    """Mark the points [N, 2] of one prompt with the sign of its kind.

    A small dot is "grid", a disc "semantic", a diamond "instance"; the points of one "class-joint" prompt are squares
    tied to their centre. Any other kind gets a white disc.
    """
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    colour = KIND_COLOURS.get(kind, OTHER_COLOUR)
    centres = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2) * scale
    if kind == "class-joint" and len(centres) > 1:
        middle = tuple(centres.mean(axis=0).tolist())
        for x, y in centres.tolist():
            pen.line((*middle, x, y), fill=colour, width=2)
    for x, y in centres.tolist():
        if kind == "grid":
            small = radius * 0.4
            pen.ellipse((x - small, y - small, x + small, y + small), fill=colour)
        elif kind == "instance":
            corners = [(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)]
            pen.polygon(corners, fill=colour, outline=_RIM)
        elif kind == "class-joint":
            side = radius * 1.4  # leaves room for the sign of the same peak prompted alone
            pen.rectangle((x - side, y - side, x + side, y + side), outline=colour, width=2)
        else:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=_RIM)
    return drawn


def overlay_heat_map(picture: Image.Image, heat: NDArray[np.floating], *, opacity: float = 0.75) -> Image.Image:
    """Lay a map [h, w] in [0, 1], of any size, over a picture: dark violet is 0, light yellow is 1."""
    grey = Image.fromarray(np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8))
    values = np.asarray(grey.resize(picture.size, Image.Resampling.BILINEAR), dtype=np.float64) / 255
    return Image.blend(picture.convert("RGB"), Image.fromarray(heat_colours(values)), opacity)


def heat_colours(heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour a map: [h, w] in [0, 1] -> RGB [h, w, 3], piecewise linear between five anchors."""
    anchors = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(heat, anchors, channel) for channel in _HEAT.T]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), dtype=np.uint8)
