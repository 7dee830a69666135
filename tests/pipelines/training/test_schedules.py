from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.recipe.model import load_recipe
from pipelines.training.schedules import milestones_passed, poly
from pipelines.training.task import Position
from weaksam.config import MilConfig, RetrainConfig
from weaksam.errors import ConfigError


def falls(milestones: tuple[float, ...], length: int, steps: int) -> list[int]:
    """The steps at which the rate falls, looked for one by one."""
    passed = [milestones_passed(Position(step, steps, 0.0), milestones, length) for step in range(steps)]
    return [step for step in range(1, steps) for _ in range(passed[step] - passed[step - 1])]


@pytest.mark.parametrize(
    ("milestones", "length", "steps", "expected"),
    [
        pytest.param((), 10, 10, [], id="none"),
        pytest.param((0.5, 0.8), 10, 10, [5, 8], id="shares"),
        pytest.param((5.0, 8.0), 10, 10, [5, 8], id="steps"),
        pytest.param((0.5, 8.0), 10, 10, [5, 8], id="one-of-each"),
        pytest.param((1.0,), 10, 10, [1], id="one-is-a-step-and-not-the-whole"),
        pytest.param((8.0, 11.0), 12, 1200, [800, 1100], id="epochs"),
        pytest.param((8.0, 11.0), 12, 18, [12, 17], id="epochs-that-end-within-a-step"),  # 12 and 16.5
        pytest.param((3.0, 3.0), 10, 10, [3, 3], id="twice-at-once"),
    ],
)
def test_when_the_rate_falls(milestones: tuple[float, ...], length: int, steps: int, expected: list[int]) -> None:
    assert falls(milestones, length, steps) == expected


@pytest.mark.parametrize(
    ("bases", "mil", "retrain"),
    [
        pytest.param(["voc07"], (30_000, [20_000, 26_700]), (9_000, [6_000, 8_000]), id="voc07"),
        pytest.param(["voc12"], (32_000, [20_000, 26_700]), (16_000, [10_000, 14_000]), id="voc12"),
        pytest.param(["coco14"], (125_000, [82_500, 115_000]), (85_000, [55_000, 75_000]), id="coco14"),
        pytest.param(["voc07", "presets/official"], (30_000, [20_000, 26_700]), (9_000, [6_000, 8_000]), id="official"),
        pytest.param(["voc07", "presets/paper"], (30_000, [20_000, 26_700]), (9_000, [6_000, 8_000]), id="paper"),
        # In epochs: 36 of OICR's 50, and of DINO's 14, which show every image three times, 8, 10 and 12.
        pytest.param(["voc07", "presets/oicr"], (50, [36]), (9_000, [6_000, 8_000]), id="oicr"),
        pytest.param(["voc07", "presets/dino"], (30_000, [20_000, 26_700]), (42, [24, 30, 36]), id="dino"),
    ],
)
def test_rates_fall_at_the_published_steps(
    bases: list[str], mil: tuple[int, list[int]], retrain: tuple[int, list[int]], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"base": [f"{base}.yaml" for base in bases]}))
    recipe, _ = load_recipe(str(file))
    for config, expected in ((recipe.mil, mil), (recipe.retrain, retrain)):
        length = config.steps or config.epochs
        assert (length, falls(config.milestones, length, length)) == expected


def test_defaults_fall_at_the_published_steps_and_follow_another_length() -> None:
    for config, expected in ((MilConfig(), [20_000, 26_700]), (RetrainConfig(), [6_000, 8_000])):
        assert falls(config.milestones, config.steps, config.steps) == expected
    assert falls(MilConfig(steps=300).milestones, 300, 300) == [200, 267]
    assert falls(RetrainConfig(steps=90).milestones, 90, 90) == [60, 80]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"milestones": (0.0,)}, "shares in (0, 1), or steps below steps=30000, got (0.0,)"),
        ({"milestones": (-1.0,)}, "shares in (0, 1), or steps below steps=30000, got (-1.0,)"),
        ({"milestones": (float("nan"),)}, "got (nan,)"),
        ({"milestones": (30_000.0,)}, "shares in (0, 1), or steps below steps=30000, got (30000.0,)"),
        ({"milestones": (200.0,), "steps": 100}, "shares in (0, 1), or steps below steps=100, got (200.0,)"),
        (
            {"milestones": (20.0,), "steps": 0, "epochs": 12},
            "shares in (0, 1), or epochs below epochs=12, got (20.0,)",
        ),
    ],
)
def test_a_milestone_that_is_never_reached_is_refused(options: dict[str, float], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        MilConfig(**options)  # type: ignore[arg-type]
    assert expected in str(refused.value)
    with pytest.raises(ConfigError, match=r"^milestones: expected shares"):
        RetrainConfig(**options)  # type: ignore[arg-type]


def test_another_length_of_a_published_recipe_wants_other_milestones() -> None:
    with pytest.raises(
        ConfigError,
        match=r"mil\.milestones \(from voc07\.yaml\): expected shares in \(0, 1\), or steps below steps=3000",
    ):
        load_recipe("voc07", ["mil.steps=3000"])
    recipe, _ = load_recipe("voc07", ["mil.steps=3000", "mil.milestones=[0.667, 0.89]"])
    assert recipe.mil.steps == 3000


@pytest.mark.parametrize(
    ("step", "power", "factor"), [(0, 0.9, 1), (5, 1, 0.5), (5, 2, 0.25), (9, 0.9, 0.1**0.9), (9, 0, 1)]
)
def test_a_polynomial_falls_from_1_towards_0(step: int, power: float, factor: float) -> None:
    assert poly(Position(step, 10, 0.0), power) == pytest.approx(factor)
