"""Which values change nothing of what is asked for, by hand."""

from collections.abc import Iterator, Sequence

import pytest

from pipelines.cli.without_effect import without_effect
from pipelines.recipe.model import Recipe, read_recipe
from weaksam.errors import ConfigError

SOURCE = read_recipe("grid")


def asked(values: Sequence[str]) -> Iterator[tuple[Recipe, list[str]]]:
    """Proposals, and in a second recipe the index alone."""
    yield SOURCE.recipe(values, "shapes:")[0], ["propose"]
    yield SOURCE.recipe(values, "shapes:")[0], ["index"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param(["mil.steps=3"], ["mil.steps=3"], id="of-a-stage-that-nobody-asks-for"),
        pytest.param(["prompts.points_per_side=3", "mil.lr=0.5"], ["mil.lr=0.5"], id="beside-one-that-a-stage-reads"),
        pytest.param(["resources.cpus=1", "name=mine"], [], id="of-the-whole-run"),
        pytest.param(["mil.steps=3", "mil.steps=4"], ["mil.steps=4"], id="twice"),
        pytest.param(["data.shapes.train=3"], [], id="of-the-second-recipe-as-well"),
    ],
)
def test_values_of_what_is_not_asked_for_change_nothing(values: list[str], expected: list[str]) -> None:
    assert list(without_effect(values, values, asked)) == expected


def test_a_value_that_is_the_recipes_own_anyway_is_no_mistake() -> None:
    steps = SOURCE.recipe([], "shapes:")[0].mil.steps
    assert list(without_effect([f"mil.steps={steps}"], [f"mil.steps={steps}"], asked)) == []


def test_a_value_without_which_others_do_not_go_is_no_mistake() -> None:
    def strict(values: Sequence[str]) -> Iterator[tuple[Recipe, list[str]]]:
        if "mil.lr=0.5" in values and "mil.steps=3" not in values:
            raise ConfigError("mil.lr goes with mil.steps alone")
        yield SOURCE.recipe(values, "shapes:")[0], ["propose"]

    values = ["mil.steps=3", "mil.lr=0.5"]
    assert list(without_effect(values, values, strict)) == ["mil.lr=0.5"]


def test_a_value_that_changes_what_is_asked_for_has_an_effect() -> None:
    def more(values: Sequence[str]) -> Iterator[tuple[Recipe, list[str]]]:
        yield SOURCE.recipe(values, "shapes:")[0], ["index", "propose"] if values else ["index"]

    assert list(without_effect(["mil.steps=3"], ["mil.steps=3"], more)) == []


def test_of_what_cannot_be_nothing_is_said_here() -> None:
    assert list(without_effect(["mil.steps=no"], ["mil.steps=no"], asked)) == []
