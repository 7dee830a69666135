from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tests.support.small_memory import let_few_fit
from tests.support.tolerances import assert_near, near, roundings_in
from weaksam.clues.cam import MultiScaleCam
from weaksam.clues.resnet_cam import ResNetCam
from weaksam.clues.weaktr import WeakTr
from weaksam.config import CamConfig, ResNetCamConfig, WeakTrConfig
from weaksam.errors import ConfigError

KINDS = ("fine", "coarse", "cross")
CLASSES = 5
CONTRAST = 4.0  # maps of these networks are stretched to [0, 1] from values up to so many times their spread


class Watched(WeakTr):
    """Remembers for which classes and sizes maps were computed."""

    asked: list[tuple[int, ...]]
    sizes_hw: list[tuple[int, ...]]

    def activation_maps(
        self, images: Tensor, class_index: Sequence[int], kinds: Sequence[str], cross_layers: Sequence[int]
    ) -> dict[str, Tensor]:
        self.asked = [*getattr(self, "asked", []), tuple(class_index)]
        self.sizes_hw = [*getattr(self, "sizes_hw", []), tuple(images.shape[2:])]
        return super().activation_maps(images, class_index, kinds, cross_layers)


def network() -> Watched:
    torch.manual_seed(0)
    built = Watched(
        WeakTrConfig(patch_size=8, dim=32, depth=3, heads=2, position_grid=4, fusion="feat", fusion_reduction=2),
        CLASSES,
    )
    with torch.no_grad():  # attention and fine maps with a contrast that 1e-8 does not blur
        for name, parameter in built.named_parameters():
            if "qkv.weight" in name:
                parameter.normal_(std=0.4)
            elif name in ("patch_embed.proj.weight", "head.weight"):
                parameter.normal_(std=0.2)
    return built


def source(built: WeakTr | ResNetCam, kinds: Sequence[str] = KINDS, **cam: object) -> MultiScaleCam:
    return MultiScaleCam(
        built,
        class_names=[f"c{i}" for i in range(CLASSES)],
        class_slots=range(CLASSES),
        kinds=kinds,
        config=CamConfig(**{"cross_layers": (), **cam}),  # type: ignore[arg-type]
    )


def picture(height: int, width: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (max(height // 6, 1), max(width // 6, 1), 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@torch.no_grad()
def test_maps_are_the_sum_over_scales_and_mirrors_stretched_to_one() -> None:
    built, image = network(), picture(45, 62)
    clues = source(built, scales=(1.0, 0.8, 1.3))
    (got,) = clues.class_maps(image, [3])

    totals = {kind: torch.zeros(6 if kind == "cross" else 1, 45, 62) for kind in KINDS}
    for width, height in ((62, 45), (50, 36), (81, 58)):  # 58.5 rounds to even
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        for mirrored in (False, True):
            pixels = np.array(resized, dtype=np.float32)[:, :: -1 if mirrored else 1].copy() / 255
            pixels = (pixels - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
            inputs = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
            for kind, maps in built.activation_maps(inputs, [3], KINDS, ()).items():
                full = F.interpolate(maps[0], size=(45, 62), mode="bilinear", align_corners=False)[0]
                totals[kind] += full.flip(-1) if mirrored else full
    for kind, total in totals.items():
        for m, one in enumerate(total):
            assert one.abs().max() <= CONTRAST * (one.max() - one.min())
            expected = (one - one.min()) / (one.max() - one.min() + 1e-8)
            assert_near(got.maps[kind][m], expected, length=roundings_in(built), magnitude=CONTRAST)
            assert got.maps[kind][m].min() == 0
            assert got.maps[kind][m].max() == near(1.0, length=16, magnitude=CONTRAST)  # but for the 1e-8


def test_maps_of_a_mirrored_image_are_mirrored() -> None:
    image = picture(61, 83)
    built = network()
    clues = source(built, scales=(1.0,))
    (upright,) = clues.class_maps(image, [1])
    (mirrored,) = clues.class_maps(np.ascontiguousarray(image[:, ::-1]), [1])
    for kind in KINDS:
        assert_near(mirrored.maps[kind].flip(-1), upright.maps[kind], length=roundings_in(built), magnitude=CONTRAST)


def test_absent_classes_are_never_computed_and_classes_come_in_the_asked_order() -> None:
    built = network()
    maps = source(built).class_maps(picture(40, 48), [4, 0])
    assert not hasattr(built, "asked")  # nothing runs before the first map is wanted
    assert [one.class_index for one in maps] == [4, 0]
    assert built.asked == [(4, 0)] * 6


def test_no_class_costs_no_pass() -> None:
    built = network()
    assert list(source(built).class_maps(picture(40, 48), [])) == []
    assert not hasattr(built, "asked")


def test_a_class_has_the_same_maps_with_and_without_company() -> None:
    image = picture(40, 48)
    built = network()
    clues = source(built)
    (alone,) = clues.class_maps(image, [2])
    *_, together = clues.class_maps(image, [0, 1, 2])
    for kind in KINDS:
        assert_near(alone.maps[kind], together.maps[kind], length=roundings_in(built), magnitude=CONTRAST)
    (again,) = clues.class_maps(image, [2])
    assert all(torch.equal(alone.maps[kind], again.maps[kind]) for kind in KINDS)


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 3), (1, 90), (7, 8), (8, 8)], ids=str)
def test_images_smaller_than_a_token_still_have_maps(size_hw: tuple[int, int]) -> None:
    clues = source(network())
    image = picture(*size_hw)
    (maps,) = clues.class_maps(image, [0])
    assert maps.maps["coarse"].shape == (1, *size_hw)
    assert maps.maps["cross"].shape == (6, *size_hw)
    assert all(torch.isfinite(m).all() and m.min() >= 0 and m.max() <= 1 for m in maps.maps.values())
    assert torch.isfinite(clues.logits(image)).all()


def test_a_map_of_zeros_stays_one() -> None:
    built = network()
    with torch.no_grad():
        built.head.bias.fill_(-1e3)
    (maps,) = source(built).class_maps(picture(40, 48), [0])
    assert not maps.maps["coarse"].any()
    assert not maps.maps["fine"].any()
    assert maps.maps["cross"].any()


def test_images_beyond_max_side_are_seen_at_it() -> None:
    built = network()
    (maps,) = source(built, scales=(1.0, 0.5), max_side=64).class_maps(picture(100, 200), [0])
    assert built.sizes_hw == [(32, 64), (32, 64), (16, 32), (16, 32)]
    assert maps.maps["coarse"].shape == (1, 100, 200)


def test_half_precision_gives_nearly_the_same_maps() -> None:
    built, image = network(), picture(48, 64)
    (full,) = source(built).class_maps(image, [0])
    (half,) = source(built, autocast_fp16=True).class_maps(image, [0])
    for kind in KINDS:
        assert half.maps[kind].dtype == torch.float32
        assert_near(half.maps[kind], full.maps[kind], dtype=torch.float16, length=3, magnitude=CONTRAST)  # 3 blocks


class TwoMaps(nn.Module):
    """A network of one class whose maps are given: of the image, then of its mirror image, as that one lies."""

    kinds, depth, smallest_side = ("coarse",), 1, 1

    def __init__(self, upright: Sequence[float], mirrored: Sequence[float]) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.rows = [upright, mirrored]

    def activation_maps(self, *_: object) -> dict[str, Tensor]:
        return {"coarse": torch.tensor(self.rows.pop(0), dtype=torch.float16).reshape(1, 1, 1, 1, -1)}


def test_in_half_precision_the_passes_are_added_in_single_precision() -> None:
    # Beside 1, half precision has 1 + 2**-10 next: added in it, 1 + 2**-11 would be 1 and tie with the pixel beside it.
    clues = MultiScaleCam(
        TwoMaps([1.0, 1.0, 0.0], mirrored=[0.0, 0.0, 2.0**-11]),  # type: ignore[arg-type]
        class_names=["c"], class_slots=[0], kinds=["coarse"], config=CamConfig(scales=(1.0,), autocast_fp16=True),
    )  # fmt: skip
    (maps,) = clues.class_maps(picture(1, 3), [0])
    assert maps.maps["coarse"][0, 0].tolist() == pytest.approx([1.0, 1 / (1 + 2.0**-11), 0.0], abs=1e-6)
    assert maps.maps["coarse"][0, 0, 1] < maps.maps["coarse"][0, 0, 0]


def test_each_pass_is_enlarged_in_half_precision() -> None:
    # From 2 to 4 pixels the inner two are 3/4 and 1/4 of the way: 1 + 3/4 * 2**-10 is 1 + 2**-10 in half precision and
    # 1 + 1/4 * 2**-10 is 1. Twice that: 2, 2, 2 + 2**-9, 2 + 2**-9, which stretched is 0, 0, 1, 1.
    row = [1.0, 1.0 + 2.0**-10]
    clues = MultiScaleCam(
        TwoMaps(row, mirrored=row[::-1]),  # type: ignore[arg-type]
        class_names=["c"], class_slots=[0], kinds=["coarse"], config=CamConfig(scales=(1.0,), autocast_fp16=True),
    )  # fmt: skip
    (maps,) = clues.class_maps(picture(1, 4), [0])
    assert maps.maps["coarse"][0, 0].tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-4)


def test_slots_say_which_output_a_class_is() -> None:
    built, image = network(), picture(40, 48)
    plain = source(built)
    mapped = MultiScaleCam(
        built, class_names=("b", "a"), class_slots=(4, 1), kinds=("coarse",), config=CamConfig(scales=(1.0,))
    )
    assert torch.equal(mapped.logits(image), plain.logits(image)[[4, 1]])
    list(mapped.class_maps(image, [1]))
    assert built.asked[-1] == (1,)


def test_layers_beyond_the_network_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"cross_layers: expected layers of 1\.\.3.*got \[5, 6, 7, 8, 9, 10, 11, 12\]"
    ):
        source(network(), cross_layers=CamConfig().cross_layers)
    source(network(), kinds=("fine",), cross_layers=CamConfig().cross_layers)  # not asked for


def test_kinds_that_a_network_lacks_are_refused() -> None:
    with pytest.raises(ConfigError, match="fine asked for, but ResNetCam gives coarse only"):
        source(ResNetCam(ResNetCamConfig(backbone="shufflenet_v2_x0_5"), CLASSES), kinds=("coarse", "fine"))


def test_a_device_of_little_memory_enlarges_a_few_maps_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clues, image = source(network()), picture(45, 62)
    (expected,) = clues.class_maps(image, [3])
    memory = let_few_fit(monkeypatch, F, "interpolate", 4, lambda maps, size=None, **_: maps.shape[1] if size else 0)
    (found,) = clues.class_maps(image, [3])
    assert max(memory.sizes) == 3  # of 6 maps
    for kind in KINDS:
        np.testing.assert_array_equal(found.maps[kind], expected.maps[kind])


def test_maps_of_a_network_in_half_precision_are_made_of_float32_sums_and_near_to_the_exact_ones() -> None:
    image = picture(45, 62)
    (exact,), (fast,) = (source(network(), precision=wanted).class_maps(image, [3]) for wanted in ("exact", "fast"))
    for kind in KINDS:
        assert fast.maps[kind].dtype == torch.float32
        assert_near(fast.maps[kind].amax(dim=(1, 2)), torch.ones(len(exact.maps[kind])), dtype=torch.float32)
        together = torch.stack([fast.maps[kind].flatten(), exact.maps[kind].flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.98
    logits = source(network(), precision="fast").logits(image)
    assert logits.dtype == torch.float32


def test_the_published_half_precision_is_a_precision_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"precision: expected exact beside autocast_fp16.*got 'fast'"):
        CamConfig(autocast_fp16=True, precision="fast")
