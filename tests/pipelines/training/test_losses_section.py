"""The loss curves of a page."""

from pipelines.training.checkpoints import write_scalars
from pipelines.training.sections.losses import averages, view
from tests.support.measured import row_of_scalars
from tests.support.page import shown_run
from tests.support.sets import instance_of


def test_neighbouring_rows_are_averaged_by_the_steps_they_stand_for():
    rows = [
        row_of_scalars(2, mil=3.0, box=1.0),
        row_of_scalars(3, mil=6.0, box=1.0),
        row_of_scalars(5, mil=2.0, box=0.5),
    ]
    assert averages(rows) == (
        [(2, {"total": 4.0, "mil": 3.0, "box": 1.0}), (3, {"total": 7.0, "mil": 6.0, "box": 1.0}),
         (5, {"total": 2.5, "mil": 2.0, "box": 0.5})],
        2,
    )  # fmt: skip
    # Two points of at most two rows: (2 x 3 + 1 x 6) / 3 = 4 and 2.
    points, steps = averages(rows, most=2)
    assert [(step, losses["mil"]) for step, losses in points] == [(3, 4.0), (5, 2.0)]
    assert steps == 3


def test_the_curves_of_every_training_that_has_scalars(tmp_path):
    run = shown_run(str(tmp_path), "index", "train-classifier", "train-mil", "retrain")
    write_scalars(f"{run.products['train-classifier'].instance.folder}/checkpoints/k", [row_of_scalars(1, labels=0.5)])
    rows = [row_of_scalars(step, mil=1 / step, refine1=0.5) for step in range(1, 6)]
    write_scalars(f"{run.products['train-mil'].instance.folder}/checkpoints/k", rows)
    classifier, mil = view(run)["trainings"]
    assert [label for label, _, _ in classifier["legend"]] == ["total = labels"]
    assert [label for label, _, _ in mil["legend"]] == ["total", "mil", "refine1"]
    assert mil["what"] == "train-mil: loss by step. Last: total 0.7, mil 0.2, refine1 0.5"
    assert "step 4: total 0.75, mil 0.25, refine1 0.5</title>" in mil["chart"]
    assert mil["chart"].count("<polyline") == 3


def test_a_long_training_says_what_its_points_are(tmp_path):
    instance = instance_of(str(tmp_path), "train-mil")
    write_scalars(f"{instance.folder}/checkpoints/k", [row_of_scalars(5 * n, mil=2.0, box=1.0) for n in range(1, 301)])
    (training,) = view(shown_run(str(tmp_path), "train-mil"))["trainings"]
    # 300 rows of 5 steps, at most 120 points: 3 rows each.
    assert "each point a mean over 15 steps" in training["what"]
    assert training["chart"].count('class="hit"') == 100


def test_a_run_without_training_has_no_curves(tmp_path):
    assert view(shown_run(str(tmp_path), "index")) is None
