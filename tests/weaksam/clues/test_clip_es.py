"""CLIP as a clue source: its maps and logits against a slow loop, which words it is told, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import find_objects, label
from torch import Tensor

from tests.support.sams import noise
from tests.support.small_clip import tiny_clip, write_tiny_clip
from weaksam.clues.clip_es import ClipEs
from weaksam.clues.loading import load_clues
from weaksam.config import CamConfig, ClipEsAffinityConfig, ClipEsConfig, ClipEsNamesConfig, CluesConfig, Weights
from weaksam.errors import ConfigError
from weaksam.networks.clip.towers import CLIP_PIXELS, Clip

NAMES = ("ring", "star", "cross")
CONFIG = ClipEsConfig(
    clip=ClipEsNamesConfig(background=("ground", "blob")), template="{} .", affinity=ClipEsAffinityConfig(layers=2)
)


def source(config: ClipEsConfig = CONFIG, max_side: int = 640, kinds: tuple[str, ...] = ("fine", "coarse")) -> ClipEs:
    return ClipEs(tiny_clip(), class_names=NAMES, kinds=kinds, config=config, max_side=max_side)


def texts(clip: Clip, *words: str) -> Tensor:
    """Embed sentences one by one."""
    found = []
    for word in words:
        tokens = [clip.vocabulary.start, *clip.vocabulary.tokens(f"{word} ."), clip.vocabulary.end]
        embedded = clip.token_embedding(torch.tensor([tokens]))
        found.append(clip.text_embedding(embedded, torch.tensor([len(tokens) - 1]))[0])
    return torch.stack(found)


def stretched(values: Tensor) -> Tensor:
    values = values.clamp(min=0)
    return (values - values.min()) / (values.max() - values.min()).clamp(min=1e-30)


def by_hand(image: np.ndarray, size_wh: tuple[int, int], asked: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Compute the coarse and the fine map of each asked class, one after the other, by the formulas of the paper."""
    clip = tiny_clip()
    words = texts(clip, *(NAMES[c] for c in asked), "ground", "blob")
    pixels = CLIP_PIXELS.normalise(np.array(Image.fromarray(image).resize(size_wh, Image.Resampling.BICUBIC)))[None]
    h, w = size_wh[1] // 8, size_wh[0] // 8
    known = clip.visual.before_last_block(pixels, (2, 3))
    affinity = known.attention[0, 1:, 1:]
    for _ in range(3):
        affinity = affinity / affinity.sum(dim=0)
        affinity = affinity / affinity.sum(dim=1)[:, None]
    affinity = (affinity + affinity.T) / 2
    affinity = affinity @ affinity
    found = {}
    for place, c in enumerate(asked):
        activations = known.activations.clone().requires_grad_()
        cosines = F.cosine_similarity(clip.visual.embedding(known.tokens, activations), words)
        probability = (clip.logit_scale.exp() * cosines).softmax(dim=0)[place]
        (gradient,) = torch.autograd.grad(probability, activations)
        cam = (activations[0, 1:] * gradient[0, 1:].mean(dim=0)).sum(dim=1).detach()
        coarse = stretched(cam).view(h, w)
        level = (255 * coarse).floor()
        assert ((255 * coarse - 103).abs() > 0.1).all()  # no cell lies so near the threshold that rounding decides
        sent = torch.zeros(h, w)
        for box in find_objects(label(level > int(0.4 * level.max()), np.ones((3, 3)))[0]):
            sent[box] = coarse[box]
        fine = stretched(affinity @ sent.flatten()).view(h, w)
        found[c] = (coarse, fine)
    return found


def enlarged(values: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(values[None, None], size_hw, mode="bilinear", align_corners=False)[0]


def test_maps_are_those_of_the_paper() -> None:
    image, clues = noise(30, 45), source()
    slow = by_hand(image, (48, 32), [0, 2])
    for asked in ([0, 2], [2, 0]):
        found = list(clues.class_maps(image, asked))
        assert [of.class_index for of in found] == asked
        for of in found:
            coarse, fine = (enlarged(of_class, (30, 45)) for of_class in slow[of.class_index])
            torch.testing.assert_close(of.maps["coarse"], coarse, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(of.maps["fine"], fine, rtol=1e-3, atol=1e-4)
    alone = next(iter(clues.class_maps(image, [0])))
    assert not torch.allclose(alone.maps["coarse"], found[1].maps["coarse"])  # of the same class, among others
    assert list(clues.class_maps(image, [])) == []


def test_only_the_maps_that_are_wanted_are_made_and_no_affinity_leaves_the_fine_one_as_it_was() -> None:
    (coarse,) = source(kinds=("coarse",)).class_maps(noise(16, 16), [1])
    assert list(coarse.maps) == ["coarse"]
    plain = replace(CONFIG, affinity=ClipEsAffinityConfig(enabled=False))
    (both,) = source(plain).class_maps(noise(16, 16), [1])
    assert torch.equal(both.maps["fine"], both.maps["coarse"])
    assert torch.equal(both.maps["coarse"], coarse.maps["coarse"])


@pytest.mark.parametrize(("size_hw", "seen_wh"), [((1, 1), (8, 8)), ((1, 50), (24, 8)), ((90, 45), (16, 24))])
def test_images_of_any_shape_have_maps_of_their_own_size(size_hw: tuple[int, int], seen_wh: tuple[int, int]) -> None:
    image, clues = noise(*size_hw), source(max_side=24)
    (found,) = clues.class_maps(image, [1])
    for kind in ("fine", "coarse"):
        assert found.maps[kind].shape == (1, *size_hw)
        assert 0 <= found.maps[kind].min() <= found.maps[kind].max() <= 1
    if size_hw != (1, 1):
        coarse, _ = by_hand(image, seen_wh, [1])[1]
        torch.testing.assert_close(found.maps["coarse"], enlarged(coarse, size_hw), rtol=1e-3, atol=1e-4)


def test_logits_say_how_much_more_a_class_is_seen_than_all_of_the_background() -> None:
    image, clip = noise(32, 32), tiny_clip()
    known = clip.visual.before_last_block(CLIP_PIXELS.normalise(image)[None])
    embedding = clip.visual.embedding(known.tokens, known.activations)
    cosines = F.cosine_similarity(embedding, texts(clip, *NAMES, "ground", "blob"))
    scores = clip.logit_scale.exp() * cosines
    expected = scores[:3] - torch.log(scores[3].exp() + scores[4].exp())
    torch.testing.assert_close(source().logits(image), expected, rtol=1e-3, atol=1e-4)


def test_a_name_of_the_background_that_a_class_has_is_left_out() -> None:
    def logits(*background: str, **names: str) -> Tensor:
        clip = ClipEsNamesConfig(background=background, names=names)
        return source(replace(CONFIG, clip=clip)).logits(noise(32, 32))

    torch.testing.assert_close(logits("ground", "star"), logits("ground"))
    torch.testing.assert_close(logits("ground", "blob", cross="blob ring"), logits("ground", cross="blob ring"))
    with pytest.raises(ConfigError, match="background: expected a name that no class has, got star, ring"):
        logits("star", "ring")


@pytest.mark.parametrize(
    ("changes", "names", "said"),
    [
        ({}, (), "expected names of classes"),
        ({}, ("ring", "zeppelin"), "'zeppelin': this CLIP"),
        ({"weights": Weights(uri="builtin:stem")}, NAMES, "weights: expected none beside clip_es"),
    ],
)
def test_what_clip_cannot_be_told_is_refused(
    tmp_path: Path, changes: dict[str, Any], names: tuple[str, ...], said: str
) -> None:
    of = replace(CONFIG, clip=replace(CONFIG.clip, weights=Weights(uri=str(write_tiny_clip(tmp_path)))))
    with pytest.raises(ConfigError, match=said):
        load_clues(CluesConfig(source=of, **changes), class_names=names)
    with pytest.raises(ConfigError, match="template: expected a text with"):
        replace(CONFIG, template="a drawing")


def test_it_is_loaded_as_clues_are(tmp_path: Path) -> None:
    of = replace(CONFIG, clip=replace(CONFIG.clip, weights=Weights(uri=str(write_tiny_clip(tmp_path)))))
    clues = load_clues(CluesConfig(source=of, cam=CamConfig(max_side=24)), class_names=NAMES, kinds=("coarse",))
    assert (clues.class_names, clues.kinds) == (NAMES, ("coarse",))
    (found,), (own,) = (list(s.class_maps(noise(30, 45), [1])) for s in (clues, source(max_side=24)))
    torch.testing.assert_close(
        found.maps["coarse"], own.maps["coarse"], rtol=0.02, atol=0.02
    )  # the file is half precise
