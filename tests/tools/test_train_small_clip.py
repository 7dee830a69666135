"""Sentences about drawings: what they say, whether it is true, and that a CLIP knows their words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tools.train_small_clip import (
    ARCHITECTURE,
    WORDS,
    Clause,
    Sentence,
    Thing,
    colour_of,
    contrastive_loss,
    draw_corpus,
    sentence_about,
    small_vocabulary,
    things_in,
    views,
)

RING, STAR, BLOB = Thing("ring", "red", (10, 20)), Thing("star", "blue", (40, 20)), Thing("blob", "grey", (5, 5))


@pytest.mark.parametrize(
    ("clause", "words", "true"),
    [
        (Clause(Thing("ring")), "a ring", True),
        (Clause(Thing("ring", "red")), "a red ring", True),
        (Clause(Thing("ring", "orange")), "an orange ring", False),
        (Clause(Thing("ellipse")), "an ellipse", False),
        (Clause(Thing("ring"), "left of", Thing("star", "blue")), "a ring left of a blue star", True),
        (Clause(Thing("ring"), "right of", Thing("star")), "a ring right of a star", False),
        (Clause(Thing("ring"), "above", Thing("star")), "a ring above a star", False),  # a tie
        (Clause(Thing("blob"), "above", Thing("ring")), "a blob above a ring", True),
        (Clause(Thing("ring"), "below", Thing("ring")), "a ring below a ring", False),  # of itself
    ],
)
def test_a_clause_says_and_means_what_is_drawn(clause: Clause, words: str, true: bool) -> None:
    assert clause.words() == words
    assert clause.holds((RING, STAR, BLOB)) is true


def test_a_sentence_is_true_when_all_of_it_is() -> None:
    ring, cross = Clause(Thing("ring")), Clause(Thing("cross"))
    both = Sentence((ring, cross), "a photo of")
    assert both.words() == "a photo of a ring and a cross ."
    assert not both.holds((RING,))
    assert Sentence((ring,)).holds((RING,))
    assert Sentence((ring,)).words() == "a ring ."
    nothing = Sentence((), "a drawing of")
    assert nothing.words() == "a drawing of plain ground ."
    assert nothing.holds(())
    assert not nothing.holds((BLOB,))


def test_whatever_is_said_of_a_view_is_true_of_it_and_short_enough() -> None:
    vocabulary, rng = small_vocabulary(), np.random.default_rng(0)
    pixels, contents = views(draw_corpus("clip-val", 20), 60, rng)
    assert pixels.shape[0] == len(contents) == 60
    longest = 0
    for things in contents:
        sentence = sentence_about(things, rng)
        assert sentence.holds(things)
        longest = max(longest, len(vocabulary.tokens(sentence.words())))
    assert longest + 2 <= ARCHITECTURE.context_length
    assert sum(bool(things) for things in contents) > 30
    assert any(len(things) > 1 for things in contents)
    assert max(len(vocabulary.tokens(word)) for word in WORDS if word) <= 4


def test_a_view_shows_what_it_holds_enough_of() -> None:
    numbers = np.zeros((4, 4), np.uint8)
    numbers[0, 0] = 1
    numbers[2:, 2:] = 2
    image = np.full((4, 4, 3), (200, 10, 10), np.uint8)
    (star,) = things_in(image, numbers, ("ring", "star"), np.array([0, 10, 4]))
    assert star == Thing("star", "red", (2.5, 2.5))


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 0, 0), "red"),
        ((255, 0, 20), "red"),  # from the other side
        ((255, 128, 0), "orange"),
        ((255, 255, 0), "yellow"),
        ((0, 255, 255), "cyan"),
        ((0, 0, 255), "blue"),
        ((0, 0, 0), "grey"),
        ((90, 80, 90), "grey"),
    ],
)
def test_colours_have_names(rgb: tuple[int, int, int], name: str) -> None:
    assert colour_of(np.array(rgb)) == name


def test_the_loss_is_least_where_all_true_pairs_are_alike() -> None:
    true = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    good, worse = torch.where(true, 10.0, -10.0), torch.where(torch.eye(3, dtype=torch.bool), 10.0, -10.0)
    assert contrastive_loss(good, true).item() == pytest.approx((2 * np.log(2)) / 3, abs=1e-4)
    assert contrastive_loss(good, true) < contrastive_loss(worse, true)
