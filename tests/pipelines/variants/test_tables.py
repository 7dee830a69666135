"""Tables on cells whose instances and metrics are written by hand: nothing here trains."""

import json
import re

import pytest
from typer.testing import CliRunner

from pipelines.cli import app as cli
from pipelines.engine.stage import Options
from pipelines.engine.voice import plain
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.store.files import write_json
from pipelines.store.instances import Instance, current_instance
from pipelines.variants.cells import Asked, Cells
from pipelines.variants.document import data_set, remarks, to_document, to_lines, to_markdown, to_text
from pipelines.variants.measure import Failed, Measured, Results
from pipelines.variants.run import make_table, parse_seeds
from pipelines.variants.table import load_table
from tests.support.voice import Recorder
from weaksam.errors import ConfigError

SMALL_SHAPES = ("data.shapes.size=32", "data.shapes.train=3", "data.shapes.val=2", "data.shapes.test=0")
MIL_ROWS = ("OICR, *", "MIST, *")


def cells_of(name: str, recipe: str = "", overrides: tuple[str, ...] = SMALL_SHAPES, **asked) -> Cells:
    asked = ({"rows": MIL_ROWS} if name == "1" else {}) | asked
    return Cells(load_table(name), Asked(recipe=recipe, overrides=overrides, **asked))


# --- rows


@pytest.mark.parametrize(
    ("recipe", "data"), [("voc07", "voc07"), ("voc07-oicr", "voc07"), ("coco14-mine", "coco14"), ("cards-voc07", "cards-voc07")]
)  # fmt: skip
def test_the_name_of_a_recipe_says_which_data_set_it_is_about(recipe, data):
    assert data_set(recipe, {"voc07", "coco14"}) == data


def test_table_1_shows_what_was_published_of_the_recipes_data_set_or_of_all():
    published = {}
    for recipe in ("shapes", "voc12"):
        base = load_recipe(recipe)[0]
        document = to_document(load_table("1"), base, "run", (0,), {}, Results())
        header, lines = to_lines(document)
        assert (len(lines), header[-1]) == (9, "published")
        published[recipe] = {line[0]: line[-1] for line in lines}
    assert published["voc12"]["MIST + DINO, WeakSAM"] == "voc12: AP50 70.2"
    assert published["shapes"]["MIST, WeakSAM"] == (
        "voc07: AP50 67.4; voc12: AP50 66.9; coco14: AP 22.9, AP50 COCO 35.2, AP75 24.6"
    )
    assert published["shapes"]["Faster R-CNN, true boxes"] == "voc07: AP50 69.9; coco14: AP 21.2, AP50 COCO 41.5"


def keys_of(cells: Cells, name: str, seed: int = 0, run: str = "/run") -> dict[str, str]:
    variant = cells.variants[name]
    resolved = Run(variant.recipe(seed), run)
    return {instance: resolved.instance(instance).key for instance in cells.needed(resolved, variant)}


def test_cells_share_everything_upstream_of_their_difference():
    cells, sources = cells_of("1", rows=()), cells_of("4")
    mist, oicr, search = (keys_of(cells, name) for name in ("MIST, WeakSAM", "OICR, WeakSAM", "MIST, Selective Search"))

    def shared(one, other):
        return {name for name in one if one[name] == other.get(name)}

    assert shared(mist, oicr) == {"index", "train-classifier", "propose"}
    assert shared(mist, keys_of(sources, "grid")) == {"index", "train-classifier", "propose"}
    assert shared(mist, keys_of(cells, "MIST, WeakSAM", seed=1)) == {"index", "train-classifier", "propose"}
    assert shared(mist, search) == {"index"}
    assert shared(mist, keys_of(sources, "+ cross")) == set(mist)  # the last row of Table 4 is the same cell
    retrained = keys_of(cells, "MIST + Faster R-CNN, WeakSAM")
    assert shared(retrained, mist) == {"index", "train-classifier", "propose", "train-mil", "detect.mil"}
    assert shared(retrained, keys_of(cells, "MIST + DINO, WeakSAM")) >= {"label", "detect.mil"}


@pytest.mark.parametrize(
    ("given", "row", "whole"),
    [
        ("shapes", "MIST, WeakSAM", "shapes"),
        ("shapes", "OICR, WeakSAM", "shapes-oicr"),
        ("voc07", "OICR, WeakSAM", "voc07-oicr"),
    ],
)
def test_a_row_is_the_recipe_that_does_the_same_alone(given, row, whole):
    found = Cells(
        load_table("10"), Asked(recipe=given, data_uri="shapes:", overrides=("data.kind=shapes", *_splits(given)))
    )
    recipe, expected = found.variants[row].recipe(0), load_recipe(whole)[0]
    assert (recipe.mil, recipe.detect, recipe.propose) == (expected.mil, expected.detect, expected.propose)


def _splits(recipe: str) -> tuple[str, ...]:
    return () if recipe == "shapes" else ("data.splits=[train, val]", "data.train_split=train")


def test_the_oicr_of_other_recipes_has_other_learning_rates(tmp_path):
    (tmp_path / "alone.yaml").write_text("{base: shapes, name: alone, mil: {epochs: 3, lr: 0.1}}")
    cells = cells_of("10", str(tmp_path / "alone.yaml"), (*SMALL_SHAPES, "mil.warmup_steps=7"), seeds=(5,))
    mist, oicr = (cells.variants[f"{name}, WeakSAM"].recipe(5).mil for name in ("MIST", "OICR"))
    assert (oicr.detector.name, oicr.refine_lr_factor, oicr.warmup_factor) == ("oicr", 10.0, 0.001)
    assert oicr.warmup_steps == 7  # what --set says wins
    assert (oicr.epochs, oicr.lr, oicr.scales, oicr.seed) == (3, 0.1, mist.scales, 5)


def test_table_4_trains_on_more_and_more_of_the_recipes_own_proposals():
    cells = cells_of("4")
    found = {name: variant.recipe(0).mil.proposal_sources for name, variant in cells.variants.items()}
    assert found == {
        "Selective Search": (), "grid": ("grid",), "+ fine": ("grid", "fine"), "+ coarse": ("grid", "fine", "coarse"),
        "+ cross": (),
    }  # fmt: skip
    assert [name for name, v in cells.variants.items() if v.recipe(0).propose.method != "sam"] == ["Selective Search"]


def test_sources_that_a_recipe_has_not_are_not_measured():
    cells = cells_of("4", overrides=(*SMALL_SHAPES, "prompts.sources=[grid, coarse]"))
    assert list(cells.variants) == ["Selective Search", "grid", "+ coarse"]
    assert cells.left_out == {
        "+ fine": "recipe shapes has no fine in prompts.sources", "+ cross": "recipe shapes has no cross in prompts.sources",
    }  # fmt: skip


def test_rows_whose_trainings_a_recipe_does_not_list_are_left_out(tmp_path):
    (tmp_path / "mil.yaml").write_text("{base: shapes, name: mil, stages: [index, propose, train-mil, detect.mil]}")
    cells = cells_of("1", str(tmp_path / "mil.yaml"), rows=())
    assert list(cells.variants) == [f"{d}, {p}" for d in ("OICR", "MIST") for p in ("Selective Search", "WeakSAM")]
    assert set(cells.left_out.values()) == {"the stages of recipe mil have no retrain"}


def test_rows_can_be_asked_for_by_patterns():
    cells = cells_of("1", rows=("MIST + *", "OICR, WeakSAM"))
    asked_for = [name for name in cells.variants if cells.is_asked_for(name)]
    assert asked_for == ["OICR, WeakSAM", "MIST + Faster R-CNN, WeakSAM", "MIST + DINO, WeakSAM"]
    with pytest.raises(
        ConfigError, match="table-1: recipe shapes has none of the rows: there are OICR, Selective Search, OICR"
    ):
        cells_of("1", rows=("nothing",))


MISTAKES = {
    "a detector of the user's": ("1", "shapes", ["mil.detector=oicr"], "starts from mil.detector.name='mist', got 'oicr'"),
    "a detector of the retrained": ("1", "shapes", ["retrain.detector=dino"], "starts from retrain.detector.name='faster"),
    "what rows vary": ("4", "shapes", ["mil.proposal_sources=[grid]"], "table-4 sets mil.proposal_sources itself"),
    "a seed of the user's": ("1", "shapes", ["mil.seed=1"], "chosen with --seeds"),
    "a recipe of OICR": ("1", "shapes-oicr", [], "starts from mil.detector.name='mist', got 'oicr'"),
    "weights": ("1", "shapes", ["mil.weights=x.pth"], "starts from mil.weights.uri='', got 'x.pth'"),
    "a recipe of DINO": ("5", "table5-dino", [], "starts from retrain.detector.name='faster_rcnn', got 'dino'"),
    "no detector": ("1", "grid", [], "has none of the rows: the stages of recipe grid have no train-mil"),
    "no test split": ("1", "shapes", ["data.splits=[train]"], "expected a split to test on beside train, got train"),
    "no proposals": ("1", "shapes", ["propose.splits=[val]"], "expected proposals of train, got val"),
    "no proposals to measure": ("6", "shapes", ["propose.splits=[val]"], "expected proposals of train, got val"),
    "no detections": ("10", "shapes", ["detect.splits=[val]"], "CorLoc: expected detections, proposals or .* train, got val"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "recipe", "settings", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_cannot_be_measured_is_refused_before_anything_runs(table, recipe, settings, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        cells_of(table, recipe, (*SMALL_SHAPES, *settings), data_uri="shapes:")


def test_average_precision_needs_no_detections_of_the_training_split():
    assert cells_of("1", overrides=(*SMALL_SHAPES, "detect.splits=[val]")).variants


@pytest.mark.parametrize(("text", "seeds"), [("", ()), ("0", (0,)), ("0, 2,1", (0, 2, 1))])
def test_seeds_are_a_list_of_numbers(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["a", "1,", "1,1", "01,1", "-1", "1.5", "1 2"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="--seeds: expected different integers"):
        parse_seeds(text)


def test_seeds_are_those_asked_for_or_the_tables_or_the_recipes():
    assert cells_of("10", seeds=(3, 1)).seeds == (3, 1)
    assert cells_of("5-dino", overrides=()).seeds == (0, 1, 2)
    assert cells_of("10").seeds == (0,)


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
    if name == "propose":
        proof = {"images": 5, "done": 5, "dropped": 0}
        return {
            "images": proof,
            "throughput": {"images": 5, "seconds": 1.0, "images_per_s": 5.0},
            "seconds": 8.0,
            "text": "",
        }, None
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
    Run(recipe, run).bring(["index"], Options())
    cell = Run(recipe, run)
    for name in cell.needed_for(*names):
        resolved = cell.resolve(name)
        instance = resolved.instance
        if instance.manifest() is None:
            manifest, metrics = content(recipe, name, ap50)
            if metrics is not None:
                write_json(instance.file("metrics.json"), metrics)
            instance.begin(resolved.parts)
            instance.finish(manifest | {"reads": resolved.read()} | (changes if name == names[-1] else {}))


def measured_otherwise(instance: Instance, metrics: dict) -> None:
    """Give a finished instance other metrics, as if it had written these: a file that changes later counts as damaged."""
    write_json(instance.file("metrics.json"), metrics)
    instance.finish(instance.manifest())


def finish_table(cells: Cells, run: str, only=lambda _row, _seed: True) -> None:
    """Finish the cells of a table; AP50 on val is .5 + .01 per row + .1 per seed."""
    for n, (name, variant) in enumerate(cells.variants.items()):
        for seed in cells.seeds:
            if cells.is_asked_for(name) and only(name, seed):
                names = dict.fromkeys(variant.instances(cells.table.objectives).values())
                finish(variant.recipe(seed), run, *names, ap50=0.5 + 0.01 * n + 0.1 * seed)


def made(cells: Cells, run: str) -> tuple[dict, str]:
    voice = Recorder()
    document = make_table(cells, run, Options(), voice)
    return document, voice.text


def by_name(document: dict) -> dict[str, dict]:
    return {row["row"]: row for row in document["rows"]}


def means(row: dict) -> dict[str, float | None]:
    return {name: value["mean"] for name, value in row["values"].items()}


def test_finished_cells_are_recognised_and_their_figures_read(tmp_path):
    run, cells = str(tmp_path), cells_of("1")
    finish_table(cells, run)
    document, printed = made(cells, run)
    assert document["errors"] == []
    assert json.loads((tmp_path / "tables" / "table-1.json").read_text()) == document
    row = by_name(document)["MIST, WeakSAM"]
    assert (row["state"], row["split"]) == ("measured", "val")
    assert means(row) == pytest.approx(
        {"AP50": 0.53, "whole image": 0.125, "part": 0.25, "AP": 0.1, "AP50 COCO": 0.3, "AP75": 0.05}
    )
    assert "cell 4 of 4: MIST, WeakSAM, seed 0" in printed
    assert "is finished" in printed
    names = row["instances"]["0"]
    assert set(names) == {"index", "train-classifier", "propose", "train-mil", "detect.mil", "evaluate.mil"}
    assert {row["state"] for row in document["rows"] if "+" in row["row"]} == {"not measured"}
    # The run shows the recipe's own detector, and its recipe is the recipe's own.
    assert current_instance(run, "train-mil").key == names["train-mil"]
    assert load_recipe(str(tmp_path / "recipe.yaml"))[0] == cells.base


def test_the_run_shows_the_recipes_own_cell_and_not_the_last(tmp_path):
    cells = cells_of("10", seeds=(1, 0, 2), rows=("MIST, WeakSAM",))
    finish_table(cells, str(tmp_path))
    document, _ = made(cells, str(tmp_path))
    keys = {seed: names["train-mil"] for seed, names in by_name(document)["MIST, WeakSAM"]["instances"].items()}
    assert current_instance(str(tmp_path), "train-mil").key == keys["1"]
    assert len(set(keys.values())) == 3


def test_rows_that_are_finished_stay_in_the_table_though_others_are_asked_for(tmp_path):
    run = str(tmp_path)
    for rows in (("MIST, WeakSAM",), ("OICR, WeakSAM",)):
        cells = cells_of("10", rows=rows)
        finish_table(cells, run)
        document, _ = made(cells, run)
    states = {name: (row["state"], row["why"]) for name, row in by_name(document).items()}
    assert states["MIST, WeakSAM"] == states["OICR, WeakSAM"] == ("measured", "")
    assert states["MIST, Selective Search"] == ("not measured", "it was not asked for")


def test_figures_of_prompts_come_from_the_training_splits_proposals(tmp_path):
    cells = cells_of("4")
    finish_table(cells, str(tmp_path))
    document, _ = made(cells, str(tmp_path))
    rows = by_name(document)
    found = {name: means(row) for name, row in rows.items()}
    assert {name: figures["boxes"] for name, figures in found.items()} == {
        "Selective Search": 2000.5, "grid": 10.0, "+ fine": 20.0, "+ coarse": 30.0, "+ cross": 40.0,
    }  # fmt: skip
    assert (found["+ fine"]["R@.5"], found["+ fine"]["R@.75"], found["+ fine"]["R@.9"]) == (0.4, 0.2, None)
    assert found["+ cross"]["AP50"] == pytest.approx(0.54)
    assert rows["+ cross"]["published"]["voc07"]["boxes"] == 213
    assert {row["split"] for row in rows.values()} == {"val"}


def test_seconds_come_from_the_manifests_and_memory_only_where_it_was_measured(tmp_path):
    run, cells = str(tmp_path), cells_of("6")
    finish(cells.variants["WeakSAM"].recipe(0), run, "train-mil", gpu_memory_mib=812.0)
    finish_table(cells, run)
    document, printed = made(cells, run)
    rows = by_name(document)
    assert means(rows["WeakSAM"]) == {
        "boxes": 40.0, "images": 5, "propose s": 8.0, "train s": 4.0, "MiB a GPU": 812.0,
    }  # fmt: skip
    assert means(rows["Selective Search"])["MiB a GPU"] is None
    header, lines = to_lines(document)
    memory = {line[0]: line[header.index("MiB a GPU")] for line in lines}
    assert memory == {"Selective Search": "not measured", "WeakSAM": "812"}
    assert "boxes 2,001, propose s 41,760, train s 57,600, MiB a GPU 17,810" in printed
    assert document["rows"][0]["split"] == "train"


def test_the_time_of_what_was_interrupted_is_not_known(tmp_path):
    run, cells = str(tmp_path), cells_of("6")
    recipe = cells.variants["WeakSAM"].recipe(0)
    part = {"images": 2, "seconds": 1.0, "images_per_s": 2.0}
    finish(recipe, run, "propose", throughput=part)
    finish(recipe, run, "train-mil", steps={"planned": 9, "done": 9, "resumed_at": 3})
    finish_table(cells, run)
    document, _ = made(cells, run)
    values = means(by_name(document)["WeakSAM"])
    assert (values["propose s"], values["train s"]) == (None, None)
    assert [note for note in document["notes"] if "interrupted" in note] == [
        "WeakSAM, seed 0: propose was interrupted and went on; only its last run was timed, 8.0 s",
        "WeakSAM, seed 0: train-mil was interrupted and went on; only its last run was timed, 4.0 s",
    ]


def test_corloc_is_that_of_the_training_split(tmp_path):
    cells = cells_of("10")
    finish_table(cells, str(tmp_path))
    document, _ = made(cells, str(tmp_path))
    row = by_name(document)["OICR, WeakSAM"]
    assert (row["split"], means(row)) == ("train", {"CorLoc": 0.5, "whole image": 0.0625, "part": 0.25})
    assert row["published"] == {"voc07": {"CorLoc": 74.5}}


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("1", ["evaluate.voc_levels"]),
        ("4", ["of the same boxes it reads higher, most of all at IoU .9", "filled up with pixels that are none"]),
        ("6", ["filled up with pixels that are none"]),
        ("10", ["published CorLoc of MIST compares boxes with true ones a pixel off"]),
    ],
)
def test_what_reads_differently_is_said_beside_what_was_published(number, said):
    base = load_recipe("shapes")[0]
    document = to_document(load_table(number), base, "run", (0,), {}, Results())
    for text in (" ".join(remarks(document)), to_markdown(document)):
        assert [part for part in said if part not in text] == []


def test_several_seeds_give_their_mean_and_spread(tmp_path):
    cells = cells_of("1", seeds=(0, 1, 2))
    finish_table(cells, str(tmp_path))
    document, _ = made(cells, str(tmp_path))
    value = by_name(document)["OICR, Selective Search"]["values"]["AP50"]
    # .5, .6, .7
    assert value["mean"] == pytest.approx(0.6)
    assert value["spread"] == pytest.approx(0.2)
    assert value["by_seed"] == pytest.approx({"0": 0.5, "1": 0.6, "2": 0.7})
    _, lines = to_lines(document)
    assert lines[0][:6] == ["OICR, Selective Search", "val", "60.0 ±20.0", "12.5 ±0.0", "25.0 ±0.0", "10.0 ±0.0"]
    assert "* Seeds 0, 1, 2: mean ± largest minus smallest." in (tmp_path / "tables" / "table-1.md").read_text()


# --- differences


def retrained(*values: float) -> dict[int, Measured]:
    return {
        seed: Measured(values={name: {"test": value} for name in ("ap50", "voc_ap50", "coco_ap75")}, training="train")
        for seed, value in enumerate(values)
    }


def test_pairs_of_rows_are_compared_seed_by_seed_in_points():
    rows = {"top-1": retrained(0.1, 0.5, 0.3), "adaptive": retrained(0.11, 0.511, 0.309), "true boxes": retrained(0.9)}
    results = Results({(name, seed): cell for name, of in rows.items() for seed, cell in of.items()})
    document = to_document(load_table("5"), load_recipe("table5")[0], "run", (0, 1, 2), {}, results)
    (found,) = document["differences"]
    assert (found["pair"], found["column"], found["holds_zero"]) == (["top-1", "adaptive"], "AP50 area", False)
    assert "* Paired by seed: adaptive − top-1, AP50 area of test: +1.00, 95 % interval +0.75 to +1.25." in to_markdown(
        document
    )
    results.cells["adaptive + drop", 0] = retrained(0.2)[0]
    document = to_document(load_table("5"), load_recipe("table5")[0], "run", (0, 1, 2), {}, results)
    assert json.loads(json.dumps(document, allow_nan=False))["differences"][1]["half_width"] is None
    assert "adaptive + drop − adaptive, AP50 area of test: +9.00, one seed, no interval" in to_markdown(document)


# --- values that people set


def test_values_that_no_row_reads_are_said(tmp_path):
    given = [*SMALL_SHAPES, "mil.steps=3", "train_prompts.steps=3", "retrain.lr=0.5"]
    settings = [argument for item in given for argument in ("--set", item)]
    arguments = ["table", "10", "shapes", "--out", str(tmp_path), "--dry-run", *settings, "--row", "MIST*"]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    said = [line.split()[1] for line in result.output.splitlines() if "changes nothing" in line]
    assert said == ["train_prompts.steps=3", "retrain.lr=0.5"]


# --- what fails, what is missing


def test_a_failing_cell_is_shown_and_ends_the_command_with_exit_code_1(tmp_path):
    run, cells = str(tmp_path), cells_of("10")
    finish_table(cells, run)
    broken = Run(cells.variants["OICR, WeakSAM"].recipe(0), run).instance("evaluate.mil")
    measured_otherwise(broken, {})
    settings = [argument for item in SMALL_SHAPES for argument in ("--set", item)]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["table", "10", "shapes", "--out", run, *settings])
    assert result.exit_code == 1
    document = json.loads((tmp_path / "tables" / "table-10.json").read_text())
    assert {name: row["state"] for name, row in by_name(document).items()} == {
        "OICR, Selective Search": "measured", "OICR, WeakSAM": "failed",
        "MIST, Selective Search": "measured", "MIST, WeakSAM": "measured",
    }  # fmt: skip
    assert "failed: OICR, WeakSAM, seed 0: KeyError: 'detections'" in result.output
    assert "82.9" in result.output


def test_a_cell_whose_metrics_are_broken_fails_alone(tmp_path, caplog):
    run, cells = str(tmp_path), cells_of("10", seeds=(0, 1))
    finish_table(cells, run)
    broken = Run(cells.variants["OICR, WeakSAM"].recipe(1), run).instance("evaluate.mil")
    measured_otherwise(broken, {})
    document, _ = made(cells, run)
    assert [(e["cell"], e["seed"], e["error"]) for e in document["errors"]] == [
        ("OICR, WeakSAM", 1, "KeyError: 'detections'")
    ]
    row = by_name(document)["OICR, WeakSAM"]
    assert (row["state"], row["values"]["CorLoc"]["by_seed"]) == ("measured", {"0": 0.5})
    assert "Traceback" in caplog.text


def test_a_split_without_true_boxes_has_dashes(tmp_path):
    run, cells = str(tmp_path), cells_of("1")
    finish_table(cells, run)
    evaluate = Run(cells.variants["MIST, WeakSAM"].recipe(0), run).instance("evaluate.mil")
    measured_otherwise(evaluate, {"detections": {"train": detections_of(0.5), "val": {"rows": []}}})
    _, lines = to_lines(made(cells, run)[0])
    assert lines[3][:8] == ["MIST, WeakSAM", "val", "–", "–", "–", "–", "–", "–"]


def measured(**values: dict) -> Measured:
    return Measured(values=values, training="train")


def test_every_test_split_has_its_line_beside_what_is_measured_on_the_training_split():
    detected = {"train": 0.9, "test": 0.5, "val": 0.25}
    proposals = {
        name: {"train": 0.125, "val": 0.1} for name in ("mil_boxes", "mil_recall50", "mil_recall75", "mil_recall90")
    }
    cell = measured(voc_ap50=detected, whole_image_voc_ap50=detected, part=detected, **proposals)
    document = to_document(load_table("4"), load_recipe("shapes")[0], "run", (0,), {}, Results({("grid", 0): cell}))
    lines = [line for line in to_lines(document)[1] if line[0] == "grid"]
    assert [[line[1], line[3], line[6]] for line in lines] == [["test", "12.5", "50.0"], ["val", "12.5", "25.0"]]


def test_what_is_known_of_no_split_stands_in_every_line():
    table = load_table("6").model_copy(update={"columns": load_table("noise").columns, "split": "held-out"})
    detected = {"val": 0.5, "test": 0.25}
    values = dict.fromkeys(("ap50", "voc_ap50", "coco_ap75"), detected)
    cell = measured(**values, **{name: {"": 0.125} for name in ("regions_wrong", "regions_dropped", "dropped_wrong")})
    document = to_document(table, load_recipe("shapes")[0], "run", (0,), {}, Results({("WeakSAM", 0): cell}))
    lines = [line for line in to_lines(document)[1] if line[0] == "WeakSAM"]
    assert [line[1:6] for line in lines] == [["val", *["50.0"] * 3, "12.5"], ["test", *["25.0"] * 3, "12.5"]]


def test_a_table_that_is_not_done_says_what_is_missing():
    failed = Results({("OICR, Selective Search", 0): Failed("RunError: no | luck")})
    left_out = {"MIST, Selective Search": "not asked for"}
    document = to_document(load_table("10"), load_recipe("shapes")[0], "run", (0,), left_out, failed)
    text = to_markdown(document)
    assert "|  | split | CorLoc | whole image | part | published |" in text
    assert "| OICR, Selective Search |  | failed |  |  | voc07: CorLoc 60.6 |" in text
    assert "| MIST, WeakSAM |  | not yet |  |  | voc07: CorLoc 82.9 |" in text
    assert "| MIST, Selective Search |  | not measured |  |  | voc07: CorLoc 68.8 |" in text
    assert "* not measured: MIST, Selective Search: not asked for" in text
    assert "* failed: OICR, Selective Search, seed 0: RunError: no | luck" in text
    assert [plain(row[0]) for row in to_text(document).rows] == [
        "OICR, Selective Search",
        "OICR, WeakSAM",
        "MIST, WeakSAM",
    ]


def test_a_dry_run_lists_what_is_done_and_writes_nothing(tmp_path):
    run, cells = str(tmp_path), cells_of("1", rows=(*MIL_ROWS, "Faster R-CNN, true boxes"))
    finish(cells.variants["MIST, Selective Search"].recipe(0), run, "evaluate.mil")
    finish(cells.variants["MIST, WeakSAM"].recipe(0), run, "propose")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    voice = Recorder()
    assert make_table(cells, run, Options(dry_run=True), voice) == {}
    lines = [re.split(" {2,}", line.strip()) for line in voice.text.splitlines()]
    assert lines[2:6] == [
        ["OICR, Selective Search", "0", "to do: train-mil, detect.mil, evaluate.mil"],
        ["OICR, WeakSAM", "0", "to do: train-mil, detect.mil, evaluate.mil"],
        ["MIST, Selective Search", "0", "done"],
        ["MIST, WeakSAM", "0", "to do: train-mil, detect.mil, evaluate.mil"],
    ]
    assert [line[2] for line in lines[6:11]] == [
        *["not asked for"] * 4, "to do: true-boxes.truth, retrain, detect.final, evaluate.final",
    ]  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_earlier_run_is_no_recipe_of_a_table(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x")
    with pytest.raises(ConfigError, match="got the run folder"):
        CliRunner().invoke(cli.app, ["table", "1", str(tmp_path)], catch_exceptions=False)
