"""CLIP's weights: those of open_clip's layout load strictly, others are refused with the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.weaksam.networks.clip.test_towers import random_state
from weaksam.config import ClipConfig, Weights
from weaksam.errors import CheckpointError
from weaksam.networks.clip.load import METADATA_KEY, architecture_of, clip_to_bytes, load_clip
from weaksam.networks.clip.tokens import END, START, Vocabulary, all_tokens
from weaksam.networks.clip.towers import Clip, ClipArchitecture

SMALL = ClipArchitecture(
    embed_dim=12, image_dim=128, image_layers=2, image_heads=2, patch=4, grid=3, text_dim=64, text_layers=3, text_heads=1,
    context_length=10,
)  # fmt: skip


def config(path: Path, **options: bool) -> ClipConfig:
    return ClipConfig(weights=Weights(str(path)), **options)


def test_sizes_are_read_off_the_tensors_and_the_file_loads(tmp_path: Path) -> None:
    state = random_state(SMALL)
    assert architecture_of(state) == SMALL
    assert architecture_of(random_state(ClipArchitecture(image_layers=1, text_layers=1))) == ClipArchitecture(
        image_layers=1, text_layers=1
    )
    huge = random_state(ClipArchitecture(image_dim=1280, image_layers=1, text_layers=1))
    assert architecture_of(huge).image_heads == 16  # of 80 channels: ViT-H
    for name, save in (("clip.safetensors", save_file), ("clip.pt", torch.save)):
        save(state, tmp_path / name)
        clip = load_clip(config(tmp_path / name, quick_gelu=True))
        assert not clip.training
        assert all(torch.equal(value, state[key]) for key, value in clip.state_dict().items())


def test_of_a_file_that_is_not_the_published_one_it_must_be_said_that_it_was_trained_with_quick_gelu(
    tmp_path: Path,
) -> None:
    save_file(random_state(SMALL), tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match=r"got another file .* do not tell .* set quick_gelu=true"):
        load_clip(config(tmp_path / "clip.safetensors"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("visual.", "vision_model.", "transformers' names: take the open_clip_model.safetensors"),
        ("visual.transformer.", "visual.trunk.", "the image tower is timm's"),
        ("visual.transformer.resblocks.0.", "visual.layer1.0.", "the image tower is a ResNet"),
        ("ln_final", "ln_last", "ln_final"),
    ],
)
def test_another_layout_is_refused_with_what_it_is(tmp_path: Path, old: str, new: str, message: str) -> None:
    save_file(
        {name.replace(old, new): value for name, value in random_state(SMALL).items()}, tmp_path / "c.safetensors"
    )
    with pytest.raises(CheckpointError, match=message):
        load_clip(config(tmp_path / "c.safetensors", quick_gelu=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_an_archive_with_code_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "ViT-B-16.pt"))
    with pytest.raises(CheckpointError, match=r"ViT-B-16\.pt: .* TorchScript archive, whose code is never run"):
        load_clip(config(tmp_path / "ViT-B-16.pt", quick_gelu=True))


def test_a_clip_of_our_own_says_which_tokens_it_knows_and_needs_no_word_of_its_nonlinearity(tmp_path: Path) -> None:
    vocabulary = Vocabulary([*all_tokens("a red ring ."), START, END])
    clip = Clip(replace(SMALL, vocabulary=len(vocabulary)), vocabulary)
    (tmp_path / "own.safetensors").write_bytes(clip_to_bytes(clip))
    loaded = load_clip(config(tmp_path / "own.safetensors"))
    assert loaded.vocabulary.tokens("ring red") == [2, 1]
    assert (loaded.vocabulary.start, loaded.vocabulary.end) == (4, 5)
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, clip.state_dict()[key], rtol=1e-3, atol=1e-4)  # float16


def test_embeddings_of_other_tokens_than_clips_are_refused(tmp_path: Path) -> None:
    save_file(random_state(replace(SMALL, vocabulary=20)), tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match=r"expected embeddings of CLIP's 49,408 tokens, got 20; take a CLIP with"):
        load_clip(config(tmp_path / "clip.safetensors", quick_gelu=True))


@pytest.mark.parametrize("said", ['{"words": []}', '{"tokens": 3}', '{"tokens": [1, 2]}', '{"tokens": ["a"]}'])
def test_a_file_of_our_own_that_does_not_say_its_tokens_is_refused(tmp_path: Path, said: str) -> None:
    save_file(random_state(replace(SMALL, vocabulary=2)), tmp_path / "own.safetensors", {METADATA_KEY: said})
    with pytest.raises(
        CheckpointError, match="expected in its metadata the tokens that it knows, start and end among them"
    ):
        load_clip(config(tmp_path / "own.safetensors"))
