"""The benchmark of kills: what it calls lost, doubled, dropped and different; and some kills of its kinds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.kills import disturb
from benchmarks.kills.__main__ import main
from benchmarks.kills.compare import compare
from benchmarks.kills.scenes import SCENES, any_progress
from tests.support.patience import PATIENCE_S


def write(folder: Path, **scores: float) -> None:
    """Write a part of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image_id": list(scores), "score": list(scores.values())})
    pq.write_table(table, folder / f"part-{len(list(folder.iterdir()))}.parquet")


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal runs with an instance of rows, one of weights and a trial."""
    pair = tmp_path / "a", tmp_path / "b"
    for run in pair:
        write(run / "propose" / "k", one=1.0, two=2.0)
        (run / "propose" / "k" / "_manifest.json").touch()
        (run / "train" / "k" / "_sets").mkdir(parents=True)
        (run / "train" / "k" / "_sets" / "s.manifest.json").touch()
        save_file({"weight": torch.ones(2)}, run / "train" / "k" / "model.safetensors")
        trials = run / "tune" / "sweep" / "trials"
        trials.mkdir(parents=True)
        (trials / "k.json").write_text(f'{{"ap50": 0.5, "seconds": {len(run.name)}, "ended": "{run.name}"}}')
    return pair


def test_equal_runs_have_nothing_wrong(runs: tuple[Path, Path]) -> None:
    found = compare(*runs)
    assert (found.rows, found.wrong, found.first) == (2, 0, "")


def test_rows_are_lost_doubled_dropped_and_different(runs: tuple[Path, Path]) -> None:
    undisturbed, disturbed = (run / "propose" / "k" for run in runs)
    write(undisturbed, three=3.0)
    write(disturbed, one=1.0)
    (disturbed / "_dropped").mkdir()
    dropped = {"image_id": ["three"], "reason": ["process died"], "detail": ["twice"]}
    pq.write_table(pa.table(dropped), disturbed / "_dropped" / "part-0.parquet")
    found = compare(*runs)
    assert (found.rows, found.lost, found.doubled, found.dropped) == (3, 1, 1, 1)
    assert found.first == "propose/k: 1 row(s) lost"
    for part in disturbed.rglob("*.parquet"):
        part.unlink()
    write(disturbed, two=2.0, one=1.5, three=3.0)
    found = compare(*runs)
    assert (found.lost, found.doubled, found.dropped, found.differing) == (0, 0, 0, 1)
    assert found.first == "propose/k: one: score: 1.0 != 1.5"


def test_weights_figures_and_instances_differ(runs: tuple[Path, Path]) -> None:
    _, disturbed = runs
    save_file({"weight": torch.tensor([1.0, 1.0000001])}, disturbed / "train" / "k" / "model.safetensors")
    (disturbed / "tune" / "sweep" / "trials" / "k.json").write_text('{"ap50": 0.6, "seconds": 1, "ended": ""}')
    (disturbed / "propose" / "k" / "_manifest.json").unlink()
    found = compare(*runs)
    assert found.differing == 3
    assert found.first == "propose/k: finished in the undisturbed run alone"


def test_a_hundred_kills_are_of_every_kind_in_an_order_that_the_seed_decides() -> None:
    assert sum(scene.share for scene in SCENES) == 100
    for scene in SCENES:
        assert Counter(scene.plan(scene.share, Random(1))) == scene.kinds
        assert scene.plan(5, Random(1)) == scene.plan(5, Random(1))
    assert len({tuple(SCENES[0].plan(30, Random(seed))) for seed in range(3)}) == 3


def test_steps_are_counted_beside_a_training_that_was_made_beforehand(tmp_path: Path) -> None:
    (training,) = (scene for scene in SCENES if scene.name == "train-mil")
    for instance, step in (("before", 300), ("now", 15), ("now", 30)):
        checkpoint = tmp_path / "train-mil" / instance / "checkpoints" / f"step-{step:08}.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
    assert training.progress(tmp_path) == 330
    assert training.progress(tmp_path / "elsewhere") == 0


def test_a_run_gets_on_while_a_stage_before_the_scene_s_own_does(tmp_path: Path) -> None:
    (training,) = (scene for scene in SCENES if scene.name == "retrain")
    counts = [any_progress(tmp_path)]
    for name, one in (("detect.mil", "one"), ("detect.mil", "two")):
        write(tmp_path / name / "k", **{one: 1.0})
        counts.append(any_progress(tmp_path))
    checkpoint = tmp_path / "retrain" / "k" / "checkpoints" / "step-00000015.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert [*counts, any_progress(tmp_path)] == [0, 1, 2, 17]
    assert training.progress(tmp_path) == 15


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take nothing for hanging that is slow."""
    monkeypatch.setattr(disturb, "_STANDSTILL_S", PATIENCE_S)


@pytest.mark.ray
@pytest.mark.slow
def test_some_kills_lose_double_drop_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The short form: a node, two actors and a driver, as many of them as the work lasts for."""
    few = ["--kills", "4", "--seed", "31", "--only", "propose", "--images", "24", "--keep", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["kills", *few])
    code, printed = main(), capsys.readouterr().out
    assert code == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("| propose")]
    assert 1 <= int(line.split("|")[2]) <= 4


@pytest.mark.ray
@pytest.mark.long
def test_kills_of_a_detector_and_of_a_training_lose_double_drop_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many as there is time for; proposals, MIST's training and sweeps have tests of their own."""
    few = ["--kills", "4", "--images", "16", "--only", "detect", "retrain", "--keep", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["kills", *few])
    code, printed = main(), capsys.readouterr().out
    assert code == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("| all")]
    assert 2 <= int(line.split("|")[2]) <= 4
