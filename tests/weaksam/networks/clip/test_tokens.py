"""CLIP's tokens, as published."""

from __future__ import annotations

import torch

from weaksam.networks.clip.contexts import Layout, Prompts
from weaksam.networks.clip.tokens import END, START, tokens
from weaksam.networks.clip.towers import ClipArchitecture


def test_a_sentence_has_the_published_tokens() -> None:
    assert list(tokens("a photo of a Cat.")) == [320, 1125, 539, 320, 2368, 269]
    assert ClipArchitecture().vocabulary == END + 1 == START + 2


def test_names_of_several_words_and_commas_make_prompts_within_the_context_length() -> None:
    names = ["diningtable", "person with clothes,people,human", "tvmonitor screen", "grass"]
    embedding = torch.zeros(END + 1, 4)
    found = Prompts(names, tokens, embedding, start=START, end=END, layout=Layout())
    assert found.last.max() < 30
    assert found().shape == (4, int(found.last.max()) + 1, 4)
