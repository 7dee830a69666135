"""Files of tables: those that ship, those of others, and what is refused before anything runs."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app as cli
from pipelines.variants.cells import Asked, Cells
from pipelines.variants.document import lines_of, value_of
from pipelines.variants.measure import Measured
from pipelines.variants.objectives import OBJECTIVES
from pipelines.variants.objectives.pseudo_labels import HALVES
from pipelines.variants.table import known_tables, load_table
from weaksam.errors import ConfigError

ROOT = Path(__file__).parents[3]
TABLE = """
title: "Mine"
source: "nowhere"
recipe: shapes
seeded: [retrain.seed]
presets: {slow: {else: {retrain.lr: 0.001}}}
columns: {AP50: ap50}
rows:
  as it is: {}
  slower: {presets: [slow], set: {retrain.epochs: 2}, published: {voc07: {AP50: 12.5}}}
differences: {column: AP50, pairs: [[as it is, slower]]}
"""


def write(folder, text=TABLE, name="mine"):
    (folder / f"{name}.yaml").write_text(text)
    return str(folder / f"{name}.yaml")


def test_the_shipped_tables_are_those_that_are_promised():
    assert list(known_tables()) == [
        "table-1", "table-2", "table-3", "table-4", "table-5", "table-5-dino", "table-6", "table-7", "table-8", "table-9",
        "table-10", "clues", "clusters", "fma-questions", "fma-seeds", "mask-prompts", "noise", "noise-dino", "photos-clues",
        "photos-drop", "photos-mil", "photos-noise", "photos-peaks", "photos-retrain", "photos-size",
    ]  # fmt: skip


@pytest.mark.parametrize("name", known_tables())
def test_a_shipped_table_fits_its_recipe(name):
    table = load_table(name)
    cells = Cells(table, Asked(data_uri="shapes:"))
    assert table.name == name
    assert cells.left_out == {}
    assert [variant.recipe(7) for variant in cells.variants.values()]
    published = {heading for row in table.rows.values() for of in row.published.values() for heading in of}
    assert published <= set(table.columns)


def test_a_row_of_seeds_is_read_from_its_own_evaluation_and_the_segmenters_from_the_tables():
    variants = Cells(load_table("fma-seeds"), Asked(data_uri="shapes:")).variants
    read = {name: variant.instances(["miou", "background_miou", "ap50"]) for name, variant in variants.items()}
    assert read == {
        row: {"miou": of, "background_miou": of, "ap50": "evaluate.final"}
        for row, of in {
            "pixels": "evaluate.pixels",
            "coarse": "evaluate.coarse",
            "fine": "evaluate.fine",
            "segmenter": "evaluate.maps",
        }.items()
    }
    recipe = variants["fine"].recipe(2)
    seeds = [recipe.of(name).train_prompts.seed for name in ("train-prompts", "train-prompts.maps")]
    assert (seeds, recipe.segmenter.seed) == ([2, 2], 2)


def test_a_row_of_a_question_changes_its_step_alone():
    variants = Cells(load_table("fma-questions"), Asked(data_uri="shapes:")).variants
    recipes = {name: variant.recipe(1) for name, variant in variants.items()}
    told = {
        name: (
            recipe.of("train-prompts").train_prompts.objective, recipe.of("train-prompts.maps").train_prompts.objective,
            (coarse := recipe.of("seeds.coarse").seeds).model, coarse.superpixels, coarse.grabcut,
            recipe.of("seeds.fine").seeds.model, recipe.of("train-prompts").train_prompts.tuned_blocks,
        )
        for name, recipe in recipes.items()
    }  # fmt: skip
    plain = ["contrastive", "activation", "train-prompts", "superpixels", False, "train-prompts.maps", 0]
    assert {name: {n: of[n] for n in range(7) if of[n] != plain[n]} for name, of in told.items()} == {
        "coarse": {},
        "coarse, binary cross-entropy": {0: "bce"},
        "coarse, image tower tuned": {6: 3},
        "coarse, each pixel": {3: ""},
        "coarse, GrabCut": {3: "", 4: True},
        "coarse, maps of WeakTr": {2: "train-classifier"},
        "coarse, maps of WeakTr, each pixel": {2: "train-classifier", 3: ""},
        "fine": {},
        "fine, one set of prompts": {5: "train-prompts"},
        "fine, cross-entropy of pixels": {1: "pixel-cross-entropy"},
    }
    weaktr = recipes["coarse, maps of WeakTr"]
    assert (weaktr.clues.source.stem, weaktr.classifier.seed) == ("cnn", 1)


def test_a_figure_of_the_training_images_stands_beside_one_of_others_and_seeds_have_none():
    table = load_table("fma-seeds")
    known = {
        "miou": {"train": 0.5, "val": 0.25}, "boundary_iou": {"train": 0.125, "val": 0.0},
        "background_miou": {"train": 0.1, "val": 0.2}, "largest_class_miou": {"train": 0.3, "val": 0.4},
    }  # fmt: skip
    segmenter = Measured(values=known, training="train")
    seeds = Measured(values={name: {"train": of["train"]} for name, of in known.items()}, training="train")
    assert (lines_of(table, [segmenter]), lines_of(table, [seeds])) == (["val"], ["train"])
    for cell, line, expected in ((segmenter, "val", 0.25), (seeds, "train", None)):
        assert value_of(table, "mIoU", cell, line) == expected
        assert [value_of(table, heading, cell, line) for heading in table.columns if heading != "mIoU"] == [
            0.5, 0.125, 0.1, 0.3,
        ]  # fmt: skip


def test_a_table_is_found_by_its_number_its_name_and_as_a_file(tmp_path):
    assert (
        load_table("4")
        == load_table("table-4")
        == load_table("table-4.yaml")
        == load_table(str(known_tables()["table-4"]))
    )
    assert load_table(write(tmp_path)).title == "Mine"
    with pytest.raises(
        ConfigError, match=r"no table 'noize' as a file or by name; did you mean noise\? There are table-1"
    ):
        load_table("noize")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("AP50: ap50", "AP50: ap5", r"mine\.yaml: columns\.AP50: expected one of .*, got ap5; did you mean ap50"),
        (
            "AP50: ap50",
            "AP50: {objective: ap50, splitt: val}",
            r"columns\.AP50\.splitt: no such option; did you mean split",
        ),
        ("columns: {AP50: ap50}", "columns: {}", r"mine\.yaml: columns: expected one or more"),
        (
            "presets: [slow]",
            "presets: [slo]",
            r"rows\.slower\.presets: expected one of slow, got slo; did you mean slow",
        ),
        ("published:", "publishd:", r"rows\.slower\.publishd: no such option; did you mean published"),
        (
            "{AP50: 12.5}",
            "{AP5: 12.5}",
            r"rows\.slower\.published\.voc07: expected one of AP50, got AP5; did you mean AP50",
        ),
        ("AP50: ap50", "AP50: rank", r"columns\.AP50: expected a figure that a setting has alone, got rank"),
        (
            "{else: {retrain.lr: 0.001}}",
            "{else: {retrain.lr: 0.001}, voc12: presets/dino-smal}",
            r"presets\.slow: no recipe 'presets/dino-smal', which .* names, as a file or by name; did you mean .*dino-small",
        ),
        ("seeded:", "seeds: 3\nseeded:", "seeds: "),
        ("title:", "titel:", "titel: no such option; did you mean title"),
        ("column: AP50", "column: AP", r"differences\.column: expected one of AP50, got AP"),
        ("[as it is, slower]", "[as it is, slow]", r"differences\.pairs: .*, got slow; did you mean slower"),
        ("rows:", "rows: [", "not valid YAML"),
    ],
)
def test_a_table_that_cannot_be_names_its_file_the_place_and_the_nearest_name(tmp_path, old, new, message):
    assert old in TABLE
    with pytest.raises(ConfigError, match=rf"(?s)mine\.yaml.*{message}|{message}"):
        load_table(write(tmp_path, TABLE.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("retrain.epochs", "retrain.epoch", r"mine\.yaml: rows\.slower: .*retrain\.epoch .*did you mean epochs"),
        ("epochs: 2", "epochs: two", r"mine\.yaml: rows\.slower: .*retrain\.epochs"),
        ("retrain.lr", "retrain.learn_rate", r"mine\.yaml: rows\.slower: .*retrain\.learn_rate"),
        ("recipe: shapes", "recipe: shape", r"mine\.yaml: recipe: no recipe 'shape' .*did you mean shapes"),
        ("else:", "voc07:", r"mine\.yaml: presets\.slow: expected one for shapes or else, got voc07"),
        (
            "seeded:",
            "starts_from: {mil.detectr: mist}\nseeded:",
            r"mine\.yaml: starts_from: mil\.detectr: no such field",
        ),
        ("seeded:", "starts_from: {mil.seed.x: 1}\nseeded:", r"mine\.yaml: starts_from: mil\.seed\.x: no such field"),
        (
            "seeded: [retrain.seed]",
            "seeded: [retrain.sed]",
            r"mine\.yaml: seeded: retrain\.sed: no such field of a recipe; did you mean seed",
        ),
        (
            "AP50: ap50",
            "AP50: {objective: ap50, split: tset}",
            r"AP50: expected detections, proposals or label maps of tset, got train, val",
        ),
    ],
)
def test_what_rows_name_is_checked_on_the_recipe_before_anything_runs(tmp_path, old, new, message):
    assert old in TABLE
    table = load_table(write(tmp_path, TABLE.replace(old, new, 1)))
    with pytest.raises(ConfigError, match=rf"(?s){message}"):
        Cells(table, Asked())


def test_presets_lie_below_what_people_set_and_rows_above(tmp_path):
    table = load_table(write(tmp_path, TABLE.replace("epochs: 2", "epochs: 2, retrain.batch_size: 3")))
    cells = Cells(table, Asked(overrides=("retrain.warmup_steps=5",)))
    own, slower = (cells.variants[name].recipe(0).retrain for name in ("as it is", "slower"))
    assert (slower.lr, slower.epochs, slower.batch_size, slower.warmup_steps) == (0.001, 2, 3, 5)
    assert (own.lr, own.warmup_steps) == (0.0005, 5)
    with pytest.raises(ConfigError, match=r"--set retrain\.epochs=9: mine sets retrain.epochs itself"):
        Cells(table, Asked(overrides=("retrain.epochs=9",)))


@pytest.mark.parametrize(
    "item",
    [
        "retrain={epochs: 9}",
        "retrain.detector.drop.tau_cls=1",
        "retrain.detector={drop: {tau_reg: 2.0}}",
        "retrain.seed=4",
    ],
)
def test_what_rows_set_cannot_be_set_in_any_other_way_of_writing_it(tmp_path, item):
    drop = "retrain.epochs: 2, retrain.detector.drop: {tau_cls: 4.0, tau_reg: 1.0}"
    table = load_table(write(tmp_path, TABLE.replace("retrain.epochs: 2", drop)))
    with pytest.raises(ConfigError, match=rf"^--set {re.escape(item)}: mine sets retrain\..* itself"):
        Cells(table, Asked(overrides=(item,)))
    beside = Cells(table, Asked(overrides=("retrain.detector.drop.start_step=3", "retrain={batch_size: 3}")))
    retrain = beside.variants["slower"].recipe(0).retrain
    assert (retrain.detector.drop.start_step, retrain.detector.drop.tau_cls, retrain.batch_size) == (3, 4.0, 3)


def test_a_recipe_with_two_seeds_is_asked_which(tmp_path):
    (tmp_path / "mixed.yaml").write_text("base: shapes\nname: mixed\nmil: {seed: 1}\nretrain: {seed: 2}\n")
    table = load_table(write(tmp_path, TABLE.replace("seeded: [", "seeded: [mil.seed, ")))
    asked = Asked(recipe=str(tmp_path / "mixed.yaml"))
    with pytest.raises(
        ConfigError, match=r"mixed: mine gives mil.seed, retrain.seed one seed, got 1, 2; choose with --s"
    ):
        Cells(table, asked)
    assert Cells(table, replace(asked, seeds=(2,))).seeds == (2,)


def test_a_preset_may_be_a_file_beside_the_table(tmp_path):
    (tmp_path / "slow.yaml").write_text("retrain: {lr: 0.25}")
    table = load_table(write(tmp_path, TABLE.replace("{retrain.lr: 0.001}", "slow.yaml")))
    assert Cells(table, Asked()).variants["slower"].recipe(0).retrain.lr == 0.25


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Another package with a table, its objective, and a line of registration for each."""
    (tmp_path / "my_tables").mkdir()
    (tmp_path / "my_tables" / "__init__.py").write_text(
        "from pipelines.variants.objectives.base import Objective\n"
        "COUNT = Objective(what='images', instance='index', read=lambda reading: {'': 3.0}, unit='images')\n"
    )
    write(tmp_path / "my_tables", TABLE.replace("AP50: ap50", "AP50: ap50, images: my_count"), "theirs")
    metadata = tmp_path / "my_tables-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my_tables\nVersion: 1.0\n")
    points = metadata / "entry_points.txt"
    points.write_text("[weaksam.tables]\ntheirs = my_tables\n\n[weaksam.objectives]\nmy_count = my_tables:COUNT\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    vars(OBJECTIVES).pop("_targets", None)
    yield points
    vars(OBJECTIVES).pop("_targets", None)
    sys.modules.pop("my_tables", None)


def test_another_package_adds_a_table_and_an_objective_by_a_line_each(package):
    assert list(known_tables())[-1] == "theirs"
    assert Cells(load_table("theirs"), Asked()).table.objectives == ("ap50", "my_count")
    assert OBJECTIVES["my_count"].unit == "images"
    listed = CliRunner(env={"COLUMNS": "120"}).invoke(cli.app, ["table"])
    assert "theirs" in listed.output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("theirs = my_table", "weaksam.tables: 'theirs': no package my_table"),
        ("other = my_tables", r"weaksam.tables: 'other' is not at .*other\.yaml"),
    ],
)
def test_a_line_that_leads_nowhere_is_named(package, line, message):
    package.write_text(f"[weaksam.tables]\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        known_tables()


def test_the_table_that_is_shown_to_strangers_fits_its_recipe(tmp_path):
    (shown,) = re.findall(r"```yaml\n(title.*?)```", (ROOT / "docs" / "RUNNING.md").read_text(), re.DOTALL)
    cells = Cells(load_table(write(tmp_path, shown)), Asked())
    assert list(cells.variants) == ["top-1", "adaptive", "true boxes"]
    assert cells.pairs().half_width == 0.01  # a point
    halves = Measured(
        values={"pseudo_precision": dict.fromkeys(HALVES, 0.25) | {HALVES[1]: 0.5}, "voc_ap50": {"val": 0.75}}
    )
    assert lines_of(cells.table, [halves]) == ["val"]
    assert value_of(cells.table, "precision", halves, "val") == 0.5


def test_the_files_are_read_as_they_are_meant():
    for path in known_tables().values():
        given = yaml.safe_load(path.read_text())
        assert list(load_table(str(path)).rows) == list(given["rows"])  # names that YAML reads as text
