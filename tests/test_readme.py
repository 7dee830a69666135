"""README is executed: what stands under ``<!-- tested -->`` runs; verbs, recipes and files that it or ``docs/`` name exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TESTED = re.findall(r"<!-- tested -->\n```(\w+)\n(.*?)```", README, re.DOTALL)
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")}
PAGES["README.md"] = README
FENCED = re.findall(r"```sh\n(.*?)```", "\n".join(PAGES.values()), re.DOTALL)


def blocks(language: str) -> list[str]:
    return [code for name, code in TESTED if name == language]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the repository, in which runs may be written."""
    ready = (ROOT / ".venv/.ready").stat().st_mtime
    stale = [name for name in ("requirements.lock", "pyproject.toml") if (ROOT / name).stat().st_mtime > ready]
    assert not stale, f"{stale} changed since `make setup`, which would now install this folder; run it first"
    for entry in ROOT.iterdir():
        if entry.name not in ("runs", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"))
def test_python_example_runs_and_prints_boxes(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\[\[ *\d", done.stdout)


@pytest.mark.ray
@pytest.mark.parametrize("code", blocks("sh"))
def test_first_commands_run_and_leave_a_page(code: str, checkout: Path) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        ["sh", "-ec", code], capture_output=True, text=True, timeout=PATIENCE_S, cwd=checkout, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "`runs/first/preview-4/report.html`" in README
    assert (checkout / "runs/first/preview-4/report.html").is_file()


def test_every_verb_and_recipe_named_in_commands_exists() -> None:
    import typer
    from typer.main import get_command

    from pipelines.cli.app import app
    from pipelines.recipe.model import shipped_recipes
    from tune.cli import register
    from tune.sweep import shipped_sweeps

    more = typer.Typer()
    register(more)
    more.command("nothing")(lambda: None)  # one command alone would not be a group
    verbs = {**get_command(app).commands, **get_command(more).commands}  # type: ignore[attr-defined]
    named = re.findall(r"weaksam ([a-z-]+)(?: ([a-z0-9-]+))?", "\n".join(FENCED))
    assert len(named) >= 8
    for verb, recipe in named:
        assert verb in verbs
        if verb in ("run", "propose"):
            assert recipe in shipped_recipes()
        if verb == "tune":
            assert recipe in shipped_sweeps()


def test_tested_blocks_are_there() -> None:
    assert len(blocks("sh")) == 1
    assert len(blocks("python")) == 1


def test_linked_and_named_files_exist() -> None:
    assert len(PAGES) > 3
    for page, text in PAGES.items():
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        named = re.findall(r"`((?:weaksam|pipelines|tune|recipes|benchmarks|tests|docs)/[\w./]*)`", text)
        assert page != "README.md" or named
        for path in [*((ROOT / page).parent / link for link in links), *(ROOT / name for name in named)]:
            assert "NAME" in str(path) or path.exists(), f"{page}: {path}"


def test_the_readme_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 200


def test_the_example_of_a_recipe_loads(tmp_path: Path) -> None:
    from pipelines.recipe.model import load_recipe

    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    recipe, _ = load_recipe(str(tmp_path / "mine.yaml"), ["retrain.dino.seed=1", "retrain.seed=2"])
    assert (recipe.of("retrain.dino").retrain.detector, recipe.of("retrain.dino").retrain.seed) == ("dino", 1)
    assert (recipe.of("retrain").retrain.detector, recipe.of("retrain").retrain.seed) == ("faster_rcnn", 2)
