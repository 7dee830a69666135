"""Cells of variants: which are run, what one that fails costs, and what their results say."""

import pytest

from pipelines.engine.stage import Options
from pipelines.recipe.model import read_recipe
from pipelines.variants import measure as module
from pipelines.variants.measure import Failed, Measured, Pairs, Results, Variant, measure
from tests.support.voice import Recorder
from weaksam.errors import RunError


def variant(name, *overrides, seeds=(0,), **fields):
    return Variant(name=name, source=read_recipe("shapes"), overrides=overrides, seeds=seeds, **fields)


def cell(value):
    return Measured(values={"ap50": {"val": value}}, training="train")


def results_of(**values):
    """Results of variants by name, a value for each of the seeds 0, 1, ..."""
    return Results({(name, seed): cell(value) for name, of in values.items() for seed, value in enumerate(of)})


def ap50(measured):
    return measured.values["ap50"]["val"]


ABC = {"a": (0.1, 0.5, 0.3), "b": (0.11, 0.511, 0.309), "c": (0.12, 0.49, 0.3)}


def test_a_variant_is_the_recipe_with_its_settings_and_a_seed():
    recipe = variant("x", "mil.epochs=3", seeded=("mil.seed", "retrain.seed"), data_uri="shapes:").recipe(5)
    assert (recipe.mil.epochs, recipe.mil.seed, recipe.retrain.seed, recipe.data.uri) == (3, 5, 5, "shapes:")


def test_figures_of_detections_may_be_read_from_another_evaluation():
    found = variant("x", read_from={"evaluate.final": "evaluate.mil"}).instances(["ap50", "recall50"])
    assert found == {"ap50": "evaluate.mil", "recall50": "evaluate.proposals"}


def test_only_variants_of_too_wide_an_interval_are_repeated():
    results = results_of(**ABC)
    for half_width, wide in ((0.002, {"a", "b", "c"}), (0.01, {"a", "c"}), (0.04, set())):
        pairs = Pairs(names=(("a", "b"), ("a", "c")), read=ap50, half_width=half_width)
        assert results.too_wide(pairs) == wide


def test_variants_are_compared_seed_by_seed_without_cells_that_failed():
    results = results_of(**ABC)
    assert results.difference(("a", "b"), ap50) == pytest.approx((0.01, 0.0024842), abs=1e-6)
    results.cells["b", 1] = Failed("RunError: no luck")
    assert results.difference(("a", "b"), ap50).mean == pytest.approx(0.0095)  # of .01 and .009
    assert results.failed() == {("b", 1): "RunError: no luck"}
    assert results.measured("b").keys() == {0, 2}


@pytest.fixture
def by_hand(monkeypatch):
    """Cells that take no time: their value is that of ``mil.lr``; a negative ``mil.momentum``, and they fail."""
    ran = []

    def run_cell(run, instances, _options, _voice):
        ran.append((run.recipe.name, run.recipe.retrain.seed, *instances))
        if run.recipe.mil.dropout == 0:
            raise RunError("no luck")
        return cell(run.recipe.mil.lr + 0.001 * run.recipe.retrain.seed * (run.recipe.mil.epochs == 1))

    monkeypatch.setattr(module, "measure_run", run_cell)
    return ran


def run(*variants, **options):
    voice = Recorder()
    return measure(variants, ["ap50"], "/run", Options(), voice, **options), voice.text


def test_a_failing_cell_is_told_and_the_others_go_on(by_hand):
    seen = []
    results, printed = run(
        variant("broken", "mil.dropout=0.0", seeds=(0, 1)), variant("whole", "mil.lr=0.5", seeds=(0, 1)),
        done=lambda so_far: seen.append(len(so_far.cells)),
    )  # fmt: skip
    assert list(results.cells) == [("broken", 0), ("whole", 0), ("broken", 1), ("whole", 1)]  # seed by seed
    assert results.failed() == {("broken", seed): "RunError: no luck" for seed in (0, 1)}
    assert {seed: ap50(found) for seed, found in results.measured("whole").items()} == {0: 0.5, 1: 0.5}
    assert "cell 4 of 4: whole, seed 1" in printed
    assert printed.count("failed: no luck") == 2
    assert seen == [1, 2, 3, 4]


def test_more_seeds_are_run_for_pairs_that_are_not_known_well_enough(by_hand):
    seeds = (0, 1, 2, 3, 4)
    variants = [
        variant("a", "mil.lr=0.5", seeds=seeds),
        variant("b", "mil.lr=0.6", seeds=seeds),
        variant("c", "mil.lr=0.6", "mil.epochs=1", seeds=seeds),  # another with each seed
    ]
    pairs = Pairs(names=(("a", "b"), ("a", "c")), read=ap50, half_width=0.001)
    results, printed = run(*variants, pairs=pairs)
    assert {name: len(results.measured(name)) for name in "abc"} == {"a": 5, "b": 3, "c": 5}
    assert "cell 13 of at most 15" in printed
    every, _ = run(*variants)
    assert len(every.cells) == 15
