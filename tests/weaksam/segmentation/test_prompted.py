"""CLIP with learnt prompts: its scores, its maps against a slow loop, what of it learns, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.small_clip import some_pixels, tiny_clip
from weaksam.config import AffinityConfig, ClipConfig, PromptLayoutConfig, SeedConfig
from weaksam.datasets.shapes import CLASS_NAMES
from weaksam.errors import CheckpointError, ConfigError
from weaksam.losses.prompts import activation_loss, contrastive_loss
from weaksam.networks.clip.softmax_cam import found_maps
from weaksam.segmentation.class_maps import PromptMapper
from weaksam.segmentation.prompted import PromptedClip, load_prompts, prompts_to_bytes

CONFIG = ClipConfig(background=("ground", "blob"))
PRESENT = torch.tensor([[True, False, True, False, False, True], [False, True, False, False, False, False]])


def prompted(**layout: object) -> PromptedClip:
    torch.manual_seed(0)
    return PromptedClip(tiny_clip(), CLASS_NAMES, CONFIG, PromptLayoutConfig(length=4, **layout))  # type: ignore[arg-type]


@pytest.mark.parametrize("specific", [False, True])
def test_contexts_alone_are_its_state_and_learn(specific: bool) -> None:
    model = prompted(specific=specific)
    assert list(model.state_dict()) == ["prompts.context"]
    contrastive_loss(model.scores(some_pixels(2, 32, 32)), PRESENT).backward()  # type: ignore[no-untyped-call]
    context = model.prompts.context
    assert context.grad is not None
    assert context.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.clip.parameters())


def test_the_last_blocks_of_the_tower_learn_too_where_they_are_tuned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip, pixels = tiny_clip(), some_pixels(2, 32, 32)
    model = PromptedClip(clip, CLASS_NAMES, CONFIG, PromptLayoutConfig(length=4), tuned_blocks=2)
    contrastive_loss(model.scores(pixels), PRESENT).backward()  # type: ignore[no-untyped-call]
    for name, parameter in clip.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert learns is name.startswith(("visual.transformer.resblocks.1.", "visual.transformer.resblocks.2.")), name
    with torch.no_grad():
        for parameter in model.tuned.parameters():
            parameter += 0.1
    path = tmp_path / "prompts.safetensors"
    path.write_bytes(prompts_to_bytes(model, CLASS_NAMES, CONFIG))
    loaded, _ = load_prompts(path, tiny_clip())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    kept = model.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in loaded.state_dict().items())
    torch.testing.assert_close(loaded.scores(pixels), model.scores(pixels))
    assert not torch.allclose(loaded.scores(pixels), prompted().scores(pixels))


def test_tuned_blocks_of_another_clip_are_refused_and_a_file_that_names_none_has_none(tmp_path: Path) -> None:
    from safetensors.torch import save

    state, config = (
        {"prompts.context": torch.zeros(4, 64)},
        '"class_names": ["ring"], "names": {}, "background": ["ground"]',
    )
    path = tmp_path / "prompts.safetensors"
    path.write_bytes(save(state, {"prompts": f'{{{config}, "layout": {{"length": 4}}}}'}))
    assert len(load_prompts(path, tiny_clip())[0].tuned) == 0
    path.write_bytes(save(state, {"prompts": f'{{{config}, "layout": {{"length": 4}}, "tuned_blocks": 9}}'}))
    with pytest.raises(
        CheckpointError, match=r"prompts\.safetensors: .*tuned_blocks: expected 0\.\.3, of this CLIP, got 9"
    ):
        load_prompts(path, tiny_clip())


def test_more_tuned_blocks_than_the_tower_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tuned_blocks: expected 0\.\.3, of this CLIP, got 4"):
        PromptedClip(tiny_clip(), CLASS_NAMES, CONFIG, PromptLayoutConfig(length=4), tuned_blocks=4)


def test_scores_are_cosines_with_the_prompts_of_classes_times_the_scale() -> None:
    model, pixels = prompted(), some_pixels(2, 32, 40)
    images, texts = model.images(pixels), model.texts()
    found = model.scores(pixels)
    assert found.shape == (2, len(CLASS_NAMES))
    for n in range(2):
        for c in range(len(CLASS_NAMES)):
            cosine = torch.dot(images[n], texts[c]) / images[n].norm() / texts[c].norm()
            assert found[n, c].item() == pytest.approx((model.clip.logit_scale.exp() * cosine).item(), rel=1e-4)


def test_maps_are_those_of_one_pair_after_the_other() -> None:
    model, pixels = prompted(), some_pixels(2, 32, 40)
    texts = model.texts().detach()
    found = found_maps(model.clip, pixels, PRESENT, texts, attention_of=(2, 3))
    assert found.maps.shape == (4, 4, 5)
    assert found.attention.shape == (2, 20, 20)
    for (n, c), own in zip(PRESENT.nonzero().tolist(), found.maps, strict=True):
        known = model.clip.visual.before_last_block(pixels[n : n + 1])
        activations = known.activations.clone().requires_grad_()
        logits = model.clip.logits(model.clip.visual.embedding(known.tokens, activations), texts)[0]
        among = [*PRESENT[n].nonzero()[:, 0].tolist(), len(CLASS_NAMES), len(CLASS_NAMES) + 1]
        probability = logits[among].softmax(dim=0)[among.index(c)]
        (gradient,) = torch.autograd.grad(probability, activations)
        slow = (activations[0, 1:] * gradient[0, 1:].mean(dim=0)).sum(dim=1).view(4, 5)
        torch.testing.assert_close(own, slow.detach(), rtol=1e-4, atol=1e-7)
        alone = found_maps(model.clip, pixels[n : n + 1], PRESENT[n : n + 1], texts).maps
        torch.testing.assert_close(alone[PRESENT[n].nonzero()[:, 0].tolist().index(c)], own, rtol=1e-4, atol=1e-7)


def test_a_map_teaches_its_context_and_a_batch_without_a_class_nothing() -> None:
    model, pixels = prompted(), some_pixels(2, 32, 32)
    for present, learns in ((PRESENT, True), (torch.zeros_like(PRESENT), False)):
        model.zero_grad()
        found = found_maps(model.clip, pixels, present, model.texts(), differentiable=True)
        image, class_index = present.nonzero(as_tuple=True)
        seeds = torch.zeros(2, 32, 32, dtype=torch.uint8)
        seeds[:, :16] = 1
        loss = activation_loss(1e4 * found.maps, seeds, image, class_index)
        (loss.object + loss.background).backward()  # type: ignore[no-untyped-call]
        gradient = model.prompts.context.grad
        assert gradient is not None
        assert (gradient.abs().sum().item() > 0) is learns


def test_a_background_without_names_is_learnt_alone() -> None:
    model = prompted(specific=True, named_background=False)
    assert model.prompts.context.shape[0] == len(CLASS_NAMES) + 2
    assert model.prompts.last[-2:].tolist() == [6, 6]  # start, four of the context, stop


def test_another_name_is_told_of_a_class() -> None:
    named = PromptedClip(
        tiny_clip(), ["star"], ClipConfig(names={"star": "ring"}, background=("ground",)), PromptLayoutConfig(length=4)
    )
    torch.manual_seed(0)
    plain = PromptedClip(tiny_clip(), ["ring"], ClipConfig(background=("ground",)), PromptLayoutConfig(length=4))
    plain.load_state_dict(named.state_dict())
    torch.testing.assert_close(named.texts(), plain.texts())


def test_a_file_of_prompts_reads_back(tmp_path: Path) -> None:
    model = prompted(specific=True, name="front")
    path = tmp_path / "prompts.safetensors"
    path.write_bytes(prompts_to_bytes(model, CLASS_NAMES, CONFIG))
    loaded, names = load_prompts(path, tiny_clip())
    assert names == CLASS_NAMES
    assert torch.equal(loaded.texts(), model.texts())


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"prompts.context": torch.zeros(4, 64)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="expected prompts that weaksam trained"):
        load_prompts(tmp_path / "other.safetensors", tiny_clip())


def test_maps_of_an_image_of_any_size_are_in_patches_and_an_image_without_a_class_has_none() -> None:
    model = prompted().eval()
    image = np.random.default_rng(0).integers(0, 256, (41, 20, 3)).astype(np.uint8)
    spread = PromptMapper(model, SeedConfig(affinity=AffinityConfig(layers=2)))
    assert spread(image, [0, 3]).shape == (2, 6, 3)
    assert spread(image, []).shape == (0, 6, 3)
    plain = PromptMapper(model, SeedConfig(affinity=AffinityConfig(enabled=False)))
    assert not torch.allclose(plain(image, [0, 3]), spread(image, [0, 3]))
    assert PromptMapper(model, SeedConfig(scale=2.0, max_side=48))(image, [1]).shape == (1, 6, 3)
    assert spread(image[:1, :1], [1]).shape == (1, 1, 1)
