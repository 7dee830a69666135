"""Swin as a backbone: torchvision's network, under the names of others, too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from tests.support.tolerances import assert_near, roundings_in
from weaksam.errors import CheckpointError
from weaksam.networks.swin import SwinTrunk, SwinVariant, torchvision_names

TINY = SwinVariant(16, (1, 2, 1), (1, 2, 4), 4, 0.0)


def classifier() -> SwinTransformer:
    torch.manual_seed(0)
    return SwinTransformer(
        [4, 4], TINY.dim, list(TINY.depths), list(TINY.heads), [TINY.window] * 2, num_classes=3
    ).eval()


def official_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names in those of the authors' code."""
    named = {}
    for key, value in state.items():
        part, _, rest = key.removeprefix("features.").partition(".")
        if not key.startswith("features."):
            named[key] = value
        elif part == "0":
            named[rest.replace("0.", "patch_embed.proj.", 1) if rest[0] == "0" else f"patch_embed.norm.{rest[2:]}"] = (
                value
            )
        elif int(part) % 2:
            rest = rest.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
            named[f"layers.{int(part) // 2}.blocks.{rest}"] = value
        else:
            named[f"layers.{int(part) // 2 - 1}.downsample.{rest}"] = value
    return {**named, "layers.0.blocks.0.attn_mask": torch.zeros(1)}


def mmsegmentation_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in mmsegmentation's, whose merging takes each channel of four pixels after the other, to the right first."""
    named = {}
    for key, value in official_names(state).items():
        if key.startswith("head."):
            continue
        tensor = value
        if ".downsample." in key:
            pixels = value.reshape(-1, 4, value.shape[-1] // 4).unbind(
                dim=1
            )  # upper left, lower left, upper right, lower right
            tensor = torch.stack([pixels[0], pixels[2], pixels[1], pixels[3]], dim=2).reshape(value.shape)
        new = key.replace("layers.", "stages.", 1).replace("attn.", "attn.w_msa.").replace("proj.", "projection.")
        new = new.replace("w_msa.projection.", "w_msa.proj.").replace("mlp.fc1.", "ffn.layers.0.0.")
        named[new.replace("mlp.fc2.", "ffn.layers.1.")] = tensor
    return named


def test_four_merged_pixels_are_counted_as_published() -> None:
    # Of two channels: channel 0 of the pixels upper left, upper right, lower left, lower right, then channel 1.
    (norm,) = torchvision_names(
        {"stages.0.downsample.norm.weight": torch.tensor([0.0, 20, 10, 30, 1, 21, 11, 31])}
    ).values()
    assert norm.tolist() == [0, 1, 10, 11, 20, 21, 30, 31]


@pytest.mark.parametrize("named", [dict, official_names, mmsegmentation_names])
def test_it_gives_what_the_classifier_gives_before_its_mean(named) -> None:  # type: ignore[no-untyped-def]
    whole, trunk = classifier(), SwinTrunk(TINY).eval()
    trunk.init_from(named(whole.state_dict()), "test")
    images = torch.randn(1, 3, 50, 36)
    with torch.no_grad():
        logits = whole.head(whole.norm(trunk.stage_features(images)[-1]).mean(dim=(1, 2)))
        assert_near(logits, whole(images), length=roundings_in(whole))


def test_maps_are_normalised_by_layers_of_their_own() -> None:
    trunk = SwinTrunk(TINY).eval()
    with torch.no_grad():
        maps = trunk.normalised_maps(torch.randn(2, 3, 32, 64))
    assert [tuple(one.shape) for one in maps] == [(2, 16, 8, 16), (2, 32, 4, 8), (2, 64, 2, 4)]
    for one in maps:
        assert one.mean(dim=1).abs().max() < 1e-4
    assert [layer.normalized_shape for layer in trunk.norms if isinstance(layer, nn.LayerNorm)] == [(16,), (32,), (64,)]


def test_all_but_the_norms_of_its_maps_can_be_kept_from_learning() -> None:
    trunk = SwinTrunk(TINY)
    assert len(trunk.stages()) == 4
    trunk.freeze(4, "freeze_stages")
    assert {id(p) for p in trunk.parameters() if p.requires_grad} == {id(p) for p in trunk.norms.parameters()}


def test_other_weights_are_refused_and_named() -> None:
    state = official_names(classifier().state_dict())
    with pytest.raises(CheckpointError, match=r"1 missing: features\.1\.0\.norm1\.weight"):
        SwinTrunk(TINY).init_from({k: v for k, v in state.items() if k != "layers.0.blocks.0.norm1.weight"}, "test")
    with pytest.raises(CheckpointError, match=r"1 surplus: norm0\.weight"):  # of a backbone that learnt masks
        SwinTrunk(TINY).init_from({**state, "norm0.weight": torch.zeros(16)}, "test")
    for key in ("sem_seg_head.x", "model.pixel_level_module.x", "decode_head.x", "class_predictor.weight"):
        with pytest.raises(CheckpointError, match="of a detector or segmenter"):
            SwinTrunk(TINY).init_from({**state, key: torch.zeros(1)}, "test")
