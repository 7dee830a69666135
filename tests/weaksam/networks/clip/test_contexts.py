"""Prompts with learnt contexts: where each token stands, and what learns."""

from __future__ import annotations

import pytest
import torch

from weaksam.config import PromptLayoutConfig
from weaksam.errors import ConfigError
from weaksam.networks.clip.contexts import Prompts

WORDS = {".": 1, "dining": 2, "table": 3, "cat": 4}
START, END, LENGTH = 8, 9, 16
EMBEDDING = torch.arange(10.0)[:, None].repeat(1, 3)  # of token n: n n n


class Words:
    """A tokenizer of whole words."""

    start, end = START, END

    def tokens(self, text: str) -> list[int]:
        return [WORDS[word] for word in text.split()]


def prompts(*names: str, **layout: object) -> Prompts:
    torch.manual_seed(0)
    return Prompts(names, Words(), EMBEDDING, PromptLayoutConfig(**layout))  # type: ignore[arg-type]


def shown(found: Prompts) -> list[list[str]]:
    """Of each prompt up to its end, a token's number or c for a vector of the context."""
    fixed = found().detach()
    return [
        [str(int(vector[0])) if vector[0] == vector[1] == vector[2] else "c" for vector in prompt[: last + 1]]
        for prompt, last in zip(fixed, found.last.tolist(), strict=True)
    ]


def test_a_name_stands_behind_its_context_or_before_it_and_the_end_is_the_same() -> None:
    end, front = prompts("dining_table", "cat"), prompts("dining_table", "cat", name="front")
    context = ["c"] * LENGTH
    assert shown(end) == [["8", *context, "2", "3", "1", "9"], ["8", *context, "4", "1", "9"]]
    assert shown(front) == [["8", "2", "3", *context, "1", "9"], ["8", "4", *context, "1", "9"]]
    assert end.last.tolist() == front.last.tolist() == [20, 19]


def test_a_prompt_without_a_name_ends_at_18() -> None:
    found = prompts("", specific=True)
    assert shown(found) == [["8", *["c"] * LENGTH, "1", "9"]]
    assert found.last.tolist() == [18]


def test_the_context_stands_in_its_order_and_alone_learns() -> None:
    for specific, count in ((False, LENGTH * 3), (True, 2 * LENGTH * 3)):
        found = prompts("dining table", "cat", specific=specific, name="front")
        assert [name for name, _ in found.named_parameters()] == ["context"]
        assert list(found.state_dict()) == ["context"]
        assert found.context.numel() == count
        own = found.context[1] if specific else found.context
        torch.testing.assert_close(found()[1, 2 : 2 + LENGTH], own)
        found().sum().backward()
        assert found.context.grad is not None
        assert (found.context.grad == (1 if specific else 2)).all()


def test_first_values_are_small_and_follow_the_seed() -> None:
    found = prompts(*["cat"] * 40, specific=True, std=0.01)
    assert found.context.std().item() == pytest.approx(0.01, rel=0.1)
    assert torch.equal(found.context, prompts(*["cat"] * 40, specific=True, std=0.01).context)


def test_prompts_that_would_all_be_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 prompts without a name"):
        prompts("cat", "", "")
