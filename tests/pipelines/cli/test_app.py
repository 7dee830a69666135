from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import weaksam
from pipelines.cli import app as cli
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.store.lock import Lock
from tests.support.patience import PATIENCE_S

ROOT = Path(weaksam.__file__).parents[1]
SETTINGS = ["data.shapes.train=3", "data.shapes.val=2", "data.shapes.test=0", "data.shapes.size=32"]
SET = [argument for setting in SETTINGS for argument in ("--set", setting)]
# What the console script does, and what it had to import for it.
ENTRY = (
    "import atexit, os, sys; sys.argv[0] = 'weaksam'\n"
    "heavy = lambda: os.write(3, repr(sorted({'torch', 'ray'} & set(sys.modules))).encode())\n"
    "atexit.register(heavy)\n"
    "from pipelines.cli.app import main; main()"
)


def weaksam_command(*arguments: str, cwd: Path) -> tuple[int, str, str, str]:
    """Run ``weaksam`` in a process of its own; returns exit code, stdout, stderr and the heavy modules it imported."""
    reading, writing = os.pipe()
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" 3>&{writing} {writing}>&-', "bash", sys.executable, "-c", ENTRY, *arguments],
        cwd=cwd,
        env=environment,
        pass_fds=[writing],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(writing)
    heavy = os.read(reading, 1000).decode()
    os.close(reading)
    return done.returncode, done.stdout, done.stderr, heavy


def all_commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def visit(command: object, path: tuple[str, ...]) -> None:
        found.append(path)
        for name, sub in getattr(command, "commands", {}).items():
            visit(sub, (*path, name))

    visit(typer.main.get_command(cli.app), ())
    return found


def invoke(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("command", all_commands(), ids=lambda path: " ".join(path) or "weaksam")
def test_help_explains_every_verb(command: tuple[str, ...]) -> None:
    text = invoke(*command, "--help")
    assert f"Usage: {' '.join(('weaksam', *command))}" in text.replace("root", "weaksam")
    if command and command != ("weights",):
        assert f"weaksam {' '.join(command)}" in text.partition("Usage:")[2].partition("\n")[2], "no example"


def test_the_verbs_are_all_there() -> None:
    verbs = {path[0] for path in all_commands() if path}
    assert verbs >= {
        "run", "demo", "index", "train-classifier", "propose", "label", "true-masks", "evaluate", "analyse", "report", "export",
        "import", "import-masks", "status", "doctor", "weights", "clean", "recipes",
    }  # fmt: skip


def test_help_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    code, out, err, heavy = weaksam_command("--help", cwd=tmp_path)
    assert (code, err, heavy) == (0, "", "[]")
    assert "weaksam demo" in out


def test_the_printed_recipe_is_a_recipe(tmp_path: Path) -> None:
    text = invoke("run", "voc07", "--print-recipe", "--set", "prompts.points_per_side=16", "--data", "/data")
    assert "points_per_side: 16  # --set" in text
    assert "uri: /data  # --data" in text
    assert "kind: voc  # voc07.yaml" in text
    (tmp_path / "mine.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "mine.yaml"))[0].prompts.points_per_side == 16


def test_the_shipped_recipes_are_listed() -> None:
    text = invoke("recipes")
    for name in ("shapes", "voc07", "coco14", "grid"):
        assert name in text
    assert "presets" not in text


MISTAKES: dict[str, tuple[list[str], int, list[str]]] = {
    "no such recipe": (["run", "voc7"], 1, ["no recipe 'voc7'", "did you mean voc07?"]),
    "no data": (["run", "grid"], 1, ["recipe grid names no data; add --data"]),
    "no such data": (["index", "grid", "--data", "nowhere"], 1, ["nowhere"]),
    "no such option": (["run", "grid", "--data", "x", "--set", "promts.x=1"], 1, ["did you mean prompts?"]),
    "a stage that is not there": (["run", "grid", "--data", "x", "--from", "retrain"], 1, ["expected one of index"]),
    "stages in the wrong order": (["run", "grid", "--data", "x", "--from", "report", "--until", "index"], 1, ["comes after"]),
    "no run": (["status", "nowhere"], 1, ["expected a run folder", "nowhere"]),
    "no run to clean": (["clean", ".", "--yes"], 1, ["expected a run folder"]),
    "no such drops": (["index", "grid", "--data", "shapes:", *SET, "--max-dropped", "few"], 1, ["expected a share like 1%"]),
    "no such verb": (["frobnicate"], 2, ["No such command 'frobnicate'"]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "parts"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_ends_in_a_line_and_an_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["weaksam", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr().err
    assert ended.value.code == code
    assert "Traceback" not in printed
    if code == 1:
        assert printed.startswith("error: ")
    for part in parts:
        assert part in printed


def test_a_run_goes_its_way_and_says_so(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    printed = invoke("index", "grid", "--data", "shapes:", "--out", out, *SET)
    assert "images 5 (train 3, val 2)" in printed
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    assert "is finished" in invoke("index", "grid", "--data", "shapes:", "--out", out, *SET)
    assert "is finished" in invoke("index", out)  # the run's own recipe, in its own folder
    shown = invoke("status", out)
    assert "finished" in shown
    assert "not begun: propose, evaluate.proposals, report" in shown
    assert f"`weaksam run {out}` goes on" in shown
    assert "nothing to remove" in invoke("clean", out, "--yes")
    assert "images 3 (train 3)" in invoke("index", out, "--set", "data.splits=[train]")
    assert "an earlier key" in invoke("clean", out, "--yes")
    assert len([p for p in (tmp_path / "run" / "index").iterdir() if p.is_dir()]) == 1


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    printed = invoke(
        "run", "grid", "--data", "shapes:", "--out", str(tmp_path / "run"), "--until", "propose", "--dry-run", *SET
    )
    assert printed.count("would run") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "given", "without_effect"),
    [
        ("grid", ["prompts.points_per_side=3", "resources.here=true", "report.gallery_images=3"], []),
        ("grid", ["mil.steps=3", "prompts.points_per_side=3"], ["mil.steps=3"]),
        ("photos", ["sam.name=vit_t", "sam.weights=mobile_sam.pt"], ["sam.name=vit_t", "sam.weights=mobile_sam.pt"]),
        ("photos-sam", ["sam.precision=fast"], []),
        ("photos", ["detect.mil.splits=[val]", "stages=[index,train-mil,detect.mil]"], []),
    ],
)
def test_values_that_no_stage_reads_are_said(recipe: str, given: list[str], without_effect: list[str]) -> None:
    values = [word for item in given for word in ("--set", item)]
    output = invoke("run", recipe, "--data", "shapes:", "--out", "run", "--dry-run", *values)
    said = [line.split()[1] for line in output.splitlines() if "changes nothing" in line]
    assert said == without_effect


def test_a_recipe_whose_stages_read_a_value_is_named() -> None:
    def said(recipe: str, item: str) -> str:
        return " ".join(invoke("run", recipe, "--data", "shapes:", "--out", "run", "--dry-run", "--set", item).split())

    unread = "changes nothing: no stage that is asked for reads it"
    assert f"sam.precision=fast {unread}; recipe photos-sam has one that does" in said("photos", "sam.precision=fast")
    other = said("grid", "mil.steps=3")
    assert f"mil.steps=3 {unread}" in other
    assert "has one that does" not in other


def test_the_default_folder_is_named_after_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("index", "grid", "--data", "shapes:", *SET, "--limit", "1")
    assert sorted(p.name for p in (tmp_path / "runs" / "grid").iterdir()) == ["index", "preview-1"]


def finished_with_drops(run: Path) -> None:
    """A finished ``propose`` that dropped 2 of 5 images."""
    invoke("index", "grid", "--data", "shapes:", "--out", str(run), *SET)
    resolved = Run(load_recipe("grid", SETTINGS, "shapes:")[0], str(run)).resolve("propose")
    resolved.instance.begin(resolved.parts)
    proof = {"images": 5, "done": 3, "dropped": 2, "duplicates": 0}
    resolved.instance.finish(
        {"text": "images 5 = done 3 + dropped 2 · duplicates 0", "images": proof, "reads": resolved.read()}
    )


@pytest.mark.slow
def test_too_many_dropped_images_end_with_exit_code_3_without_torch_and_ray(tmp_path: Path) -> None:
    finished_with_drops(tmp_path / "run")
    command = ("propose", "grid", "--data", "shapes:", "--out", str(tmp_path / "run"), *SET)
    code, out, err, heavy = weaksam_command(*command, cwd=tmp_path)
    assert (code, heavy) == (3, "[]")
    assert "is finished: images 5 = done 3 + dropped 2" in out
    assert err.startswith("error: propose: 2 of 5 images were dropped, 1 are allowed (--max-dropped 1%)")
    code, _, err, _ = weaksam_command(*command, "--max-dropped", "40%", cwd=tmp_path)
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_whether_a_night_dropped_too_many_is_asked_of_its_files(tmp_path: Path) -> None:
    finished_with_drops(tmp_path / "run")
    look = ("status", str(tmp_path / "run"), "--json", "--max-dropped")
    code, out, err, heavy = weaksam_command(*look, "1%", cwd=tmp_path)
    assert (code, heavy) == (3, "[]")
    (propose,) = (line for line in json.loads(out) if line["name"] == "propose")
    assert (propose["state"], propose["done"], propose["planned"]) == ("finished", 3, 5)
    assert err.startswith("error: propose: 2 of 5 images were dropped, 1 are allowed (--max-dropped 1%)")
    code, again, err, _ = weaksam_command(*look, "40%", cwd=tmp_path)
    assert (code, again, err) == (0, out, "")


def test_a_run_that_another_process_holds_is_named(tmp_path: Path) -> None:
    folder = Run(load_recipe("grid", SETTINGS, "shapes:")[0], str(tmp_path)).instance("index").folder
    with Lock(folder, "weaksam index"):
        code, _, err, _ = weaksam_command(
            "index", "grid", "--wait", "0", "--data", "shapes:", "--out", str(tmp_path), *SET, cwd=tmp_path
        )
    assert code == 1
    assert f"is held by weaksam index (host {os.uname().nodename}, pid {os.getpid()}" in err


@pytest.mark.slow
@pytest.mark.parametrize("verb", [["index", "grid"], ["tune", "sweep.yaml"]])
def test_an_interrupt_ends_in_a_line_and_exit_code_130(tmp_path: Path, verb: list[str]) -> None:
    folder = Run(load_recipe("grid", SETTINGS, "shapes:")[0], str(tmp_path)).instance("index").folder
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("{recipe: grid, space: {prompts.points_per_side: [2, 3]}, objective: recall50}")
    verb = [str(sweep) if word == "sweep.yaml" else word for word in verb]
    command = [*verb, "--data", "shapes:", "--out", str(tmp_path), *SET]
    code = "from pipelines.cli.app import main; main()"
    with Lock(folder, "weaksam index"):
        waiting = subprocess.Popen(
            [sys.executable, "-c", code, *command],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # background jobs inherit that it is ignored
        )
        assert waiting.stderr is not None
        assert any("waiting for" in line for line in waiting.stderr)  # reads until it says so
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 130
    assert "interrupted; the same command goes on" in err
    assert "Traceback" not in err
