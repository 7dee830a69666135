"""What every clue source of CLUES owes its callers, and one that is not trained; networks are tiny and have random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.bright import BrightConfig
from tests.support.small_clip import write_tiny_clip
from weaksam.clues import CLUES
from weaksam.clues.base import ClueNetwork, ClueSource
from weaksam.clues.loading import build_classifier, classifier_to_bytes, load_classifier, load_clues
from weaksam.config import (
    CamConfig,
    ClipEsConfig,
    ClipEsNamesConfig,
    CluesConfig,
    ClueSourceConfig,
    LiteCamConfig,
    ResNetCamConfig,
    WeakTrConfig,
    Weights,
)
from weaksam.errors import CheckpointError
from weaksam.structures import MAP_KINDS

ANIMALS = ("ant", "bee", "cat")
NETWORKS = {
    "weaktr": WeakTrConfig(stem="cnn", patch_size=8, dim=32, depth=2, heads=2, position_grid=4, fusion_reduction=2),
    "resnet_cam": ResNetCamConfig(backbone="shufflenet_v2_x0_5"),
    "lite_cam": LiteCamConfig(backbone="efficientnet_lite0"),
}
UNTRAINED: dict[str, Callable[[Path], ClueSourceConfig]] = {  # of tests and of ours, with files in a folder
    "bright": lambda _: BrightConfig(),
    "clip_es": lambda folder: ClipEsConfig(
        clip=ClipEsNamesConfig(
            weights=Weights(str(write_tiny_clip(folder))),
            names=dict(zip(ANIMALS, ("ring", "star", "cross"), strict=True)),
            background=("ground", "blob"),
        ),
        template="{} .",
    ),
}
CAM = CamConfig(scales=(1.0, 0.5), cross_layers=())
IMAGE = np.random.default_rng(0).integers(0, 256, (70, 96, 3), dtype=np.uint8)


every_network = pytest.mark.parametrize("name", NETWORKS)


def network_of(name: str) -> ClueNetwork:
    torch.manual_seed(0)
    return build_classifier(NETWORKS[name], len(ANIMALS)).eval()


def source_of(name: str, folder: Path) -> ClueSource:
    if name in UNTRAINED:
        return load_clues(CluesConfig(source=UNTRAINED[name](folder)), class_names=ANIMALS)
    (folder / "c").write_bytes(classifier_to_bytes(network_of(name), ANIMALS))
    return load_clues(CluesConfig(source=NETWORKS[name], weights=Weights(str(folder / "c")), cam=CAM))


def test_every_source_is_under_contract() -> None:
    assert [name for name in CLUES if CLUES[name].trained] == list(NETWORKS)
    assert {name for name in CLUES if not CLUES[name].trained} - UNTRAINED.keys() == {"none"}
    assert CLUES["none"].kinds == ()


@every_network
def test_a_loss_is_one_number_that_teaches_and_comes_with_the_logits(name: str) -> None:
    network = network_of(name).train()
    images, targets = torch.randn(2, 3, 64, 96), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    loss, logits = network.training_loss(images, targets)
    loss.backward()
    assert loss.shape == ()
    assert logits.shape == (2, 3)
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@every_network
@torch.no_grad()
def test_maps_are_of_the_asked_classes_in_that_order_and_not_negative(name: str) -> None:
    network, images = network_of(name), torch.randn(2, 3, 64, 96)
    assert set(network.kinds) <= set(MAP_KINDS)
    assert network.classify(images).shape == (2, 3)
    maps = network.activation_maps(images, [2, 0], network.kinds, ())
    swapped = network.activation_maps(images, [0, 2], network.kinds, ())
    assert set(maps) == set(network.kinds)
    for kind, found in maps.items():
        assert found.shape[:2] == (2, 2)
        assert found.ndim == 5
        assert found.min() >= 0
        torch.testing.assert_close(found.flip(1), swapped[kind])


@every_network
def test_the_smallest_image_still_has_a_cell(name: str) -> None:
    network = network_of(name)
    side = network.smallest_side
    with torch.no_grad():
        (found,) = network.activation_maps(torch.randn(1, 3, side, side), [1], ["coarse"], ()).values()
    assert min(found.shape) == 1


@pytest.mark.parametrize("name", [*NETWORKS, *UNTRAINED])
def test_a_source_gives_maps_of_the_size_of_the_image_from_0_to_1(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path)
    assert source.class_names == ANIMALS
    assert source.logits(IMAGE).shape == (3,)
    assert set(source.kinds) <= set(MAP_KINDS)
    found = list(source.class_maps(IMAGE, [2, 0]))
    assert [one.class_index for one in found] == [2, 0]
    for one in found:
        assert set(one.maps) == set(source.kinds)
        assert all(maps.shape[1:] == (70, 96) for maps in one.maps.values())
        assert all(maps.min() >= 0 and maps.max() <= 1 for maps in one.maps.values())
    assert list(source.class_maps(IMAGE, [])) == []


@every_network
def test_a_network_survives_saving_and_loading(name: str, tmp_path: Path) -> None:
    network = network_of(name)
    (tmp_path / "c.safetensors").write_bytes(classifier_to_bytes(network, ANIMALS))
    loaded = load_classifier(tmp_path / "c.safetensors")
    assert type(loaded.network) is type(network)
    assert loaded.network.config == network.config
    assert loaded.class_names == ANIMALS
    images = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        assert torch.equal(loaded.network.eval().classify(images), network.classify(images))
        for kind, maps in network.activation_maps(images, [2, 0], network.kinds, ()).items():
            assert torch.equal(loaded.network.activation_maps(images, [2, 0], network.kinds, ())[kind], maps)


@every_network
def test_initial_weights_of_another_network_are_refused_and_change_nothing(name: str) -> None:
    network = network_of(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"^w\.pth as .*: the weights belong to another model: .* surplus: unheard"
    ):
        network.init_from({"unheard.of": torch.zeros(1)}, "w.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
