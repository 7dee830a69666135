"""Tables on cells whose instances and metrics are written by hand: nothing here trains."""

import io
import json
import re

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from pipelines.cli import app as cli
from pipelines.engine.stage import Options
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.store.instances import Instance, current_instance
from pipelines.store.tables import write_json
from pipelines.variants.document import Outcome, mean_and_spread, to_document, to_lines, to_markdown
from pipelines.variants.plans import PLANS, Finished, Row, Variant, data_name
from pipelines.variants.run import Recipes, make_table, oicr_recipe, parse_seeds
from weaksam.errors import ConfigError

SMALL_SHAPES = ["data.shapes.size=32", "data.shapes.train=3", "data.shapes.val=2", "data.shapes.test=0"]
SHAPES = Recipes(name="shapes", overrides=tuple(SMALL_SHAPES))


def rows_of(number: int, recipes: Recipes = SHAPES) -> list[Row]:
    return PLANS[number].rows(recipes.base())


# --- rows and variants


def test_table_1_measures_four_rows_of_the_given_data_set_and_names_the_others():
    rows = rows_of(1, Recipes(name="voc07", data_uri="/data"))
    assert len(rows) == 3 * 9
    measured = [(row.data, row.detector, row.proposals) for row in rows if row.variant]
    assert measured == [
        ("voc07", "OICR", "Selective Search"), ("voc07", "OICR", "WeakSAM"),
        ("voc07", "MIST", "Selective Search"), ("voc07", "MIST", "WeakSAM"),
    ]  # fmt: skip
    published = {(row.data, row.name): row.published for row in rows}
    assert published["voc07", "MIST, WeakSAM"] == {"AP50": 67.4}
    assert published["voc07", "MIST + DINO, WeakSAM"] == {"AP50": 73.4}
    assert published["coco14", "MIST, WeakSAM"] == {"AP": 22.9, "AP50 COCO": 35.2, "AP75": 24.6}
    assert published["voc12", "Faster R-CNN, fully supervised, –"] == {}


def test_a_data_set_that_the_paper_has_not_stands_before_those_that_it_has():
    rows = rows_of(1)
    assert list(dict.fromkeys(row.data for row in rows)) == ["shapes", "voc07", "voc12", "coco14"]
    assert {row.data for row in rows if row.variant} == {"shapes"}
    assert rows[0].published == {}


@pytest.mark.parametrize(
    ("recipe", "data"), [("voc07", "voc07"), ("voc07-oicr", "voc07"), ("coco14-mine", "coco14"), ("cards-voc07", "cards-voc07")]
)  # fmt: skip
def test_the_name_of_a_recipe_says_which_data_set_of_the_paper_it_is(recipe, data):
    assert data_name(recipe) == data


def test_table_4_trains_on_more_and_more_of_the_recipes_own_proposals():
    found = {row.proposals: row.variant.overrides for row in rows_of(4) if row.variant}
    assert found == {
        "Selective Search": ["propose.method=selective-search", "mil.proposal_sources=[]"],
        "grid": ["mil.proposal_sources=[grid]"],
        "+ fine": ["mil.proposal_sources=[grid, fine]"],
        "+ coarse": ["mil.proposal_sources=[grid, fine, coarse]"],
        "+ cross": ["mil.proposal_sources=[]"],
    }


def test_sources_that_a_recipe_has_not_are_not_measured():
    recipes = Recipes(name="shapes", overrides=(*SMALL_SHAPES, "prompts.sources=[grid, coarse]"))
    found = {row.proposals: row.variant and row.variant.sources for row in rows_of(4, recipes)}
    assert found == {"Selective Search": None, "grid": ("grid",), "+ fine": None, "+ coarse": (), "+ cross": None}
    assert [row.proposals for row in rows_of(4, recipes) if row.variant is None] == ["+ fine", "+ cross"]


def test_cells_share_everything_upstream_of_their_difference(tmp_path):
    def keys(variant: Variant, seed: int = 0) -> dict[str, str]:
        run = Run(SHAPES.variant(variant, seed), str(tmp_path))
        return {name: run.instance(name).key for name in run.needed_for("evaluate.mil")}

    mist, oicr = keys(Variant(detector="mist")), keys(Variant(detector="oicr"))
    search, grid = (
        keys(Variant(detector="mist", selective_search=True)),
        keys(Variant(detector="mist", sources=("grid",))),
    )

    def shared(one, other):
        return {name for name in one if one[name] == other.get(name)}

    assert shared(mist, oicr) == {"index", "train-classifier", "propose"}
    assert shared(mist, grid) == {"index", "train-classifier", "propose"}
    assert shared(mist, keys(Variant(detector="mist"), seed=1)) == {"index", "train-classifier", "propose"}
    assert shared(mist, search) == {"index"}
    assert mist == keys(Variant(detector="mist", sources=()))  # the last row of Table 4 is the same cell


def test_oicr_comes_from_the_recipe_beside_it(tmp_path):
    for name, detector in (("mine", "mist"), ("mine-oicr", "oicr"), ("alone", "mist")):
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump({"base": "shapes", "name": name, "mil": {"detector": detector, "epochs": 3, "lr": 0.1}})
        )
    assert oicr_recipe("voc07") == oicr_recipe("voc07.yaml") == "voc07-oicr"
    assert oicr_recipe("coco14") == ""
    assert oicr_recipe(str(tmp_path / "mine.yaml")) == str(tmp_path / "mine-oicr.yaml")
    assert oicr_recipe(str(tmp_path / "alone.yaml")) == ""
    assert Recipes(name=str(tmp_path / "mine.yaml")).variant(Variant(detector="oicr"), 0).name == "mine-oicr"


def test_without_such_a_recipe_oicr_is_the_given_one_with_other_learning_rates(tmp_path):
    (tmp_path / "alone.yaml").write_text("{base: shapes, name: alone, mil: {epochs: 3, lr: 0.1}}")
    recipes = Recipes(name=str(tmp_path / "alone.yaml"), overrides=("mil.warmup_steps=7",))
    mist, oicr = (recipes.variant(Variant(detector=name), 5).mil for name in ("mist", "oicr"))
    assert (oicr.detector, oicr.refine_lr_factor, oicr.warmup_factor) == ("oicr", 10.0, 0.001)
    assert oicr.warmup_steps == 7  # what --set says wins
    assert (oicr.epochs, oicr.lr, oicr.scales, oicr.seed) == (3, 0.1, mist.scales, 5)


def test_the_shipped_oicr_recipes_share_the_proposals_of_their_mist(tmp_path):
    shapes, oicr = load_recipe("shapes")[0], load_recipe("shapes-oicr")[0]
    assert (oicr.mil.detector, oicr.mil.refine_lr_factor, oicr.mil.epochs) == ("oicr", 10.0, shapes.mil.epochs)
    voc07, voc07_oicr = load_recipe("voc07")[0], load_recipe("voc07-oicr")[0]
    assert (voc07_oicr.mil.detector, voc07_oicr.mil.epochs, voc07_oicr.detect.flip) == ("oicr", 50, False)
    for one, other in ((shapes, oicr), (voc07, voc07_oicr)):
        assert (one.data, one.clues, one.sam, one.proposals, one.prompts) == (
            other.data, other.clues, other.sam, other.proposals, other.prompts,
        )  # fmt: skip


MISTAKES = {
    "a detector of the user's": ("shapes", ["mil.detector=oicr"], "the table sets mil.detector itself"),
    "a seed of the user's": ("shapes", ["mil.seed=1"], "chosen with --seeds"),
    "a recipe of OICR": ("shapes-oicr", [], "starts from mil.detector='mist', got 'oicr'"),
    "weights": ("shapes", ["mil.weights=x.pth"], "starts from mil.weights='', got 'x.pth'"),
    "no detector": ("grid", [], "its stages have no train-mil"),
    "no test split": ("shapes", ["data.splits=[train]"], "expected a split to test on beside train, got train"),
    "no proposals to learn from": ("shapes", ["propose.splits=[val]"], "expected proposals of a training split, got val"),
}  # fmt: skip


@pytest.mark.parametrize(("recipe", "settings", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_cannot_be_measured_is_refused_before_anything_runs(tmp_path, recipe, settings, message):
    recipes = Recipes(name=recipe, overrides=(*SMALL_SHAPES, *settings), data_uri="shapes:")
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        make_table(1, recipes, str(tmp_path / "run"), (), Options(), Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_corloc_needs_detections_of_the_training_split(tmp_path):
    recipes = Recipes(name="shapes", overrides=(*SMALL_SHAPES, "detect.splits=[val]"))
    with pytest.raises(ConfigError, match="expected detections of train, got val"):
        make_table(10, recipes, str(tmp_path), (), Options(dry_run=True), Console(quiet=True))
    make_table(1, recipes, str(tmp_path), (), Options(dry_run=True), Console(quiet=True))


def test_a_table_that_nobody_makes_is_named(tmp_path):
    with pytest.raises(ConfigError, match="expected one of 1, 4, 6, 10, got 2"):
        make_table(2, SHAPES, str(tmp_path), (), Options(), Console(quiet=True))


@pytest.mark.parametrize(("text", "seeds"), [("", ()), ("0", (0,)), ("0, 2,1", (0, 2, 1))])
def test_seeds_are_a_list_of_numbers(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["a", "1,", "1,1", "01,1", "-1", "1.5", "1 2"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="--seeds: expected different integers"):
        parse_seeds(text)


# --- figures of cells written by hand


def detections_of(ap50: float, *, whole: float = 0.125, corloc: float = 0.5) -> dict:
    """The metrics of one split as ``evaluate.mil`` writes them, as far as tables read them."""
    detector = {
        "ap50_eleven_point": ap50,
        "part": 0.25,
        "corloc": corloc,
        "coco_ap": 0.1,
        "coco_ap50": 0.3,
        "coco_ap75": 0.05,
    }
    return {
        "rows": [
            {"name": "detector", **detector},
            {"name": "whole image", "ap50_eleven_point": whole, "part": 0.0, "corloc": 0.0625},
        ]
    }  # fmt: skip


def proposals_of(recipe: Recipe) -> dict:
    def row(sources: list[str], boxes: float, recall: float) -> dict:
        return {
            "name": sources[-1],
            "sources": sources,
            "boxes": boxes,
            "one_to_one": {"0.5": recall, "0.75": recall / 2, "0.9": None},
        }

    if recipe.propose.method != "sam":
        return {"rows": [row(["selective-search"], 2000.5, 0.9)]}
    sources = list(recipe.prompts.sources)
    return {"rows": [row(sources[: n + 1], 10.0 * (n + 1), 0.2 * (n + 1)) for n in range(len(sources))]}


def content(recipe: Recipe, name: str, ap50: float) -> tuple[dict, dict | None]:
    """The manifest of a finished instance and its metrics."""
    if name == "index":
        return {"labels_granted_to": "train", "text": "images 5"}, None
    if name == "propose":
        proof = {"images": 5, "done": 5, "dropped": 0}
        return {"images": proof, "throughput": {"images": 5, "seconds": 1.0}, "seconds": 8.0, "text": ""}, None
    if name == "train-mil":
        return {"steps": {"planned": 9, "done": 9, "resumed_at": 0}, "seconds": 4.0 + recipe.mil.seed, "text": ""}, None
    if name == "evaluate.proposals":
        return {"text": ""}, {"splits": {"train": proposals_of(recipe), "val": {"rows": []}}}
    if name == "evaluate.mil":
        of_splits = {"train": detections_of(0.75), "val": detections_of(ap50)}
        return {"text": ""}, {"class_names": [], "detections": of_splits}
    return {"text": ""}, None


def finish(recipe: Recipe, run: str, *names: str, ap50: float = 0.5, **changes) -> None:
    """Finish instances and all that they read, as the stages would leave them; ``changes`` go into the last manifest."""
    cell = Run(recipe, run)
    for name in cell.needed_for(*names):
        resolved = cell.resolve(name)
        instance = resolved.instance
        if instance.manifest() is None:
            reads = {n: u.instance.state() for n, u in resolved.inputs.items()}
            manifest, metrics = content(recipe, name, ap50)
            if metrics is not None:
                write_json(instance.file("metrics.json"), metrics)
            instance.begin(resolved.parts)
            instance.finish(manifest | {"reads": reads} | (changes if name == names[-1] else {}))


def measured_otherwise(instance: Instance, metrics: dict) -> None:
    """Give a finished instance other metrics, as if it had written these: a file that changes later counts as damaged."""
    write_json(instance.file("metrics.json"), metrics)
    instance.finish(instance.manifest())


def finish_table(number: int, run: str, seeds=(0,), recipes: Recipes = SHAPES, only=lambda _row, _seed: True) -> None:
    """Finish the cells of a table; AP50 on val is .5 + .01 per row + .1 per seed."""
    for n, row in enumerate(rows_of(number, recipes)):
        for seed in seeds:
            if row.variant is not None and only(row, seed):
                cell = recipes.variant(row.variant, seed)
                finish(cell, run, *PLANS[number].instances, ap50=0.5 + 0.01 * n + 0.1 * seed)


def made(number: int, run: str, seeds=(), recipes: Recipes = SHAPES) -> tuple[dict, str]:
    console = Console(file=io.StringIO(), width=250)
    document = make_table(number, recipes, run, seeds, Options(), console)
    return document, console.file.getvalue()


def by_name(document: dict) -> dict[tuple[str, str], dict]:
    return {(row["detector"], row["proposals"]): row for row in document["rows"] if row["data"] == "shapes"}


def means(row: dict) -> dict[str, float | None]:
    return {name: value["mean"] for name, value in row["values"].items()}


def test_finished_cells_are_recognised_and_their_figures_read(tmp_path):
    run = str(tmp_path)
    finish_table(1, run)
    document, printed = made(1, run)
    assert document["errors"] == []
    assert json.loads((tmp_path / "tables" / "table-1.json").read_text()) == document
    row = by_name(document)["MIST", "WeakSAM"]
    assert (row["state"], row["split"]) == ("measured", "val")
    assert means(row) == pytest.approx(
        {"AP50": 0.53, "whole image": 0.125, "part": 0.25, "AP": 0.1, "AP50 COCO": 0.3, "AP75": 0.05}
    )
    assert "cell 4 of 4: MIST, WeakSAM, seed 0" in printed
    assert "evaluate.mil" in printed
    assert "is finished" in printed
    names = row["instances"]["0"]
    assert set(names) == {"index", "train-classifier", "propose", "train-mil", "detect.mil", "evaluate.mil"}
    states = {row["state"] for row in document["rows"] if row["data"] != "shapes" or "+" in row["detector"]}
    assert states == {"not measured"}
    # The run shows the recipe's own detector, and its recipe is the recipe's own.
    assert current_instance(run, "train-mil").key == names["train-mil"]
    assert load_recipe(str(tmp_path / "recipe.yaml"))[0] == SHAPES.base()


def test_figures_of_prompts_come_from_the_training_splits_proposals(tmp_path):
    finish_table(4, str(tmp_path))
    document, _ = made(4, str(tmp_path))
    rows = by_name(document)
    found = {name: means(row) for (_, name), row in rows.items()}
    assert {name: figures["boxes"] for name, figures in found.items()} == {
        "Selective Search": 2000.5, "grid": 10.0, "+ fine": 20.0, "+ coarse": 30.0, "+ cross": 40.0,
    }  # fmt: skip
    assert (found["+ fine"]["R@.5"], found["+ fine"]["R@.75"], found["+ fine"]["R@.9"]) == (0.4, 0.2, None)
    assert found["+ cross"]["AP50"] == pytest.approx(0.54)
    assert rows["MIST", "+ cross"]["published"]["boxes"] == 213
    assert {row["split"] for row in rows.values()} == {"val"}


def test_seconds_come_from_the_manifests_and_memory_only_where_it_was_measured(tmp_path):
    run = str(tmp_path)
    finish(SHAPES.variant(Variant(detector="mist"), 0), run, "train-mil", gpu_memory_mib=812.0)
    finish_table(6, run)
    document, printed = made(6, run)
    rows = by_name(document)
    assert means(rows["MIST", "WeakSAM"]) == {
        "boxes": 40.0, "images": 5, "propose s": 8.0, "train s": 4.0, "MiB a GPU": 812.0,
    }  # fmt: skip
    assert means(rows["MIST", "Selective Search"])["MiB a GPU"] is None
    header, lines = to_lines(document)
    memory = {line[2]: line[header.index("MiB a GPU")] for line in lines}
    assert memory == {"Selective Search": "not measured", "WeakSAM": "812"}
    assert "boxes 2,001, propose h 11.6, train h 16, MiB a GPU 17,810" in printed
    assert document["rows"][0]["split"] == "train"


def test_the_time_of_what_was_interrupted_is_not_known(tmp_path):
    run = str(tmp_path)
    recipe = SHAPES.variant(Variant(detector="mist"), 0)
    part = {"images": 2, "seconds": 1.0}
    finish(recipe, run, "propose", throughput=part)
    finish(recipe, run, "train-mil", steps={"planned": 9, "done": 9, "resumed_at": 3})
    finish_table(6, run)
    document, _ = made(6, run)
    values = means(by_name(document)["MIST", "WeakSAM"])
    assert (values["propose s"], values["train s"]) == (None, None)
    assert [note for note in document["notes"] if "interrupted" in note] == [
        "MIST, WeakSAM, seed 0: propose was interrupted and went on; only its last run was timed, 8.0 s",
        "MIST, WeakSAM, seed 0: train-mil was interrupted and went on; only its last run was timed, 4.0 s",
    ]


def test_corloc_is_that_of_the_training_split(tmp_path):
    finish_table(10, str(tmp_path))
    document, _ = made(10, str(tmp_path))
    row = by_name(document)["OICR", "WeakSAM"]
    assert (row["split"], means(row)) == ("train", {"CorLoc": 0.5, "whole image": 0.0625, "part": 0.25})
    assert row["published"] == {"CorLoc": 74.5}


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, ["evaluate.voc_levels"]),
        (4, ["of the same boxes it reads higher, most of all at IoU .9", "filled up with pixels that are none"]),
        (6, ["filled up with pixels that are none"]),
        (10, ["published CorLoc of MIST compares boxes with true ones a pixel off"]),
    ],
)
def test_what_reads_differently_is_said_beside_what_was_published(tmp_path, number, said):
    finish_table(number, str(tmp_path))
    document, printed = made(number, str(tmp_path))
    for text in (" ".join(document["notes"]), to_markdown(document), " ".join(printed.split())):
        assert [part for part in said if part not in text] == []


def test_several_seeds_give_their_mean_and_spread(tmp_path):
    finish_table(1, str(tmp_path), seeds=(0, 1, 2))
    document, _ = made(1, str(tmp_path), seeds=(0, 1, 2))
    value = by_name(document)["OICR", "Selective Search"]["values"]["AP50"]
    # .5, .6, .7
    assert value["mean"] == pytest.approx(0.6)
    assert value["spread"] == pytest.approx(0.2)
    assert value["by_seed"] == pytest.approx({"0": 0.5, "1": 0.6, "2": 0.7})
    _, lines = to_lines(document)
    assert lines[0][:8] == [
        "shapes",
        "OICR",
        "Selective Search",
        "val",
        "60.0 ±20.0",
        "12.5 ±0.0",
        "25.0 ±0.0",
        "10.0 ±0.0",
    ]
    assert "* Seeds 0, 1, 2: mean ± largest minus smallest." in (tmp_path / "tables" / "table-1.md").read_text()


@pytest.mark.parametrize(
    ("values", "mean", "spread"),
    [({}, None, None), ({0: 0.5}, 0.5, 0.0), ({0: 0.5, 1: None}, None, None), ({3: 0.25, 1: 0.75}, 0.5, 0.5)],
)
def test_a_mean_is_that_of_all_seeds_or_unknown(values, mean, spread):
    found = mean_and_spread("AP50", {seed: {"AP50": value} for seed, value in values.items()})
    assert (found["mean"], found["spread"]) == (mean, spread)


# --- what fails, what is missing


@pytest.fixture
def without_oicr(tmp_path) -> Recipes:
    """A recipe whose OICR recipe trains MIST, so that its cells cannot run."""
    base = {"base": "shapes", "name": "shapes-mine"}
    for name in ("mine", "mine-oicr"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(base))
    return Recipes(name=str(tmp_path / "mine.yaml"), overrides=tuple(SMALL_SHAPES))


def test_a_failing_cell_is_shown_and_the_others_go_on(tmp_path, without_oicr):
    run = str(tmp_path / "run")
    finish_table(10, run, recipes=without_oicr, only=lambda row, _: row.detector == "MIST")
    document, printed = made(10, run, recipes=without_oicr)
    states = {(row["detector"], row["proposals"]): row["state"] for row in document["rows"]}
    assert states == {
        ("OICR", "Selective Search"): "failed", ("OICR", "WeakSAM"): "failed",
        ("MIST", "Selective Search"): "measured", ("MIST", "WeakSAM"): "measured",
    }  # fmt: skip
    assert [error["cell"] for error in document["errors"]] == ["OICR, Selective Search", "OICR, WeakSAM"]
    assert "expected mil.detector=oicr, got mist" in document["errors"][0]["error"]
    assert "failed: OICR, WeakSAM, seed 0: ConfigError: recipe" in printed


def test_a_failing_cell_ends_the_command_with_exit_code_1(tmp_path, without_oicr):
    run = str(tmp_path / "run")
    finish_table(10, run, recipes=without_oicr, only=lambda row, _: row.detector == "MIST")
    settings = [argument for item in SMALL_SHAPES for argument in ("--set", item)]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        cli.app, ["table", "10", without_oicr.name, "--out", run, *settings]
    )
    assert result.exit_code == 1
    assert "82.9" in result.output


def test_a_cell_whose_metrics_are_broken_fails_alone(tmp_path, caplog):
    run = str(tmp_path)
    finish_table(10, run, seeds=(0, 1))
    broken = Run(SHAPES.variant(Variant(detector="oicr"), 1), run).instance("evaluate.mil")
    measured_otherwise(broken, {})
    document, _ = made(10, run, seeds=(0, 1))
    assert [(e["cell"], e["seed"], e["error"]) for e in document["errors"]] == [
        ("OICR, WeakSAM", 1, "KeyError: 'detections'")
    ]
    row = by_name(document)["OICR", "WeakSAM"]
    assert (row["state"], row["values"]["CorLoc"]["by_seed"]) == ("measured", {"0": 0.5})
    assert "Traceback" in caplog.text


def test_a_split_without_true_boxes_has_dashes(tmp_path):
    run = str(tmp_path)
    finish_table(1, run)
    recipe = SHAPES.variant(Variant(detector="mist"), 0)
    evaluate = Run(recipe, run).instance("evaluate.mil")
    measured_otherwise(evaluate, {"detections": {"train": detections_of(0.5), "val": {"rows": []}}})
    _, lines = to_lines(made(1, run)[0])
    assert lines[3][:10] == ["shapes", "MIST", "WeakSAM", "val", "–", "–", "–", "–", "–", "–"]


def test_every_test_split_has_its_row():
    row = Row(data="d", detector="MIST", proposals="WeakSAM", published={}, variant=Variant(detector="mist"))
    outcome = Outcome(figures={"test": {"CorLoc": 0.5}, "val": {"CorLoc": 0.25}})
    document = to_document(10, SHAPES.base(), "run", [row], (0,), {(0, 0): outcome})
    assert [line[3:5] for line in to_lines(document)[1]] == [["test", "50.0"], ["val", "25.0"]]


def test_a_table_that_is_not_done_says_what_is_missing():
    rows = rows_of(10)
    document = to_document(10, SHAPES.base(), "run", rows, (0,), {(0, 0): Outcome(error="RunError: no | luck")})
    text = to_markdown(document)
    assert "| data | detector | proposals | split | CorLoc | whole image | part | published |" in text
    assert "| shapes | OICR | Selective Search |  | failed |  |  | CorLoc 60.6 |" in text
    assert "| shapes | MIST | WeakSAM |  | not yet |  |  | CorLoc 82.9 |" in text
    assert "* failed: OICR, Selective Search, seed 0: RunError: no | luck" in text


def test_rows_that_nothing_here_trains_are_not_measured(tmp_path):
    finish_table(1, str(tmp_path))
    made(1, str(tmp_path))
    text = (tmp_path / "tables" / "table-1.md").read_text()
    assert "| voc07 | MIST + DINO | WeakSAM |  | not measured |  |  |  |  |  | AP50 73.4 |" in text
    assert (
        "| coco14 | OICR | Selective Search |  | not measured |  |  |  |  |  | AP 8, AP50 COCO 18.9, AP75 7 |" in text
    )


def test_a_dry_run_lists_what_is_done_and_writes_nothing(tmp_path):
    run = str(tmp_path)
    finish(SHAPES.variant(Variant(detector="mist", selective_search=True), 0), run, "evaluate.mil")
    finish(SHAPES.variant(Variant(detector="mist"), 0), run, "propose")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    console = Console(file=io.StringIO(), width=200)
    assert make_table(1, SHAPES, run, (), Options(dry_run=True), console) == {}
    lines = [re.split(" {2,}", line.strip()) for line in console.file.getvalue().splitlines()]
    assert lines[2:6] == [
        ["OICR", "Selective Search", "0", "to do: train-mil, detect.mil, evaluate.mil"],
        ["OICR", "WeakSAM", "0", "to do: train-mil, detect.mil, evaluate.mil"],
        ["MIST", "Selective Search", "0", "done"],
        ["MIST", "WeakSAM", "0", "to do: train-mil, detect.mil, evaluate.mil"],
    ]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_dry_run_says_which_cells_cannot_run(tmp_path, without_oicr):
    console = Console(file=io.StringIO(), width=250)
    make_table(10, without_oicr, str(tmp_path / "run"), (), Options(dry_run=True), console)
    assert console.file.getvalue().count("cannot run: recipe") == 2


def test_an_earlier_run_is_no_recipe_of_a_table(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x")
    with pytest.raises(ConfigError, match="got the run folder"):
        CliRunner().invoke(cli.app, ["table", "1", str(tmp_path)], catch_exceptions=False)


def test_recall_of_sources_that_were_not_measured_together_is_unknown(tmp_path):
    run, recipe = str(tmp_path), SHAPES.variant(Variant(detector="mist"), 0)
    finish(recipe, run, "evaluate.proposals")
    finished = Finished(Run(recipe, run))
    assert finished.proposals(("grid", "cross")) is None
    assert finished.proposals(("grid", "fine"))["boxes"] == 20.0
    assert finished.proposals(())["boxes"] == 40.0
