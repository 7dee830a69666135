import numpy as np
import pytest
from PIL import Image, ImageColor

from weaksam.drawing import (
    KIND_COLOURS,
    SOURCE_COLOURS,
    draw_boxes,
    draw_captions,
    draw_masks,
    draw_outlines,
    draw_points,
    fit,
    heat_colours,
    overlay_heat_map,
)


def black(width=100, height=80):
    return Image.new("RGB", (width, height))


@pytest.mark.parametrize(
    ("size_hw", "expected", "scale"),
    [
        pytest.param((100, 200, 3), (320, 160), 1.6, id="enlarged"),
        pytest.param((4000, 3000, 3), (240, 320), 0.08, id="reduced"),
        pytest.param((1, 1, 3), (320, 320), 320, id="one-pixel"),
        pytest.param((4000, 1, 3), (1, 320), 0.08, id="thin-keeps-a-pixel"),
    ],
)
def test_fit_sets_the_longest_side(size_hw, expected, scale):
    picture, factor = fit(np.zeros(size_hw, np.uint8), 320)
    assert picture.size == expected
    assert factor == pytest.approx(scale)


def test_a_box_is_outlined_at_its_scaled_pixels():
    drawn = draw_boxes(black(), np.array([(10, 10, 30, 25)], np.float32), ["#ff0000"], scale=2, width=1)
    assert drawn.getpixel((20, 20)) == (255, 0, 0)
    assert drawn.getpixel((59, 49)) == (255, 0, 0)  # last pixel inside the exclusive corner (60, 50)
    assert drawn.getpixel((40, 35)) == (0, 0, 0)


def test_drawing_changes_nothing_in_place_and_accepts_nothing_to_draw():
    picture = black()
    untouched = np.asarray(picture).copy()
    draw_boxes(picture, np.array([(0, 0, 50, 50)], np.float32), ["#ffffff"])
    draw_points(picture, np.array([(5, 5)], np.float32), "semantic")
    overlay_heat_map(picture, np.ones((2, 2)))
    np.testing.assert_array_equal(np.asarray(picture), untouched)
    np.testing.assert_array_equal(np.asarray(draw_boxes(picture, np.zeros((0, 4), np.float32), [])), untouched)
    np.testing.assert_array_equal(np.asarray(draw_points(picture, np.zeros((0, 2), np.float32), "grid")), untouched)


def test_boxes_outside_thin_or_on_one_pixel_are_drawn_without_failing():
    boxes = np.array([(-50, -50, 500, 500), (10, 10, 10.2, 40), (0, 0, 0, 0)], np.float32)
    assert draw_boxes(black(1, 1), boxes, ["#fff"] * 3).size == (1, 1)
    assert draw_boxes(black(), boxes, ["#fff"] * 3).size == (100, 80)


def test_every_kind_of_point_has_its_own_sign():
    points = np.array([(20, 20), (60, 50)], np.float32)
    pictures = {kind: np.asarray(draw_points(black(), points, kind)) for kind in (*KIND_COLOURS, "imported")}
    for kind, colour in KIND_COLOURS.items():
        assert (pictures[kind] == ImageColor.getrgb(colour)).all(axis=-1).any(), kind
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures)


def test_sources_and_kinds_have_distinct_colours():
    assert len(set(SOURCE_COLOURS.values())) == len(SOURCE_COLOURS)
    assert len(set(KIND_COLOURS.values())) == len(KIND_COLOURS)


def test_heat_runs_from_dark_to_light():
    row = heat_colours(np.linspace(0, 1, 101)[None])[0].astype(float)
    lightness = row @ (0.2126, 0.7152, 0.0722)
    assert row.shape == (101, 3)
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (400, 300)], ids=str)
def test_a_heat_map_of_any_size_covers_the_picture(shape):
    hot = np.asarray(overlay_heat_map(black(), np.ones(shape), opacity=1.0))
    np.testing.assert_array_equal(hot.reshape(-1, 3).min(axis=0), heat_colours(np.ones((1, 1)))[0, 0])
    assert hot.shape == (80, 100, 3)


def test_a_caption_stands_above_its_box_or_within_the_picture_where_there_is_no_room():
    picture = Image.new("RGB", (200, 100), "#808080")
    boxes = np.array([[50, 60, 90, 90], [190, 2, 200, 40]], np.float32)
    drawn = np.asarray(draw_captions(picture, boxes, ["dog 0.50", "cat"], ["#ffffff", "#ffffff"]), int)
    rows, columns = np.nonzero((drawn != 128).any(axis=2))
    above = rows[columns < 150]
    assert above.max() < 60
    assert above.min() > 30
    assert columns[columns < 150].min() == 50
    inside = columns[columns >= 150]
    assert inside.max() == 199
    assert rows[columns >= 150].min() == 2
    assert (drawn == 255).any()
    assert np.array_equal(np.asarray(draw_captions(picture, boxes[:0], [], [])), np.asarray(picture))


def test_names_of_many_alphabets_can_be_told_apart():
    def drawn(name: str) -> bytes:
        box = np.array([[5, 50, 90, 90]], np.float32)
        return draw_captions(Image.new("RGB", (200, 100)), box, [name], ["#ffffff"]).tobytes()

    names = ["\uffff" * 2, "äß", "éł", "çñ", "Ёж", "ωδ", "עב", "عب", "კა", "հա"]  # the first has no letter in any font
    assert len({drawn(name) for name in names}) == len(names)


def test_masks_colour_their_pixels_at_the_picture_s_size_later_ones_on_top():
    left, all_of_it = np.zeros((8, 10), bool), np.ones((8, 10), bool)
    left[:, :5] = True
    picture, before = black(), black()
    drawn = draw_masks(picture, [left], ["#ff0000"], opacity=0.5)
    assert drawn.getpixel((20, 40)) == (128, 0, 0)
    assert drawn.getpixel((80, 40)) == (0, 0, 0)
    assert picture.tobytes() == before.tobytes()
    both = draw_masks(black(), [left, all_of_it], ["#ff0000", "#0000ff"], opacity=1)
    assert both.getpixel((20, 40)) == (0, 0, 255)
    assert draw_masks(black(), [], []).getpixel((20, 40)) == (0, 0, 0)


def test_masks_are_lined_within_their_edge():
    mask = np.zeros((8, 8), np.bool_)
    mask[2:6, 0:5] = True
    drawn = np.asarray(draw_outlines(Image.new("RGB", (8, 8)), [mask], ["#ff0000"]))[..., 0] == 255
    expected = mask.copy()
    expected[3:5, 0:4] = False  # the image's own border is no edge
    assert drawn.tolist() == expected.tolist()
