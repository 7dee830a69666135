"""README is executed: what stands under ``<!-- tested -->`` runs; verbs, recipes and files that it or ``docs/`` name exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import chain
from operator import attrgetter
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TESTED = re.findall(r"<!-- tested -->\n```(\w+)\n(.*?)```", README, re.DOTALL)
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")}
PAGES["README.md"] = README
PROSE = {page: " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) for page, text in PAGES.items()}
IN_BACKTICKS = {page: re.findall(r"`([^`]+)`", text) for page, text in PROSE.items()}
FENCED = re.findall(r"```sh\n(.*?)```", "\n".join(PAGES.values()), re.DOTALL)
# Every line of a fence and everything in backticks, comments cut off: what a reader may paste into a shell.
TYPED = [*chain(*IN_BACKTICKS.values()), *(line.partition(" #")[0] for block in FENCED for line in block.splitlines())]
FILES = (".html", ".parquet", ".py", ".yaml")
FOLDERS = "benchmarks|cluster|docs|pipelines|recipes|tests|tools|tune|weaksam"


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


@pytest.fixture
def example(tmp_path: Path) -> str:
    """The recipe that README shows, as a file."""
    (code,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(code)
    return str(tmp_path / "mine.yaml")


@pytest.mark.slow
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


def test_verbs_options_and_recipes_of_commands_exist() -> None:
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
    named = [
        found
        for line in TYPED
        if (found := re.search(r"(?:^|[ /])weaksam ([a-z-]+)(?: ([a-z0-9][a-z0-9-]*))?(.*)", line))
    ]
    assert len(named) >= 20
    for verb, recipe, rest in (found.groups() for found in named):
        assert verb in verbs, verb
        if verb == "table":
            recipe = of[1] if (of := re.match(r" ([a-z][a-z0-9-]*)", rest)) else None
        if verb in ("run", "propose", "table") and recipe:
            assert recipe in shipped_recipes(), recipe
        if verb == "tune" and recipe:
            assert recipe in shipped_sweeps(), recipe
        command = verbs[verb]
        if hasattr(command, "commands"):  # a group, such as `weights`
            command = command.commands[recipe]
        options = {name for parameter in command.params for name in parameter.opts}
        assert set(re.findall(r"(?<!\S)\[?(--[a-z-]+)", rest)) <= options | {"--help"}, f"{verb}{rest}"


def test_options_without_a_verb_are_those_of_some_verb() -> None:
    from typer.main import get_command

    from pipelines.cli.app import app

    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    options = {name for command in commands for parameter in command.params for name in parameter.opts}
    named = {found[1] for line in TYPED if (found := re.match(r"(--[a-z-]+)", line))}
    assert len(named) >= 8
    assert named <= options | {"--retry-failed"}  # of ``weaksam tune``


def test_settings_of_commands_are_fields_of_a_recipe(example: str) -> None:
    from pipelines.recipe.model import load_recipe

    settings = [setting for line in TYPED for setting in re.findall(r"--set ([\w.-]+=[^\s`]+)", line)]
    assert len(settings) >= 6
    for setting in settings:
        load_recipe(example, [re.sub(r"=N$", "=1", setting)])


def test_modules_and_targets_of_commands_exist() -> None:
    modules = {name for line in TYPED for name in re.findall(r"python -m ([\w.]+)", line)}
    targets = {found[1] for line in TYPED if (found := re.match(r"make ([\w-]+)$", line))}
    assert len(modules) >= 8
    assert {"setup", "demo", "check", "test"} <= targets
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_tested_blocks_are_there() -> None:
    assert len(blocks("sh")) == 1
    assert len(blocks("python")) == 1


@pytest.mark.parametrize("page", PAGES)
def test_linked_and_named_files_exist(page: str) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", PROSE[page]) if "://" not in link]
    named = [word for word in IN_BACKTICKS[page] if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*|Makefile", word)]
    paths = [*((ROOT / page).parent / link for link in links), *(ROOT / name for name in named)]
    assert [path for path in paths if path.stem != "NAME" and not path.exists()] == []
    modules = [word for word in IN_BACKTICKS[page] if re.fullmatch(r"\w+\.py", word)]
    assert [name for name in modules if not any(ROOT.glob(f"[a-z]*/**/{name}"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_named_options_are_fields_of_a_recipe(page: str) -> None:
    from pipelines.recipe.model import load_recipe

    recipe = load_recipe("shapes")[0]
    instances = {*recipe.instances, *load_recipe("photos")[0].instances}
    sections = "|".join(type(recipe).model_fields)
    options = [word for word in IN_BACKTICKS[page] if re.fullmatch(rf"(?:{sections})(?:\.[a-z_]+)+", word)]
    for option in (word for word in options if word not in instances and Path(word).suffix not in FILES):
        attrgetter(option)(recipe)


def test_every_page_is_reached_from_the_readme() -> None:
    reached = set(re.findall(r"\]\((docs/[^)#]+)\)", README))
    assert reached == {page for page in PAGES if page != "README.md"}


def test_names_are_where_the_readme_says() -> None:
    named = re.findall(r"`(\w+)` in `([\w./]+)`", PROSE["README.md"])
    assert len(named) >= 8
    for name, path in named:
        defined = rf"^(?:class|def) {name}\b|^{name}\b.* = |import .*\b{name}\b"
        assert re.search(defined, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{path}: {name}"


def test_the_readme_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 200


def test_the_example_of_a_recipe_loads(example: str) -> None:
    from pipelines.recipe.model import load_recipe

    recipe, _ = load_recipe(example, ["retrain.dino.seed=1", "retrain.seed=2"])
    assert (recipe.of("retrain.dino").retrain.detector.name, recipe.of("retrain.dino").retrain.seed) == ("dino", 1)
    assert (recipe.of("retrain").retrain.detector.name, recipe.of("retrain").retrain.seed) == ("faster_rcnn", 2)
