"""CLIP's tokens, as published, and of a CLIP that has learnt some of them."""

from __future__ import annotations

import pytest
import torch

from weaksam.config import PromptLayoutConfig
from weaksam.errors import ConfigError
from weaksam.networks.clip.contexts import Prompts
from weaksam.networks.clip.tokens import END, SIZE, START, Vocabulary, all_tokens
from weaksam.networks.clip.towers import ClipArchitecture


def test_a_sentence_has_the_published_tokens() -> None:
    assert all_tokens("a photo of a Cat.") == [320, 1125, 539, 320, 2368, 269]
    assert Vocabulary().tokens("a photo of a Cat.") == all_tokens("a photo of a Cat.")
    assert ClipArchitecture().vocabulary == SIZE == END + 1 == START + 2


def test_names_of_several_words_and_commas_make_prompts_within_the_context_length() -> None:
    names = ["diningtable", "person with clothes,people,human", "tvmonitor screen", "grass"]
    found = Prompts(names, Vocabulary(), torch.zeros(SIZE, 4), PromptLayoutConfig())
    assert found.last.max() < 30
    assert found().shape == (4, int(found.last.max()) + 1, 4)


def test_tokens_that_are_known_are_numbered_by_their_order() -> None:
    ellipse = all_tokens("ellipse")
    few = Vocabulary([*ellipse, *all_tokens("a"), START, END])
    assert len(ellipse) == 2  # a word of two tokens
    assert len(few) == 5
    assert (few.start, few.end) == (3, 4)
    assert few.tokens("an a ellipse".removeprefix("an ")) == [2, 0, 1]


def test_a_word_that_is_not_known_whole_is_told() -> None:
    few = Vocabulary([all_tokens("ellipse")[0], START, END])
    with pytest.raises(ConfigError, match=r"'ellipse': this CLIP, which has learnt 3 tokens, does not know the word"):
        few.tokens("ellipse")
