from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from pipelines.cli import app as cli
from pipelines.cli.options import RunRequest, spread
from pipelines.engine.stage import Options
from pipelines.recipe.model import load_recipe


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request of two fields."""

    dish: Annotated[str, typer.Argument()]
    times: Annotated[int, typer.Option("--times")] = 1


def kitchen(got: list[tuple[str, Order, bool]]) -> typer.Typer:
    def serve(table: Annotated[str, typer.Argument()], order: Order, warm: bool = False) -> None:
        """Serve a dish."""
        got.append((table, order, warm))

    app = typer.Typer()
    app.command()(spread(serve))
    return app


def test_a_request_is_spread_into_options_where_it_stands() -> None:
    got: list[tuple[str, Order, bool]] = []
    app = kitchen(got)
    assert CliRunner().invoke(app, ["window", "soup", "--times", "2", "--warm"]).exit_code == 0
    assert CliRunner().invoke(app, ["door", "pie"]).exit_code == 0
    assert got == [("window", Order(dish="soup", times=2), True), ("door", Order(dish="pie"), False)]
    assert CliRunner().invoke(app, ["window"]).exit_code == 2  # no dish
    assert "Serve a dish." in CliRunner().invoke(app, ["--help"]).output


def test_a_request_says_all_that_stages_are_told() -> None:
    request = RunRequest(
        recipe="shapes", dry_run=True, retry_dropped=True, max_dropped="2", address="ray://here", wait=3.0
    )
    told = Options(dry_run=True, retry_dropped=True, max_dropped="2", address="ray://here", wait_s=3.0)
    assert request.options == told


def test_a_preview_is_a_value_of_the_recipe_and_a_folder_below_the_run(tmp_path: Path) -> None:
    request = RunRequest(recipe="shapes", out=str(tmp_path), overrides=["mil.epochs=1"], limit=3)
    assert request.values == ["mil.epochs=1", "data.limit=3"]
    assert request.run_uri(load_recipe("shapes", request.values)[0]) == str(tmp_path / "preview-3")


def test_the_folder_of_a_run_stands_for_its_recipe_and_for_itself(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("base: grid\nname: mine\n")
    request = RunRequest(recipe=str(tmp_path)).of_run_folder()
    assert (request.recipe, request.out) == (str(tmp_path / "recipe.yaml"), str(tmp_path))
    assert RunRequest(recipe=str(tmp_path), out="elsewhere").of_run_folder().out == "elsewhere"
    assert RunRequest(recipe="grid").of_run_folder() == RunRequest(recipe="grid")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "instance"),
    [
        (["evaluate", "shapes"], "evaluate.proposals"),
        (["evaluate", "shapes-tuning"], "evaluate.mil"),
        (["evaluate", "shapes", "--label", "final"], "evaluate.final"),
        (["detect", "grid", "--data", "shapes:"], "detect.mil"),
        (["label", "grid", "--data", "shapes:"], "label"),
    ],
    ids=["the first of the recipe", "of another recipe", "by label", "that it does not list", "without labels"],
)
def test_a_verb_means_the_first_instance_that_the_recipe_lists(
    tmp_path: Path, arguments: list[str], instance: str
) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [*arguments, "--out", str(tmp_path), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith(f"{instance} ")
