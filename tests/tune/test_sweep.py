"""Sweep files: what is refused before anything starts, and what trials share."""

import pickle

import pytest
import typer
from typer.testing import CliRunner

from pipelines.engine.ray_session import usable_cpus
from pipelines.runner import Run
from pipelines.stages import index
from pipelines.variants.objectives import OBJECTIVES
from tests.support.upstream import SWEEP, write_files
from tune.cli import register
from tune.sweep import Trials, check_recipes, load_sweep, shipped_sweeps, whole_numbers
from weaksam.errors import ConfigError


def load(tmp_path, text=SWEEP, overrides=()):
    return load_sweep(str(write_files(tmp_path, text)), overrides)


def trials_of(tmp_path, text=SWEEP):
    return Trials(load(tmp_path, text), str(tmp_path / "run"), "shapes:")


def changed(old, new):
    assert old in SWEEP
    return SWEEP.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("objective: pseudo_f1", "objective: pseudo_fl"), "got pseudo_fl; did you mean pseudo_f1"),
        (changed("also: [label_agreement]", "also: [ap5]"), "did you mean ap50"),
        (changed("objective:", "objectiv:"), "objectiv: no such option; did you mean objective"),
        (SWEEP + "search: {algoritm: random}\n", "search.algoritm: no such option; did you mean algorithm"),
        (SWEEP + "search: {algorithm: bayes}\n", "search.algorithm"),
        (SWEEP + "search: {trials: 3}\n", "search.trials: expected 0 with search.algorithm=grid, got 3"),
        (SWEEP + "search: {algorithm: random}\n", "search.trials: expected a number"),
        (changed("[0.1, 0.6]", "{uniform: [0.1, 0.6]}"), "listed values with search.algorithm=grid"),
        (changed("[0.1, 0.6]", "{uniform: [0.6, 0.1]}"), "low < high, got 0.6 and 0.1"),
        (changed("[0.1, 0.6]", "{gird: [0.1]}"), "gird: no such option; did you mean grid"),
        (SWEEP + "report_on: val\n", "report_on: expected another split than select_on"),
        (SWEEP + "scheduler: {name: asha}\n", "objective: expected one of ap50.*with asha, got pseudo_f1"),
        (changed("pseudo_f1", "rank") + "search: {algorithm: optuna, trials: 3}\n", "rank"),
        (
            changed("pseudo_f1", "ap50")
            + "search: {algorithm: random, trials: 1}\nscheduler: {name: asha}\nresources: {gpus: 2}\n",
            "resources.gpus: expected one or less for each trial with asha, got 2",
        ),
        (SWEEP + "seeds: []\n", "seeds: expected a number or more"),
        (SWEEP + "set: [retrain.seed=5]\n", "retrain.seed: expected seeds of the sweep"),
        (changed("pseudo_labels.tau_s", "retrain.seed"), "retrain.seed: expected seeds of the sweep"),
        (SWEEP + "compare: {a: {resources.cpus: 9}}\n", "resources.cpus: expected resources.cpus of the sweep"),
        (SWEEP + 'set: ["resources={cpus: 9}"]\n', "resources.cpus: expected resources.cpus of the sweep"),
        (SWEEP + "compare: {a: {resources: {here: true}}}\n", "resources.here: expected resources of the sweep"),
        (changed("pseudo_f1", "propose_seconds"), "objective: expected a share, got propose_seconds, which is in s"),
        (changed("[label_agreement]", "[mil_boxes]"), "also: expected a share, got mil_boxes, which is in boxes"),
        (
            changed("pseudo_f1", "fine_seed_miou"),
            "objective: expected one that is not reported alone, got fine_seed_miou",
        ),
        (SWEEP + "compare: {best: {pseudo_labels.tau_o: 0.7}}\n", "compare: expected names other than best"),
        (SWEEP + "set: 5\n", "set: "),
        (SWEEP + "resources: {concurrency: -1}\n", "resources.concurrency"),
        (
            SWEEP + "resources: {gpus: 0.6}\n",
            "gpus: expected a whole number or one of 0.25, 0.33, 0.5, got 0.6",
        ),
        (SWEEP + "resources: {gpus: 1.5}\n", "resources.gpus: expected a whole number .* got 1.5"),
        (SWEEP + "resources: {gpus: half}\n", "resources.gpus"),
        (
            SWEEP + "resources: {concurrency: 0, gpus: 2}\n",
            "resources.concurrency: expected a number with several GPUs each, got 0",
        ),
        ("- a list\n", "expected a mapping"),
        ("a: [1\n", "not valid YAML"),
        (SWEEP + "search: {seed: 1}\nsearch: {seed: 2}\n", "given twice"),
    ],
)
def test_a_sweep_that_cannot_be_names_the_place_and_what_was_expected(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_a_name_of_any_length_leaves_room_for_what_was_expected(tmp_path):
    with pytest.raises(ConfigError, match=r"objective: expected one of ap50, .*, got xxx") as refused:
        load(tmp_path, changed("pseudo_f1", "x" * 10_000))
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("pseudo_labels.tau_s", "pseudo_labels.tau_z"), "space.pseudo_labels.tau_z.*did you mean tau_s"),
        (changed("pseudo_labels.tau_s", "pseudo_label.tau_s"), "did you mean pseudo_labels"),
        (
            changed("[0.1, 0.6]", "[0.1, 1.5]"),
            r"pseudo_labels.tau_s \(from the sweep\): expected 0..1, or auto, got 1.5",
        ),
        (changed("[0.1, 0.6]", "[0.1, high]"), "space.pseudo_labels.tau_s.*tau_s"),
        (SWEEP + "compare: {mine: {pseudo_labels.tau_o: 2}}\n", "compare.mine.*pseudo_labels.tau_o"),
        (changed("pseudo_f1", "ap50") + "select_on: valid\n", "select_on: expected one of the splits train, val, test"),
        (changed("pseudo_f1", "ap50") + "select_on: train\n", r"splits val, test for ap50 \(retrain.test.splits"),
        (changed("pseudo_f1", "agreement") + "select_on: test\nreport_on: val\n", r"for agreement \(detect.splits"),
        (changed("pseudo_f1", "mil_ap50"), r"report_on: .* for mil_ap50 \(detect.splits of"),
        (changed("pseudo_f1", "recall50"), r"report_on: .* for recall50 \(propose.splits of"),
        (SWEEP, None),
    ],
)
def test_knobs_are_checked_against_the_recipe(tmp_path, text, message):
    trials = trials_of(tmp_path, text)
    if message is None:
        check_recipes(trials, "sweep.yaml")
        return
    with pytest.raises(ConfigError, match=rf"(?s){message}"):
        check_recipes(trials, "sweep.yaml")


def test_a_range_is_checked_at_both_ends(tmp_path):
    text = changed("[0.1, 0.6]", "{uniform: [0.1, 1.2]}") + "search: {algorithm: random, trials: 2}\n"
    with pytest.raises(ConfigError, match=r"got 1\.2"):
        check_recipes(trials_of(tmp_path, text), "sweep.yaml")


_TAKEN: list = []


def _counted(config):
    _TAKEN.append(config)
    return "0123"


@pytest.mark.parametrize("values", ["[auto, 4.0]", "[4.0, auto]"])
def test_values_that_do_not_go_together_are_refused_in_any_order(tmp_path, values):
    knobs = f"""retrain.detector.drop.tau_cls: {values}
  retrain.detector.drop.variant: [fixed, percentile]"""
    text = changed("pseudo_labels.tau_s: [0.1, 0.6]", knobs)
    with pytest.raises(ConfigError, match=r"(?s)s: space: tau_cls=auto variant=percentile .*: recipe .*tau_cls"):
        check_recipes(trials_of(tmp_path, text), "s")


def test_trials_need_neither_the_recipe_file_nor_the_data_again(tmp_path, monkeypatch):
    # They may run on another machine, and a bucket takes minutes to list.
    _TAKEN.clear()
    monkeypatch.setattr(index, "_fingerprint", _counted)
    trials = trials_of(tmp_path, SWEEP + "seeds: [0, 1]\n")
    shared, settings = trials.shared(), {"pseudo_labels.tau_s": 0.1, "evaluate.voc_style": "devkit"}
    key = trials.key(settings)
    (tmp_path / "recipe.yaml").unlink()
    elsewhere = pickle.loads(pickle.dumps(trials))
    assert elsewhere.key(settings) == key
    assert elsewhere.with_seeds((5,)).key(settings) != key
    assert elsewhere.shared() == shared
    assert len(_TAKEN) == 1


def test_a_name_nearly_right_is_suggested():
    with pytest.raises(ConfigError, match="did you mean pseudo-labels"):
        load_sweep("pseudo-label")


@pytest.mark.parametrize("name", shipped_sweeps())
def test_a_shipped_sweep_fits_its_recipe(name):
    sweep = load_sweep(name)
    trials = Trials(sweep, "/run", "")
    check_recipes(trials, name)
    assert sweep.name == name
    assert sweep.description
    assert {"propose", "superpixels"} & set(trials.shared())  # none of them asks SAM twice


def test_the_shipped_sweeps_are_listed():
    app = typer.Typer()
    register(app)
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app)
    assert listed.exit_code == 0
    rows = {words[0]: words[1:] for line in listed.output.splitlines() if (words := line.split())}
    for name in shipped_sweeps():
        found = load_sweep(name)
        assert rows[name][0] == found.description.split()[0]  # where the terminal is narrow, the rest is in lines below
        assert rows[name][-1] == found.recipe


def test_the_shipped_sweeps_are_those_that_are_promised():
    assert set(shipped_sweeps()) == {
        "pseudo-labels", "pseudo-labels-retrain", "roi-drop", "query-drop", "everything", "seeds",
    }  # fmt: skip
    sizes = {name: [len(k.listed) for k in load_sweep(name).space.values()] for name in shipped_sweeps()}
    assert sizes["pseudo-labels"] == [5, 5]
    assert sizes["pseudo-labels-retrain"] == sizes["roi-drop"] == [3, 3]
    assert sizes["query-drop"] == [4]
    assert sizes["seeds"] == [3, 3, 3]


def test_trials_share_what_lies_upstream_of_their_knobs(tmp_path):
    # τ_s: everything up to the detections. A threshold of the drop: the pseudo labels, too.
    of_labels = trials_of(tmp_path).shared()
    assert of_labels[0] == "index"
    assert {"propose", "train-mil", "detect.mil"} <= set(of_labels)
    assert "label" not in of_labels
    text = changed("pseudo_labels.tau_s: [0.1, 0.6]", "retrain.detector.drop.tau_reg: [1.0, 4.0]")
    of_drop = trials_of(tmp_path, text.replace("pseudo_f1", "ap50")).shared()
    assert {"label", "detect.mil"} <= set(of_drop)
    assert not {"retrain", "detect.final", "evaluate.final"} & set(of_drop)


def test_settings_that_cannot_differ_have_one_key(tmp_path):
    trials = trials_of(tmp_path)
    keys = {
        (tau, style): trials.key({"pseudo_labels.tau_s": tau, "evaluate.voc_style": style})
        for tau in (0.1, 0.6)
        for style in ("devkit", "chainer")
    }
    assert keys[0.1, "devkit"] == keys[0.1, "chainer"] != keys[0.6, "devkit"]


def test_what_is_measured_and_where_makes_another_trial(tmp_path):
    settings = {"pseudo_labels.tau_s": 0.1, "evaluate.voc_style": "devkit"}
    text = changed("pseudo_f1", "ap50")
    one = trials_of(tmp_path, text).key(settings)
    for other in (
        text.replace("ap50", "map"),
        text.replace("[label_agreement]", "[label_agreement, corloc]"),
        text + "select_on: test\nreport_on: val\n",
    ):
        assert trials_of(tmp_path, other).key(settings) != one
    assert trials_of(tmp_path, text + "name: other\n").key(settings) == one


def test_what_is_shared_is_made_for_settings_of_the_sweep(tmp_path):
    # One value, and not the recipe's: all trials share everything, and it is not what the recipe itself would give.
    text = changed("[0.1, 0.6]", "[0.4]").replace("pseudo_f1", "ap50")
    trials = trials_of(tmp_path, text)
    assert "evaluate.final" not in trials.shared()  # two styles of evaluation
    assert "retrain" in trials.shared()
    trial, base = trials.recipe({"pseudo_labels.tau_s": 0.4, "evaluate.voc_style": "chainer"}, 0), trials.base
    for name in trials.shared():
        assert Run(base, trials.run_uri).instance(name) == Run(trial, trials.run_uri).instance(name)


def test_what_the_recipe_takes_of_the_machine_does_not_keep_trials_from_starting(tmp_path):
    # Ray is started for the shared stages: told of one CPU, it would wait for ever for trials that reserve more.
    trials = trials_of(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "resources: {cpus: 1, here: true}\n")
    trials = Trials(trials.sweep, trials.run_uri, trials.data_uri)
    assert (trials.base.resources.cpus, trials.base.resources.here) == (0, False)
    assert trials.recipe({}, 0).resources.cpus == usable_cpus()
    assert (trials.chosen({}, 0).resources.cpus, trials.chosen({}, 0).resources.here) == (1, True)


def test_a_recipe_beside_its_sweep_is_found_from_anywhere(tmp_path, monkeypatch):
    path = write_files(tmp_path)
    path.write_text(path.read_text().replace(str(tmp_path / "recipe.yaml"), "recipe.yaml"))
    monkeypatch.chdir("/")
    assert load_sweep(str(path)).recipe == str(tmp_path / "recipe.yaml")
    path.write_text(path.read_text().replace("recipe: recipe.yaml", "recipe: shapes-tuning"))
    assert load_sweep(str(path)).recipe == "shapes-tuning"


def test_the_shipped_comparisons_are_made_with_seeds_that_chose_nothing():
    for name in shipped_sweeps():
        sweep = load_sweep(name)
        assert not sweep.compare or (sweep.compare_seeds and not set(sweep.compare_seeds) & set(sweep.seeds))


def test_seeds_make_other_trials_and_the_machine_does_not(tmp_path):
    settings = {"pseudo_labels.tau_s": 0.1}
    text = changed("pseudo_f1", "ap50")
    one = trials_of(tmp_path, text).key(settings)
    assert trials_of(tmp_path, text + "seeds: [1]\n").key(settings) != one
    assert trials_of(tmp_path, text + "resources: {cpus: 1}\n").key(settings) == one


def test_what_takes_the_seeds_is_the_sweeps_to_say():
    sweep = load_sweep("seeds")
    trials = Trials(sweep, "/run", "")
    recipe = trials.recipe({}, 5)
    assert (recipe.train_prompts.seed, recipe.retrain.seed) == (5, 0)
    assert load_sweep("seeds", ["retrain.seed=3"]).overrides[-1] == "retrain.seed=3"
    with pytest.raises(ConfigError, match=r"train_prompts\.seed: expected seeds of the sweep"):
        load_sweep("seeds", ["train_prompts.seed=3"])


def test_the_sweep_of_seeds_chooses_by_what_knows_no_true_map_and_asks_for_it_to_be_measured():
    sweep = load_sweep("seeds")
    assert OBJECTIVES[sweep.objective].label_free
    check_recipes(Trials(sweep, "/run", ""), "seeds")
    without = sweep.model_copy(update={"overrides": ()})
    with pytest.raises(ConfigError, match=r"measure_agreement: expected true for label-free figures of seeds\.coarse"):
        check_recipes(Trials(without, "/run", ""), "seeds")


def test_nothing_is_chosen_by_the_mean_iou_of_seeds_under_another_name():
    of_seeds = {"objective": "miou", "also": (), "select_on": "train", "overrides": ("evaluate.maps.of=seeds.coarse",)}
    sweep = load_sweep("seeds").model_copy(update=of_seeds)
    with pytest.raises(ConfigError, match=r"evaluate\.maps\.of: expected predict-maps, got seeds\.coarse"):
        check_recipes(Trials(sweep, "/run", ""), "seeds")


def test_a_trial_is_told_its_share_of_the_machine(tmp_path):
    trials = trials_of(tmp_path, SWEEP + "resources: {concurrency: 2}\n")
    recipe = trials.recipe({}, 3)
    assert recipe.resources.cpus == max(1, usable_cpus() // 2)
    assert recipe.resources.here
    assert recipe.retrain.seed == 3
    assert not trials.chosen({}, 3).resources.here
    for share in ("1", "0.33"):  # to its process, a share of a GPU is a GPU
        on_gpu = trials_of(tmp_path, SWEEP + f"resources: {{gpus: {share}}}\n").recipe({}, 0).resources
        assert (on_gpu.train_workers, on_gpu.gpus_per_actor, on_gpu.here) == (0, 1, True)
        assert on_gpu.device == "gpu"
    shared_on_gpus = trials_of(tmp_path, SWEEP + "set: [resources.device=gpu]\n")
    assert (shared_on_gpus.recipe({}, 0).resources.device, shared_on_gpus.base.resources.device) == ("cpu", "gpu")
    on_gpus = trials_of(tmp_path, SWEEP + "resources: {gpus: 2}\n").recipe({}, 0).resources
    assert (on_gpus.train_workers, on_gpus.gpus_per_actor, on_gpus.here) == (2, 0, False)
    assert trials.with_cpus(7).recipe({}, 0).resources.cpus == 7
    as_many_as_fit = trials_of(tmp_path, SWEEP + "resources: {concurrency: 0}\n")
    assert as_many_as_fit.recipe({}, 0).resources.cpus == 1


def test_overrides_come_after_the_sweeps_own_and_before_the_knobs(tmp_path):
    sweep = load(
        tmp_path, SWEEP + 'set: ["pseudo_labels.tau_o=0.7", "pseudo_labels.top_k=2"]\n', ["pseudo_labels.top_k=3"]
    )
    trials = Trials(sweep, str(tmp_path), "shapes:")
    config = trials.recipe({"pseudo_labels.tau_s": 0.25}, 0).pseudo_labels
    assert (config.tau_o, config.top_k, config.tau_s) == (0.7, 3, 0.25)


def test_whole_numbers_are_known_from_the_recipe(tmp_path):
    text = changed("evaluate.voc_style: [devkit, chainer]", "retrain.detector.drop.start_step: [0, 2]")
    assert whole_numbers(trials_of(tmp_path, text)) == {
        "pseudo_labels.tau_s": False,
        "retrain.detector.drop.start_step": True,
    }


def test_an_option_of_an_instance_varies_too(tmp_path):
    knobs = "retrain.other.steps: [2, 4]\n  retrain.other.lr: [0.5, 1]"
    trials = trials_of(tmp_path, changed("evaluate.voc_style: [devkit, chainer]", knobs))
    whole = whole_numbers(trials)
    assert (whole["retrain.other.steps"], whole["retrain.other.lr"]) == (True, False)


def test_trials_of_an_earlier_version_of_the_file_are_not_the_sweeps(tmp_path):
    text = changed("[0.1, 0.6]", "{uniform: [0.1, 0.6]}") + "search: {algorithm: optuna, trials: 3}\n"
    trials = trials_of(tmp_path, text)
    inside = {"pseudo_labels.tau_s": 0.2, "evaluate.voc_style": "devkit"}
    assert trials.has(trials.key(inside), inside)
    assert not trials.has("0" * 12, inside)  # other data, another objective, other seeds
    for other in ({**inside, "pseudo_labels.tau_s": 0.7}, {"pseudo_labels.tau_s": 0.2}, {**inside, "retrain.lr": 0.1}):
        assert not trials.has(trials.key(other), other)
    assert not trials.has(trials.key(inside), {**inside, "evaluate.voc_style": "elsewhere"})


def test_examples_are_of_every_extreme_and_of_what_is_compared(tmp_path):
    trials = trials_of(tmp_path, SWEEP + "compare: {mine: {pseudo_labels.tau_s: 0.3}}\n")
    shown = {recipe.pseudo_labels.tau_s for recipe in trials.examples()}
    assert shown == {*trials.sweep.space["pseudo_labels.tau_s"].extremes, 0.3}
