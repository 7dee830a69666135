import pytest
import torch
import torch.nn.functional as F

from tests.support.tolerances import assert_near, roundings_in
from weaksam.detectors.retrained.dino.neck import ImageGroupNorm, Neck, geometry_of, real_cells

SIZES = torch.tensor([[64, 96], [96, 64], [40, 33]])


def test_cells_belong_to_an_image_if_they_show_a_pixel_of_it():
    found = real_cells((3, 3), 32, SIZES)
    assert found.tolist() == [
        [[True, True, True], [True, True, True], [False, False, False]],
        [[True, True, False], [True, True, False], [True, True, False]],
        [
            [True, True, False],
            [True, True, False],
            [False, False, False],
        ],  # row 1 shows 8 pixels, column 1 a single one
    ]


def test_geometry_by_hand():
    geometry = geometry_of([(2, 3), (1, 2)], [32, 64], torch.tensor([[64, 96], [32, 48]]))
    assert geometry.shapes_hw == ((2, 3), (1, 2))
    # The second map is 128 pixels wide and 64 high.
    expected = [[[1, 1], [0.75, 1]], [[0.5, 0.5], [0.375, 0.5]]]
    assert_near(geometry.image_share_xy, torch.tensor(expected))
    x, y = geometry.centres_xy.unbind(dim=2)
    assert_near(x[0] * 96, torch.tensor([16.0, 48, 80, 16, 48, 80, 32, 96]))
    assert_near(y[0] * 64, torch.tensor([16.0, 16, 16, 48, 48, 48, 32, 32]))
    assert_near(x[1] * 48, x[0] * 96)
    assert geometry.real.tolist() == [[True] * 8, [True, True, False, False, False, False, True, False]]


def test_without_padding_the_norm_is_a_group_norm():
    torch.manual_seed(0)
    norm = ImageGroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    maps = torch.randn(2, 8, 3, 5) * 3 + 1
    expected = F.group_norm(maps, 4, norm.weight, norm.bias)
    assert_near(norm(maps, torch.ones(2, 3, 5, dtype=torch.bool)), expected, length=30)  # numbers of a group


def test_the_norm_does_not_measure_the_padding():
    norm = ImageGroupNorm(4, 8)
    maps = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    real = torch.zeros(2, 4, 4, dtype=torch.bool)
    real[0, :2, :3] = real[1, :1, :1] = True
    found = norm(maps, real)
    assert_near(found[:1, :, :2, :3], norm(maps[:1, :, :2, :3], real[:1, :2, :3]), length=32)
    assert not found[1, :, 1:].any()
    assert found.isfinite().all()  # two numbers per group of the second image


def neck_of(levels, dim=32):
    torch.manual_seed(0)
    return Neck((4, 8), (6, 10), levels=levels, dim=dim)


@pytest.mark.parametrize(("levels", "strides"), [(2, [4, 8]), (3, [4, 8, 16]), (5, [4, 8, 16, 32, 64])])
def test_missing_maps_are_made_with_stride_2(levels, strides):
    neck = neck_of(levels)
    assert neck.strides == strides
    maps = [torch.randn(3, 6, 24, 24), torch.randn(3, 10, 12, 12)]
    cells, geometry = neck(maps, SIZES)
    sides = [24, 12, 6, 3, 2][:levels]  # the last one of 3 cells
    assert geometry.shapes_hw == tuple((side, side) for side in sides)
    assert cells.shape == (3, sum(side**2 for side in sides), 32)
    assert not cells[~geometry.real].any()


def test_padding_does_not_change_an_images_cells():
    neck = neck_of(4)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, 6, 24, 24, generator=generator), torch.randn(3, 10, 12, 12, generator=generator)]
    together, geometry = neck(maps, SIZES)
    for row, (height, width) in enumerate(SIZES.tolist()):
        h, w = -(-height // 32) * 8, -(-width // 32) * 8  # cells at stride 4 of the image padded to 32 pixels
        alone, own = neck(
            [maps[0][row : row + 1, :, :h, :w], maps[1][row : row + 1, :, : h // 2, : w // 2]], SIZES[row : row + 1]
        )
        assert_near(together[row, geometry.real[row]], alone[0, own.real[0]], length=roundings_in(neck))
        assert_near(geometry.centres_xy[row, geometry.real[row]], own.centres_xy[0, own.real[0]])
