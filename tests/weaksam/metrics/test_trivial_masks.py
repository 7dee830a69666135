import cv2
import numpy as np
import pytest

from weaksam.metrics.trivial_masks import GrabCutInBox, filled_box, inscribed_ellipse

BLANK = np.zeros((6, 8, 3), np.uint8)
RULES = [
    pytest.param(filled_box, id="box"),
    pytest.param(inscribed_ellipse, id="ellipse"),
    pytest.param(GrabCutInBox(), id="grabcut"),
]


def box(*xyxy):
    return np.array(xyxy, np.float32)


def extent(mask):
    """The box of a mask that fills it."""
    y, x = np.nonzero(mask)
    assert len(x) == (x.max() + 1 - x.min()) * (y.max() + 1 - y.min())
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


@pytest.mark.parametrize(
    ("box_xyxy", "expected"),
    [
        pytest.param((1, 2, 4, 5), [1, 2, 4, 5], id="whole-pixels"),
        pytest.param((0, 0, 8, 6), [0, 0, 8, 6], id="the-whole-image"),
        pytest.param((7, 5, 8, 6), [7, 5, 8, 6], id="one-pixel"),
        pytest.param((0.5, 0.4, 3.5, 3.6), [0, 0, 3, 4], id="a-centre-on-the-left-is-in-and-on-the-right-is-not"),
        pytest.param((0.6, 0.6, 3.4, 3.4), [1, 1, 3, 3], id="centres-outside"),
        pytest.param((2.6, 3.1, 3.3, 3.4), [2, 3, 3, 4], id="between-centres"),
        pytest.param((7.9, 5.9, 8, 6), [7, 5, 8, 6], id="a-speck-in-the-corner"),
        pytest.param((-5, -5, 2, 3), [0, 0, 2, 3], id="sticking-out-at-the-origin"),
        pytest.param((6, 4, 20, 20), [6, 4, 8, 6], id="sticking-out-at-the-end"),
        pytest.param((-9, 2, 99, 3), [0, 2, 8, 3], id="a-row"),
    ],
)
def test_a_filled_box_holds_the_pixels_whose_centres_it_holds(box_xyxy, expected):
    mask = filled_box(BLANK, box(*box_xyxy))
    assert (mask.dtype, mask.shape) == (np.bool_, (6, 8))
    assert extent(mask) == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "box_xyxy",
    [
        pytest.param((8, 0, 9, 6), id="right-of-the-image"),
        pytest.param((0, -3, 4, 0), id="above"),
        pytest.param((3, 3, 3, 5), id="empty"),
        pytest.param((5, 3, 3, 5), id="reversed"),
        pytest.param((np.nan, 3, 3, 5), id="nan"),
    ],
)
def test_a_box_of_which_nothing_is_in_the_image_is_refused(rule, box_xyxy):
    with pytest.raises(ValueError, match="expected a box with a part in an image of 6 x 8 pixels"):
        rule(BLANK, box(*box_xyxy))


def text(mask):
    return ["".join("#" if pixel else "." for pixel in row) for row in mask]


@pytest.mark.parametrize(
    ("box_xyxy", "expected"),
    [
        # From the centre of 4 x 4, corners are 1.5 / 2 away in both directions: .5625 * 2 > 1; beside them .5625 + .0625.
        pytest.param((1, 1, 5, 5), ["........", "..##....", ".####...", ".####...", "..##....", "........"], id="circle"),
        pytest.param((0, 1, 8, 3), ["........", ".######.", ".######.", "........", "........", "........"], id="flat"),
        pytest.param((2, 1, 4, 3), ["........", "..##....", "..##....", "........", "........", "........"], id="2-x-2"),
        pytest.param((0, 5, 8, 6), [*["........"] * 5, "########"], id="a-line"),
        pytest.param((7, 5, 8, 6), [*["........"] * 5, ".......#"], id="one-pixel"),
        pytest.param((3.1, 2.6, 3.3, 3.3), [*["........"] * 2, "...#....", *["........"] * 3], id="between-centres"),
        # A circle around (0, 3): 5.5 across and 2.5 down is a little further than its radius of 6.
        pytest.param((-6, -3, 6, 9), ["#####...", *["######.."] * 4, "#####..."], id="sticking-out"),
    ],
)  # fmt: skip
def test_the_ellipse_of_a_box(box_xyxy, expected):
    assert text(inscribed_ellipse(BLANK, box(*box_xyxy))) == expected


def test_a_large_ellipse_holds_its_share_of_the_box():
    mask = inscribed_ellipse(np.zeros((300, 400, 3), np.uint8), box(20, 10, 380, 290))
    assert mask.sum() / (360 * 280) == pytest.approx(np.pi / 4, abs=1e-3)
    assert (mask == mask[:, ::-1]).all()
    assert (mask == mask[::-1]).all()


def bright_square(noise=60):
    """A noisy image of 60 x 80 pixels with a bright square at (30, 20) to (50, 40)."""
    image = np.random.default_rng(0).integers(0, noise, (60, 80, 3)).astype(np.uint8)
    image[20:40, 30:50] += 150
    return image


@pytest.mark.parametrize("box_xyxy", [(25, 15, 55, 45), (20.4, 10, 60, 50.3), (0, 0, 80, 59)])
def test_grabcut_cuts_a_bright_square_out(box_xyxy):
    rule = GrabCutInBox()
    assert extent(rule(bright_square(), box(*box_xyxy))) == [30, 20, 50, 40]
    assert (rule.masks, rule.fell_back) == (1, 0)


def test_grabcut_stays_in_the_box():
    mask = GrabCutInBox()(bright_square(), box(35, 10, 70, 35))
    assert mask.any()
    assert not (mask & ~filled_box(bright_square(), box(35, 10, 70, 35))).any()


@pytest.mark.parametrize(
    ("image", "box_xyxy"),
    [
        pytest.param(bright_square(), (0, 0, 80, 60), id="the-whole-image"),
        pytest.param(bright_square(), (-10, -10, 90, 70), id="more-than-the-image"),
        pytest.param(bright_square(), (40, 30, 41, 31), id="one-pixel"),
        pytest.param(bright_square(), (0, 0, 1, 1), id="one-pixel-in-the-corner"),
        pytest.param(np.full((60, 80, 3), 100, np.uint8), (25, 15, 55, 45), id="an-image-of-one-colour"),
        pytest.param(np.full((1, 1, 3), 100, np.uint8), (0, 0, 1, 1), id="an-image-of-one-pixel"),
    ],
)
def test_where_grabcut_fails_the_box_is_filled_and_counted(image, box_xyxy):
    rule = GrabCutInBox()
    assert (rule(image, box(*box_xyxy)) == filled_box(image, box(*box_xyxy))).all()
    assert (rule.masks, rule.fell_back) == (1, 1)


def test_grabcut_repeats_itself_whatever_was_drawn_before():
    rng = np.random.default_rng(2)
    image = rng.integers(0, 120, (40, 50, 3)).astype(np.uint8)
    image[8:30, 10:40] = np.clip(image[8:30, 10:40] + rng.integers(-20, 140, (22, 30, 3)), 0, 255)
    image = cv2.GaussianBlur(image, (0, 0), 1)  # of which GrabCut takes 640 or 646 pixels, as its random numbers are
    masks = []
    for seed in range(6):
        cv2.setRNGSeed(seed)
        masks.append(GrabCutInBox()(image, box(5, 5, 45, 35)))
    assert all((mask == masks[0]).all() for mask in masks)
    assert 0 < masks[0].sum() < 40 * 30


@pytest.mark.parametrize("image", [np.zeros((6, 8), np.uint8), np.zeros((6, 8, 4), np.uint8), BLANK.astype(np.float32)])
def test_grabcut_refuses_what_is_no_picture(image):
    with pytest.raises(ValueError, match=r"expected an image uint8 \[H, W, 3\], got"):
        GrabCutInBox()(image, box(1, 1, 3, 3))


@pytest.mark.parametrize("rule", RULES)
def test_the_image_is_left_as_it_was(rule):
    image = bright_square()
    rule(image, box(25, 15, 55, 45))
    assert (image == bright_square()).all()
