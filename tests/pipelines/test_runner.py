from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines import registry
from pipelines.bringing import Resolved, TooManyDroppedError, dropped_allowed
from pipelines.engine.product import Facts, Product
from pipelines.engine.stage import Job, Options, Stage
from pipelines.engine.status import InstanceStatus, run_status
from pipelines.products.index import Index
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.store import lock
from pipelines.store.dropped import write_dropped
from pipelines.store.files import write_bytes, write_json
from pipelines.store.identities import identities
from pipelines.store.instances import Instance, current_instance
from pipelines.store.lock import Lock
from pipelines.store.planned import without
from pipelines.store.proof import prove
from pipelines.store.schemas import IMAGE_ID, IMAGES, INPUT, PROPOSALS, proposals_to_row
from tests.support.drawn_run import with_instances
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.voice import Recorder
from weaksam.errors import CheckpointError, ConfigError, DataError, RunError
from weaksam.structures import Proposals

SHAPES = ("data.shapes.train=3", "data.shapes.val=2", "data.shapes.test=0", "data.shapes.size=32")


def grid(*overrides: str) -> Recipe:
    return load_recipe("grid", [*SHAPES, *overrides], "shapes:")[0]


def shapes(*overrides: str) -> Recipe:
    return load_recipe("shapes", [*SHAPES, *overrides])[0]


def bring(recipe: Recipe, run: Path, *names: str, **options: Any) -> tuple[dict[str, dict[str, Any]], str]:
    """Bring instances up to date; returns their manifests and what was printed."""
    voice = Recorder()
    return Run(recipe, str(run)).bring(names, Options(**options), voice), voice.text


def files_in(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_others_see_how_far_a_stage_at_work_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.02)
    seen: list[InstanceStatus] = []

    class Looking(Recorder):
        @contextmanager
        def rows(self, label: str, total: int, count: Callable[[], int]) -> Iterator[None]:
            wait_until(lambda: of_propose().figures.unit)
            seen.append(of_propose())
            with super().rows(label, total, count):
                yield

    def of_propose() -> InstanceStatus:
        return next(line for line in run_status(str(tmp_path)) if line.name == "propose")

    Run(grid("resources.here=true"), str(tmp_path)).bring(["propose"], Options(), Looking())
    (during,), after = seen, of_propose()
    assert (during.state, during.figures.done, during.figures.planned) == ("running", 0, 5)
    assert (after.state, after.figures.done, after.figures.planned) == ("finished", 5, 5)


# --- order and keys


def test_what_an_instance_reads_comes_before_it_and_once() -> None:
    assert Run(grid(), "/run").needed_for("index") == ["index"]
    assert Run(grid(), "/run").needed_for("propose") == ["index", "propose"]
    assert Run(shapes(), "/run").needed_for("propose") == ["index", "train-classifier", "propose"]
    assert Run(shapes("clues.weights=x.pth"), "/run").needed_for("propose") == ["index", "propose"]


@pytest.mark.parametrize("name", ["nonsense", "nonsense.x", ""])
def test_an_unknown_verb_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one of index, .*propose"):
        bring(grid(), tmp_path, name)


KEYS: dict[str, tuple[str, bool, bool]] = {
    # what is set: does the key of index change, does the key of propose
    "a threshold": ("proposals.min_predicted_iou=0.4", False, True),
    "a grid": ("prompts.points_per_side=4", False, True),
    "chosen splits": ("propose.splits=[train]", False, False),
    "the data": ("data.shapes.seed=7", True, False),
    "the labels": ("data.include_difficult=true", True, False),
    "a limit": ("data.limit=1", True, False),
    "actors": ("resources.segment_actors=7", False, False),
    "threads": ("resources.threads_per_actor=7", False, False),
    "rows per task": ("resources.rows_per_task=7", False, False),
    "the report": ("report.title=other", False, False),
    "the name": ("name=other", False, False),
    "a list of stages that measures nothing": ("stages=[index]", True, False),
}


@pytest.mark.parametrize(("setting", "index", "propose"), KEYS.values(), ids=KEYS.keys())
def test_keys_change_with_the_method_and_not_with_resources_or_looks(
    tmp_path: Path, setting: str, index: bool, propose: bool
) -> None:
    def keys(recipe: Recipe) -> tuple[str, str]:
        run = Run(recipe, str(tmp_path))
        return run.instance("index").key, run.instance("propose").key

    before, after = keys(grid()), keys(grid(setting))
    assert (before[0] != after[0], before[1] != after[1]) == (index, propose)


@pytest.mark.parametrize(
    ("recipe", "columns"),
    [
        pytest.param(grid(), ("content",), id="a grid"),
        pytest.param(shapes(), ("content", "labels_difficult"), id="clues of the labels"),
        pytest.param(
            shapes("clues.cam.include_difficult=false"), ("content", "labels"), id="without difficult objects"
        ),
        pytest.param(shapes("clues.gating=predicted"), ("content",), id="clues of what is predicted"),
    ],
)
def test_labels_have_a_say_in_proposals_where_they_gate_clues(
    tmp_path: Path, recipe: Recipe, columns: tuple[str, ...]
) -> None:
    planned = Run(recipe, str(tmp_path)).instance("propose").planned
    assert planned is not None
    assert planned.columns == columns


def test_a_key_does_not_depend_on_where_the_run_is(tmp_path: Path) -> None:
    keys = {Run(grid(), str(tmp_path / run)).instance("propose").key for run in ("a", "b")}
    assert len(keys) == 1


# --- the index, a stage without Ray


def test_a_finished_instance_is_recognised_and_not_touched(tmp_path: Path) -> None:
    first, printed = bring(grid(), tmp_path, "index")
    assert "images 5 (train 3, val 2) · classes 6: ellipse, rectangle, " in printed
    before = files_in(tmp_path)
    second, printed = bring(grid(), tmp_path, "index")
    assert second == first
    assert "is finished: images 5" in printed
    assert files_in(tmp_path) == before


def test_a_changed_setting_gets_a_new_folder_and_is_printed(tmp_path: Path) -> None:
    bring(grid(), tmp_path, "index")
    old = current_instance(str(tmp_path), "index")
    _, printed = bring(grid("data.limit=1", "data.include_difficult=true"), tmp_path, "index")
    new = current_instance(str(tmp_path), "index")
    assert old is not None
    assert new is not None
    assert old.key != new.key
    assert f"not the {old.key} of before, which stays" in printed
    assert "method.data.include_difficult: false -> true\n  method.data.limit: 0 -> 1\n" in printed
    assert old.manifest() is not None
    assert len(old.table(IMAGES).ids()) == 5
    assert len(new.table(IMAGES).ids()) == 2


def test_going_back_to_earlier_settings_finds_the_earlier_results_and_shows_them(tmp_path: Path) -> None:
    bring(grid(), tmp_path, "index")
    old = current_instance(str(tmp_path), "index")
    bring(grid("data.limit=1"), tmp_path, "index")
    _, printed = bring(grid(), tmp_path, "index")
    assert "is finished" in printed
    assert current_instance(str(tmp_path), "index") == old


def test_an_interrupted_instance_is_done_again(tmp_path: Path) -> None:
    first, _ = bring(grid(), tmp_path, "index")
    instance = current_instance(str(tmp_path), "index")
    assert instance is not None
    Path(instance.manifest_uri).unlink()
    second, printed = bring(grid(), tmp_path, "index")
    assert "is finished" not in printed
    assert second["index"]["text"] == first["index"]["text"]
    assert instance.table(IMAGES).count() == 5


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path: Path) -> None:
    manifests, printed = bring(grid(), tmp_path / "run", "propose", dry_run=True)
    assert manifests == {}
    assert "index" in printed
    assert printed.count("would run") == 2
    assert not (tmp_path / "run").exists()

    bring(grid(), tmp_path / "run", "index")
    before = files_in(tmp_path)
    _, printed = bring(grid(), tmp_path / "run", "propose", dry_run=True)
    assert "finished: images 5" in printed
    assert printed.count("would run") == 1
    assert files_in(tmp_path) == before


def test_looking_at_an_empty_run_folder_changes_nothing_of_what_is_made_there(tmp_path: Path) -> None:
    run, keys = str(tmp_path), []
    for _ in ("before its images are listed", "after"):
        looked = Run(shapes(), run)
        keys.append({name: looked.instance(name).key for name in looked.needed_for("retrain", "evaluate.mil")})
        bring(shapes(), tmp_path, "index")
    assert keys[0] == keys[1]
    asked = {name: Run(shapes(), run).instance(name).planned_rows().num_rows for name in ("propose", "train-mil")}
    assert asked == {"propose": 5, "train-mil": 3}


def test_a_dry_run_by_another_index_of_the_same_images_finds_their_rows_finished(tmp_path: Path) -> None:
    recipe = grid("prompts.points_per_side=1", "resources.here=true")
    bring(recipe.model_copy(update={"stages": ("index", "propose")}), tmp_path, "propose")
    _, printed = bring(recipe, tmp_path, "propose", dry_run=True)  # whose index looks at true boxes, too
    assert "damaged" not in printed
    assert printed.count("finished: images 5 = done 5") == 1
    _, printed = bring(recipe, tmp_path, "train-mil", dry_run=True)  # which reads the rows of a part of them
    assert printed.count("would run") == 2  # and the index


@pytest.mark.parametrize(("retry", "to_do"), [(False, 2), (True, 3)], ids=["", "--retry-dropped"])
def test_a_dry_run_counts_the_images_that_are_left(tmp_path: Path, retry: bool, to_do: int) -> None:
    bring(grid(), tmp_path, "index")
    propose = Run(grid(), str(tmp_path)).instance("propose")
    planned = propose.planned_rows().to_pylist()
    nothing = Proposals(
        size_hw=(32, 32), boxes_xyxy=np.zeros((0, 4), np.float32), source=[], prompt_index=np.zeros(0, np.int32),
        mask_index=np.zeros(0, np.int8), predicted_iou=np.zeros(0, np.float32),
    )  # fmt: skip
    rows = [proposals_to_row(row["image_id"], row["input"], nothing) for row in planned[:2]]
    rows.append(proposals_to_row(planned[2]["image_id"], "of another picture", nothing))
    propose.table(PROPOSALS).write_rows(rows, "part-0")
    write_dropped(propose, [{**planned[2], "uri": "", "reason": "truncated", "detail": ""}])
    _, printed = bring(grid(), tmp_path, "propose", dry_run=True, retry_dropped=retry)
    assert f"would run. {to_do} of 5 images to do." in printed


def test_an_instance_that_another_process_works_on_is_left_alone(tmp_path: Path) -> None:
    folder = Run(grid(), str(tmp_path)).instance("index").folder
    with Lock(folder, "weaksam index"), pytest.raises(RunError, match="is held by weaksam index"):
        bring(grid(), tmp_path, "index", wait_s=0.0)
    assert current_instance(str(tmp_path), "index") is None
    bring(grid(), tmp_path, "index")


def test_who_waited_for_a_lock_finds_the_work_done(tmp_path: Path) -> None:
    recipe = grid()
    code = (
        "import io, sys, time; from tests.pipelines.test_runner import *\n"
        "with Lock(Run(grid(), sys.argv[1]).instance('index').folder, 'first') as lock:\n"
        "    print('held', flush=True); time.sleep(0.5)\n"
        "    Run(grid(), sys.argv[1]).instance('index').finish({'text': 'by the first', 'reads': {}})\n"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    manifests, _ = bring(recipe, tmp_path, "index", wait_s=PATIENCE_S)
    first.communicate()
    assert manifests["index"]["text"] == "by the first"


def test_a_finished_run_is_recognised_without_torch_and_ray(tmp_path: Path) -> None:
    """Both instances finished; the drawn data set's fingerprint and the built-in weights' checksum are computed anew."""
    recipe = grid()
    bring(recipe, tmp_path, "index")
    finish(Run(recipe, str(tmp_path)).resolve("propose"), images=5, dropped=0)
    code = (
        "import sys; from pathlib import Path; from tests.pipelines.test_runner import bring, grid\n"
        "manifests, printed = bring(grid(), Path(sys.argv[1]), 'propose')\n"
        "print(sorted(manifests), printed.count('is finished'), sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "['index', 'propose'] 2 []\n", done.stderr


def finish(resolved: Resolved, **proof: int) -> Instance:
    """Write what a finished instance leaves behind, as if its work had been done."""
    resolved.instance.begin(resolved.parts)
    resolved.instance.finish({"text": "done", "reads": resolved.read(), "images": proof})
    return resolved.instance


def test_an_instance_that_reads_what_is_made_of_it_is_refused() -> None:
    recipe = shapes("pseudo_labels.detections=detect.final")
    with pytest.raises(ConfigError, match=r"label <- detect\.final <- retrain <- label; let one of them read another"):
        Run(recipe, "/run").needed_for("label")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("retrain.detector.anchor_sides=[8,16]", "one per pyramid level of small"),
        ("mil.freeze_stages=9", "freeze_stages"),
        ("clues.source.init=nowhere.pth", "nowhere.pth"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_others_are_made(
    setting: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=told):
        bring(shapes(setting), tmp_path, "detect.final")
    assert {path.name for path in tmp_path.iterdir()} <= {"index"}


def test_splits_of_which_nothing_is_common_are_not_taken_for_all_of_them() -> None:
    recipe = shapes("propose.splits=[val]", "detect.mil.splits=[train]")
    with pytest.raises(DataError, match=r"detect.mil: expected propose to be of train, it is of val alone"):
        Run(recipe, "/run").instance("detect.mil")


# --- dropped images: a small table stage between the index and one that reads it


class Counting:
    """Two stages: "toy" keeps the indexed images but those in ``broken``, "sum" counts what toy kept."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.executed: list[str] = []

    def toy(self, job: Job[None]) -> Facts:
        self.executed.append("toy")
        planned = job.instance.planned_rows()
        uris = job.input("index", Index).uris(planned["image_id"].to_pylist())
        if job.asked.retry_dropped:
            job.instance.dropped.remove_all()
        table = job.instance.table(Kept.schema)
        for row in without(planned, identities(table)).select(["image_id", "input"]).to_pylist():
            if row["image_id"] in self.broken:
                drop = {**row, "uri": uris[row["image_id"]], "reason": "broken", "detail": ""}
                write_dropped(job.instance, [drop])
            else:
                table.write_rows([row], f"part-{row['image_id']}")
        proof = prove(planned, table, job.instance.dropped)
        return Facts(text=str(proof), images=proof)

    def sum(self, job: Job[None]) -> Facts:
        self.executed.append("sum")
        return Facts(text=f"counted {len(job.input('toy', Kept).table.ids())}")


class Kept(Product[Facts]):
    schema = pa.schema([IMAGE_ID, INPUT])


class Sum(Product[Facts]):
    pass


class ToyStage(Stage[None]):
    """A stage that reads what it is told and does what it is told."""

    def __init__(
        self,
        like: Stage[Any] | str,
        reads: tuple[str, ...],
        do: Callable[[Job[None]], Facts],
        product: type | None = None,
    ) -> None:
        if isinstance(like, Stage):
            self.verb, self.product, self.when_stopped = like.verb, like.product, like.when_stopped
        else:
            self.verb = like
        self.product = product or self.product
        self._reads, self._do = reads, do

    def options(self, recipe: Recipe, name: str) -> None:
        pass

    def reads(self, options: None) -> tuple[str, ...]:  # noqa: ARG002
        return self._reads

    def method(self, options: None) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def contents(self, options: None) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def run(self, job: Job[None]) -> Facts:
        return self._do(job)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()

    toys = {
        "toy": ToyStage("toy", ("index",), counting.toy, Kept),
        "sum": ToyStage("sum", ("toy",), counting.sum, Sum),
    }
    monkeypatch.setattr(registry, "STAGES", {**registry.STAGES, **toys})
    return counting


def test_too_many_dropped_images_stop_the_run_but_the_good_ones_stay(tmp_path: Path, toy: Counting) -> None:
    toy.broken = {"train-00001"}
    expected = (
        "toy: 1 of 5 images were dropped, 0 are allowed (--max-dropped 0%):\n"
        "  broken 1 (such as shapes:train/1?size=32&seed=0)\n"
        f"`weaksam dropped {tmp_path}` lists them all; mend the images, and the same command tries them again, or allow more."
    )
    for attempt in range(2):  # the second one finds the work done and judges again
        with pytest.raises(TooManyDroppedError) as stopped:
            bring(grid(), tmp_path, "sum", max_dropped="0%")
        assert str(stopped.value) == expected
        assert toy.executed == ["toy"], attempt
    manifests, _ = bring(grid(), tmp_path, "sum", max_dropped="1")
    assert manifests["toy"]["images"]["done"] == 4
    assert manifests["sum"]["text"] == "counted 4"
    assert toy.executed == ["toy", "sum"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, toy: Counting) -> Counting:
    """The toy stages, followed by stand-ins for those that measure and show."""

    def stand_in(verb: str, *reads: str) -> None:
        def do(job: Job[None]) -> Facts:
            toy.executed.append(f"{job.instance.name} of {', '.join(job.inputs)}")
            if job.instance.name == "evaluate.bad":
                raise RunError("nothing to measure")
            return Facts()

        monkeypatch.setitem(registry.STAGES, verb, ToyStage(registry.STAGES[verb], reads, do))

    stand_in("evaluate", "toy")
    stand_in("analyse", "toy")
    stand_in("report", "index", "toy", "sum", "evaluate.x")
    return toy


def test_what_a_stopped_run_has_made_is_measured_and_shown_all_the_same(
    tmp_path: Path, measured: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    measured.broken = {"train-00001"}
    names = ("toy", "sum", "analyse.x", "evaluate.bad", "evaluate.x", "report")
    recipe = with_instances(grid(), analyse_x={}, evaluate_bad={}, evaluate_x={})
    with pytest.raises(TooManyDroppedError, match="toy: 1 of 5"):
        bring(recipe, tmp_path, *names, max_dropped="0")
    assert measured.executed == ["toy", "evaluate.bad of toy", "evaluate.x of toy", "report of index, toy, evaluate.x"]
    assert "evaluate.bad is not made: nothing to measure" in caplog.text
    measured.executed.clear()
    bring(recipe, tmp_path, "sum", "report", max_dropped="1")  # and the page is made again once there is more to show
    assert measured.executed == ["sum", "report of index, toy, sum, evaluate.x"]


def test_healed_images_come_back_and_what_was_made_of_them_is_made_again(tmp_path: Path, toy: Counting) -> None:
    toy.broken = {"train-00001", "val-00000"}
    bring(grid(), tmp_path, "sum", max_dropped="50%")
    toy.broken = {"val-00000"}
    manifests, _ = bring(grid(), tmp_path, "sum", max_dropped="50%")
    assert manifests["sum"]["text"] == "counted 3"  # nobody asked for another try
    manifests, _ = bring(grid(), tmp_path, "sum", max_dropped="50%", retry_dropped=True)
    assert manifests["toy"]["text"] == "images 5 = done 4 + dropped 1 · duplicates 0"
    assert manifests["sum"]["text"] == "counted 4"
    assert toy.executed == ["toy", "sum", "toy", "sum"]


def test_a_retry_that_heals_nothing_makes_nothing_else_again(tmp_path: Path, toy: Counting) -> None:
    toy.broken = {"train-00001"}
    bring(grid(), tmp_path, "sum", max_dropped="1")
    bring(grid(), tmp_path, "sum", max_dropped="1", retry_dropped=True)
    assert toy.executed == ["toy", "sum", "toy"]


def rewrite_manifest(run: Path, name: str, **changes: Any) -> None:
    """Change fields of a finished instance's manifest; None takes one out."""
    instance = current_instance(str(run), name)
    assert instance is not None
    manifest = (instance.manifest() or {}) | changes
    write_json(instance.manifest_uri, {name: value for name, value in manifest.items() if value is not None})


def test_a_sentence_for_people_that_is_put_otherwise_makes_nothing_again(tmp_path: Path, toy: Counting) -> None:
    bring(grid(), tmp_path, "sum")
    rewrite_manifest(tmp_path, "toy", text="5 of 5 images, none twice")
    bring(grid(), tmp_path, "sum")
    assert toy.executed == ["toy", "sum"]


def test_other_rows_are_read_again_whatever_the_sentence_says(tmp_path: Path, toy: Counting) -> None:
    registry.STAGES["toy"] = ToyStage("toy", ("index",), lambda job: replace(toy.toy(job), text="as ever"), Kept)
    toy.broken = {"train-00001"}
    bring(grid(), tmp_path, "sum", max_dropped="1")
    toy.broken = set()
    bring(grid(), tmp_path, "sum", retry_dropped=True)
    assert toy.executed == ["toy", "sum", "toy", "sum"]


@pytest.mark.parametrize(("weights", "read_again"), [(b"01", False), (b"10", True)], ids=["the same", "others"])
def test_weights_that_are_made_again_are_read_again_if_they_are_others(
    tmp_path: Path, toy: Counting, weights: bytes, read_again: bool
) -> None:
    def train(content: bytes) -> ToyStage:
        def do(job: Job[None]) -> Facts:
            write_bytes(job.instance.file("detector.safetensors"), content)
            return Facts(text="steps planned 2 = done 2")

        return ToyStage("toy", ("index",), do, Kept)

    registry.STAGES["toy"] = train(b"01")
    registry.STAGES["sum"] = ToyStage("sum", ("toy",), lambda _job: toy.executed.append("sum") or Facts(), Sum)
    bring(grid(), tmp_path, "sum")
    registry.STAGES["toy"] = train(weights)
    trained = current_instance(str(tmp_path), "toy")
    assert trained is not None
    Path(trained.file("detector.safetensors")).unlink()
    bring(grid(), tmp_path, "sum")
    assert toy.executed == ["sum", "sum"][: 1 + read_again]


def test_without_dropped_images_there_is_nothing_to_retry(tmp_path: Path, toy: Counting) -> None:
    bring(grid(), tmp_path, "toy")
    bring(grid(), tmp_path, "toy", retry_dropped=True)
    assert toy.executed == ["toy"]


def test_a_proof_that_fails_leaves_the_instance_unfinished(tmp_path: Path, toy: Counting) -> None:
    def loses_all(job: Job[None]) -> Facts:
        return Facts(images=prove(job.instance.planned_rows(), job.instance.table(Kept.schema), job.instance.dropped))

    registry.STAGES["toy"] = ToyStage("toy", ("index",), loses_all, Kept)
    with pytest.raises(RunError, match="the proof does not hold"):
        bring(grid(), tmp_path, "toy")
    instance = current_instance(str(tmp_path), "toy")
    assert instance is not None
    assert instance.plan() is not None
    assert instance.manifest() is None
    assert not Path(instance.file("_lock")).exists()


ALLOWED: dict[str, tuple[int, int]] = {
    "0": (100, 0),
    "25": (100, 25),
    "1%": (100, 1),
    " 1 % ": (100, 1),
    "0%": (100, 0),
    "100%": (7, 7),
    "0.5%": (201, 2),
    "1% ": (1, 1),
    "50%": (1, 1),
    "1%  ": (0, 0),
    "2.5%": (40, 1),
    "4.35%": (10_000, 435),  # in floating point 434.99…
    "999": (10, 999),
}


@pytest.mark.parametrize(("text", "total", "allowed"), [(t, *v) for t, v in ALLOWED.items()])
def test_a_share_rounds_up_and_a_count_is_a_count(text: str, total: int, allowed: int) -> None:
    assert dropped_allowed(text, total) == allowed


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "101%", "some", "1.5", "nan", "nan%", "inf", "1%%", "1e2", "²"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a share like 1% or a count like 25"):
        dropped_allowed(text, 100)


def test_a_limit_that_is_none_is_told_before_anything_is_done(tmp_path: Path, toy: Counting) -> None:
    with pytest.raises(ConfigError, match="expected a share like 1% or a count like 25, got 'few'"):
        bring(grid(), tmp_path, "sum", max_dropped="few")
    assert toy.executed == []
