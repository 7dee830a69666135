from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from pipelines.recipe.keys import to_plain
from pipelines.recipe.model import Recipe, is_from_outside, load_recipe
from pipelines.recipe.yaml_text import render
from pipelines.registry import STAGES, active
from pipelines.store.files import write_bytes
from weaksam.config import DinoConfig, FasterRcnnConfig, RoiDropConfig, Weights
from weaksam.errors import ConfigError, DataError

SMALLEST = "{name: x, stages: [index], sam: {name: builtin}, clues: {source: none}, prompts: {sources: [grid]}}"


def write(folder: Path, **files: str) -> str:
    """Write ``name.yaml`` files; returns the path of the last one."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(dedent(text))
    return str(folder / f"{name}.yaml")


def message_of(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


# --- merging


def test_bases_merge_left_to_right_then_the_file_then_set(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        one=SMALLEST,
        two="proposals: {min_predicted_iou: 0.2, min_stability: 0.2, grid_nms_iou: 0.2, cross_nms_iou: 0.2}",
        three="proposals: {min_stability: 0.3, grid_nms_iou: 0.3, cross_nms_iou: 0.3}",
        mine="""
            base: [one.yaml, two.yaml, three.yaml]
            proposals: {grid_nms_iou: 0.4, cross_nms_iou: 0.4}
        """,
    )
    recipe, origins = load_recipe(path, ["proposals.cross_nms_iou=0.5"])
    got = recipe.proposals
    assert (got.min_predicted_iou, got.min_stability, got.grid_nms_iou, got.cross_nms_iou) == (0.2, 0.3, 0.4, 0.5)
    names = ("min_predicted_iou", "min_stability", "grid_nms_iou", "cross_nms_iou")
    assert [origins[f"proposals.{n}"] for n in names] == ["two.yaml", "three.yaml", "mine.yaml", "--set"]
    assert origins["name"] == "one.yaml"
    assert "proposals.keep_masks" not in origins


def test_a_base_may_be_one_name_and_have_bases_itself(tmp_path: Path) -> None:
    path = write(tmp_path, one=SMALLEST, two="{base: one.yaml, name: y}", three="{base: two.yaml, description: d}")
    recipe, origins = load_recipe(path)
    assert (recipe.name, recipe.description) == ("y", "d")
    assert (origins["name"], origins["description"], origins["stages"]) == ("two.yaml", "three.yaml", "one.yaml")


def test_a_base_shared_by_two_bases_is_no_cycle(tmp_path: Path) -> None:
    path = write(
        tmp_path, one=SMALLEST, left="base: one.yaml", right="base: one.yaml", mine="base: [left.yaml, right.yaml]"
    )
    assert load_recipe(path)[0].name == "x"


def test_bases_stand_beside_the_file_or_among_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, beside=SMALLEST)
    assert load_recipe(write(tmp_path / "sub", mine="base: ../beside.yaml"))[0].name == "x"
    assert load_recipe(write(tmp_path / "sub", mine="{base: grid, name: y}"))[0].sam.name == "builtin"


def test_lists_replace_and_mappings_merge(tmp_path: Path) -> None:
    path = write(
        tmp_path, one=SMALLEST, mine="{base: one.yaml, stages: [propose], proposals: {clue_mask_indices: [0]}}"
    )
    recipe, _ = load_recipe(path, ["proposals.clue_mask_indices=[2, 1]"])
    assert recipe.stages == ("propose",)
    assert recipe.proposals.clue_mask_indices == (2, 1)


@pytest.mark.parametrize(
    ("item", "part", "field", "value"),
    [
        ("prompts.points_per_side=16", "prompts", "points_per_side", 16),
        ("prompts.class_joint=false", "prompts", "class_joint", False),
        ("report.title=a: b", None, None, None),
        ("report.title='a: b'", "report", "title", "a: b"),
        ("report.title=x=y", "report", "title", "x=y"),
        ("report.title=", None, None, None),
        ("report.title=''", "report", "title", ""),
        ("report.title=2024-01-02", "report", "title", "2024-01-02"),
        ("report.title=!!timestamp 2024-01-02", "report", "title", "2024-01-02"),
        ("report.title=1e", "report", "title", "1e"),
        ("propose.splits=[a, b]", "propose", "splits", ("a", "b")),
        ("classifier.base_lr=6e-4", "classifier", "base_lr", 6e-4),
        ("classifier.base_lr=1", "classifier", "base_lr", 1.0),
        ("mil.milestones=[]", "mil", "milestones", ()),
    ],
)
def test_set_reads_values_as_yaml(tmp_path: Path, item: str, part: str | None, field: str, value: object) -> None:
    path = write(tmp_path, mine=SMALLEST)
    if part is None:
        assert "--set" in message_of(path, item)
    else:
        got = getattr(getattr(load_recipe(path, [item])[0], part), field)
        assert got == value
        assert type(got) is type(value)


def test_the_last_set_wins_and_data_comes_after(tmp_path: Path) -> None:
    path = write(tmp_path, mine=SMALLEST)
    recipe, origins = load_recipe(path, ["data.uri=a", "data.limit=3", "data.limit=4"], data_uri="b: c#d")
    assert (recipe.data.uri, recipe.data.limit) == ("b: c#d", 4)
    assert (origins["data.uri"], origins["data.limit"]) == ("--data", "--set")


# --- mistakes


def test_a_cycle_of_bases_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, one="base: two.yaml", two="base: one.yaml")
    assert "its bases form a cycle: two.yaml -> one.yaml -> two.yaml" in message_of(path)


MISTAKES: dict[str, tuple[str, list[str]]] = {
    "an unknown option": ("prompts: {point_per_side: 4}", ["side (from mine.yaml): no such option; did you mean points_"]),
    "an unknown nested option": ("prompts: {peaks: {treshold: 1}}", ["prompts.peaks.treshold", "did you mean threshold?"]),
    "an unknown part": ("promts: {}", ["promts", "did you mean prompts?"]),
    "an option like no other": ("qqqq: 1", ["qqqq (from mine.yaml): no such option\n"]),
    "text for a boolean": ('prompts: {class_joint: "False"}', ["class_joint (from mine.yaml)", "boolean, got 'False'"]),
    "a number for a boolean": ("prompts: {class_joint: 1}", ["prompts.class_joint", "boolean, got 1"]),
    "a fraction for an integer": ("prompts: {points_per_side: 1.5}", ["prompts.points_per_side", "integer, got 1.5"]),
    "a whole fraction for an integer": ("prompts: {points_per_side: 2.0}", ["prompts.points_per_side", "integer, got 2.0"]),
    "text for a number": ('proposals: {min_stability: "0.3"}', ["proposals.min_stability", "number, got '0.3'"]),
    "not a number": ("proposals: {min_stability: .nan}", ["proposals.min_stability", "nan"]),
    "a scalar for a list": ("stages: index", ["stages (from mine.yaml)", "got 'index'"]),
    "a scalar for a part": ("prompts: 3", ["prompts (from mine.yaml)", "got 3"]),
    "nothing for a part": ("prompts:", ["prompts (from mine.yaml)", "got None"]),
    "a name that is none of the choices": ("sam: {name: vit_x}", ["sam.name (from mine.yaml)", "vit_l, vit_h", "got 'vit_x'"]),
    "a value out of range": ("prompts: {points_per_side: 0}", ["points_per_side (from mine.yaml): expected 1..512, got 0"]),
    "a number for text": ("report: {title: 7}", ["report.title (from mine.yaml)", "string, got 7"]),
    "a source that the clues cannot make": ("prompts: {sources: [grid, fine]}", ["fine cannot come from clues.source: none"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_with_its_file_and_remedy(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, one=SMALLEST, mine=f"base: one.yaml\n{text}")
    message = message_of(path) + "\n"
    for part in (f"recipe {path}:\n", *parts):
        assert part in message


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("analyse.random_seeds=[]", "one seed or more, each once, got ()"),
        ("analyse.random_seeds=[1, 1]", "one seed or more, each once, got (1, 1)"),
        ("analyse.max_images=-3", "0 or more, got -3"),
        ("analyse.similarity_images=-1", "0 or more, got -1"),
        ("analyse.noise_images=-1", "0 or more, got -1"),
        ("report.gallery_images=-1", "0 or more, got -1"),
        ("report.gallery_side=0", "1 or more, got 0"),
        ("report.failures=-1", "0 or more, got -1"),
        ("resources.price_per_hour=-1", "0 or more, got -1.0"),
        ("resources.cache_mib=-1", "0 or more, got -1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(tmp_path: Path, item: str, expected: str) -> None:
    assert f"{item.partition('=')[0]} (from --set): expected {expected}" in message_of(
        write(tmp_path, mine=SMALLEST), item
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = message_of(write(tmp_path, mine="{sam: {name: vit_x}, prompts: {a: 1, b: 2}}"))
    for field in ("name: Field required", "stages: Field required", "sam.name", "prompts.a", "prompts.b"):
        assert f"  {field}" in message


BROKEN: dict[str, tuple[str, list[str]]] = {
    "a name given twice": ("name: x\nsam: {name: builtin}\nname: y\n", ["'name' is given twice", "line 3"]),
    "a nested name given twice": ("sam:\n  name: a\n  name: b\n", ["'name' is given twice", "line 3"]),
    "no valid YAML": ("name: x\nstages: [index\nsam: {}\n", ["not valid YAML", "line 3"]),
    "a tab": ("name:\n\t- x\n", ["not valid YAML", "line 2"]),
    "a list": ("- name: x\n", ["expected a mapping of recipe fields, got list"]),
    "nothing": ("", ["expected a mapping of recipe fields, got NoneType"]),
    "code": ("name: !!python/object/apply:os.getcwd []\n", ["not valid YAML", "line 1"]),
    "a list as a name": ("? [a, b]\n: 1\n", ["not valid YAML", "line 1"]),
    "a value that contains itself": ("name: &a [*a]\n", ["not valid YAML"]),
    "a mapping that contains itself": ("&a {name: x, data: *a}\n", ["not valid YAML"]),
    "nested without end": ("name: " + "[" * 20_000, ["not valid YAML"]),
    "a number of 5,000 digits": ("name: x\ndata: {limit: " + "9" * 5000 + "}\n", ["not valid YAML"]),
    "a tag that its value does not fit": ("name: !!timestamp x\n", ["not valid YAML"]),
    "an empty whole number": ("name: !!int ''\n", ["not valid YAML"]),
    "no truth": ("name: !!bool maybe\n", ["not valid YAML"]),
    "a base of a name that no file can have": ("base: " + "a" * 5000 + "\n", ["no recipe"]),
    "a number as a name": ("1: x\n", ["1"]),
    "a base that is no name": ("base: 3\n", ["base: expected", "3"]),
    "a base that is a mapping": ("base: {a: b}\n", ["base: expected"]),
}


@pytest.mark.parametrize(("text", "parts"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, mine=text)
    message = message_of(path)
    for part in (path, *parts):
        assert part in message


def test_a_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("name: Füße".encode("latin-1"))
    assert "not valid YAML" in message_of(str(path))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("voc7", "did you mean voc07?"),
        ("no/such.yaml", "shipped recipes: coco14, coco14-fma, coco17, coco17-masks, demo, demo-fma, fma, grid"),
    ],
)
def test_an_unknown_recipe_gets_a_hint(name: str, hint: str) -> None:
    assert hint in message_of(name)


def test_an_unknown_base_names_who_asked_for_it(tmp_path: Path) -> None:
    path = write(tmp_path, mine="base: [nowhere.yaml]")
    assert f"no recipe 'nowhere.yaml', which {path} names," in message_of(path)


@pytest.mark.parametrize("item", ["prompts.points_per_side", "=3", "prompts.points_per_side=[1", "report.title=!!x y"])
def test_a_malformed_set_is_named(tmp_path: Path, item: str) -> None:
    assert f"--set {item}: " in message_of(write(tmp_path, mine=SMALLEST), item)


def test_a_set_of_an_unknown_option_is_named_as_such(tmp_path: Path) -> None:
    message = message_of(write(tmp_path, mine=SMALLEST), "prompts.pionts_per_side=3")
    assert "prompts.pionts_per_side (from --set): no such option; did you mean points_per_side?" in message


# --- what comes out


def test_a_recipe_is_plain_json_values_in_declared_order(tmp_path: Path) -> None:
    plain = to_plain(load_recipe(write(tmp_path, mine=SMALLEST))[0])
    assert list(plain) == list(Recipe.model_fields)
    assert plain["prompts"]["sources"] == ["grid"]
    assert plain["prompts"]["peaks"]["kernel_cam"] == 17


def test_the_printed_recipe_says_where_each_value_came_from_and_loads_again(tmp_path: Path) -> None:
    path = write(
        tmp_path, one=SMALLEST, mine="{base: one.yaml, report: {title: 'a # b: c'}, prompts: {peaks: {threshold: 0.8}}}"
    )
    recipe, origins = load_recipe(path, ["propose.splits=[train]"])
    text = render(recipe, origins)
    lines = [line.strip() for line in text.splitlines()]
    for line in (
        "name: x  # one.yaml",
        "threshold: 0.8  # mine.yaml",
        "splits:  # --set",
        "kernel_cam: 17",
        "sources:  # one.yaml",
    ):
        assert line in lines
    assert yaml.safe_load(text) == to_plain(recipe)
    (tmp_path / "again.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "again.yaml"))[0] == recipe


def test_long_and_multi_line_texts_survive_printing(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        mine=SMALLEST.replace("name: x,", 'name: x, description: "name: one\\n\\nsplits: two ' + "long " * 40 + '",'),
    )
    recipe, origins = load_recipe(path)
    assert yaml.safe_load(render(recipe, origins)) == to_plain(recipe)


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ([], set()),
        (["clues.weights=a.safetensors"], {"train-classifier", "evaluate.classifier"}),
        (["mil.weights=a.safetensors"], {"train-mil"}),
        (["retrain.weights=a.safetensors"], {"retrain", "analyse.noise"}),
        (["retrain.detector=dino"], {"analyse.noise"}),
    ],
)
def test_what_is_given_is_not_trained(given, left_out):
    recipe, _ = load_recipe("shapes", given)
    assert set(recipe.stages) - set(active(recipe)) == left_out


def test_the_recipe_of_a_run_in_a_bucket_is_read() -> None:
    write_bytes("memory://run/recipe.yaml", b"base: grid\nname: mine\n")
    recipe, origins = load_recipe("memory://run/recipe.yaml", ["data.limit=3"])
    assert (recipe.name, recipe.data.limit) == ("mine", 3)
    assert origins["name"] == "recipe.yaml"
    with pytest.raises(DataError, match=r"memory://run/other\.yaml"):
        load_recipe("memory://run/other.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1" + "0" * 5000 + "\n", "not valid YAML: Exceeds the limit"),
        ("name: " + "[" * 2000 + "\n", "not valid YAML"),
        ("base: " + "a" * 5000 + "\n", r"no recipe 'a{199}, which"),
        ("name: x\nstages: [index]\ndata: {splits: " + "a" * 5000 + "}\n", r"got 'a{199} …$"),
    ],
    ids=["a number of 5,001 digits", "lists in lists", "a base of 5,000 letters", "a value of 5,000 letters"],
)
def test_what_is_too_long_or_too_deep_is_refused_in_few_words(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(str(tmp_path / "r.yaml"))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("empty", ["[{}]", "{{a: {}}}"], ids=["lists", "mappings"])
def test_aliases_that_say_more_than_a_memory_holds_are_refused(tmp_path, empty):
    repeats = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 12)]
    (tmp_path / "r.yaml").write_text(f"x0: &x0 {empty.format(1)}\n" + "".join(repeats))
    with pytest.raises(ConfigError, match=r"r\.yaml: not valid YAML: it says [0-9,]{15,} values, aliases counted"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_aliases_repeat_what_they_name(tmp_path: Path) -> None:
    text = "prompts: {points_per_side: &n 4}\nreport: {gallery_images: *n}\n"
    recipe, _ = load_recipe(write(tmp_path, one=SMALLEST, mine=f"base: one.yaml\n{text}"))
    assert recipe.report.gallery_images == 4


# --- instances with options of their own


def test_an_instances_own_options_lie_over_the_section_of_its_verb(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        mine="""
            base: small
            stages: [index, label, retrain, retrain.dino: {detector: dino, lr: 0.01}, detect.dino: {model: retrain.dino}]
            retrain: {lr: 0.5, steps: 7, test: {scales: [64]}}
        """,
    )
    recipe, origins = load_recipe(path, ["retrain.dino.steps=9", "detect.dino.flip=false", "retrain.seed=3"])
    plain, dino = recipe.of("retrain").retrain, recipe.of("retrain.dino").retrain
    assert (plain.detector.name, plain.lr, plain.steps, plain.seed) == ("faster_rcnn", 0.5, 7, 3)
    assert (dino.detector.name, dino.lr, dino.steps, dino.seed) == ("dino", 0.01, 9, 3)
    detect = recipe.of("detect.dino").detect
    assert (detect.model, detect.scales, detect.flip) == ("retrain.dino", (64,), False)  # as its model is to be run
    assert recipe.of("detect.mil").detect.flip
    assert recipe.stages[-2:] == ("retrain.dino", "detect.dino")
    assert origins["instances.retrain.dino.lr"] == "mine.yaml"
    assert origins["instances.retrain.dino.steps"] == "--set"
    again = write(tmp_path, again=render(recipe, origins))
    assert load_recipe(again)[0] == recipe


def test_an_instance_may_have_whole_sections_of_its_own(tmp_path: Path) -> None:
    path = write(
        tmp_path, mine="{base: small, stages: [index, propose.dense: {splits: [val], prompts: {points_per_side: 16}}]}"
    )
    recipe, _ = load_recipe(path)
    dense = recipe.of("propose.dense")
    assert (dense.propose.splits, dense.prompts.points_per_side) == (("val",), 16)
    assert (recipe.of("propose").propose.splits, recipe.prompts.points_per_side) == ((), 8)
    assert dense.of("propose").prompts.points_per_side == 8  # whoever asks


def test_a_label_may_be_the_name_of_an_option(tmp_path: Path) -> None:
    path = write(tmp_path, mine="{base: small, stages: [index, retrain, retrain.test: {detector: dino}]}")
    items = ["retrain.test.lr=0.25", "retrain.test.nms_iou=0.7", "retrain.test.test.max_side=90"]
    recipe, _ = load_recipe(path, items)
    section, instance = recipe.retrain, recipe.of("retrain.test").retrain
    assert (section.test.nms_iou, section.test.max_side, section.lr) == (0.7, 384, 0.0005)
    assert (instance.test.nms_iou, instance.test.max_side, instance.lr) == (0.7, 90, 0.25)


def test_a_new_instance_may_be_set_on_the_command_line() -> None:
    recipe, _ = load_recipe("small", ["evaluate.ss.of=import.ss"])
    assert recipe.of("evaluate.ss").evaluate.of == "import.ss"


@pytest.mark.parametrize(
    "verb", [verb for verb in STAGES if verb not in ("index", "true-masks") and not is_from_outside(verb)]
)
def test_what_is_said_of_an_unknown_instance_makes_it_known(tmp_path: Path, verb: str) -> None:
    path = write(tmp_path, mine=f"{{base: small, stages: [index, {verb}.new]}}")
    advice = message_of(path).partition("such as --set ")[2]
    assert advice.startswith(f"{verb}.new.")
    assert f"{verb}.new" in load_recipe(path, [advice])[0].instances


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (
            "stages: [retrain.dino: {detektor: dino}]",
            ["instances.retrain.dino.detektor (from mine.yaml)", "did you mean detector?"],
        ),
        (
            "stages: [retrain.dino: {lr: fast}]",
            ["instances.retrain.dino.lr (from mine.yaml)", "a valid number, got 'fast'"],
        ),
        ("stages: [propose.dense: {prompts: 3}]", ["instances.propose.dense.prompts", "an object"]),
        (
            "stages: [retrain.dino: {prompts: {points_per_side: 8}}]",
            ["instances.retrain.dino.prompts (from mine.yaml): no such"],
        ),
        ("stages: [label.y: {sam: {name: vit_b}}]", ["instances.label.y.sam (from mine.yaml): no such option"]),
        ("stages: [evaluate.x: {data: {uri: there}}]", ["instances.evaluate.x.data (from mine.yaml): no such option"]),
        ("stages: [index: {limit: 3}]", ["instances.index: expected no options, got limit; set them in data"]),
        ("stages: [analyse.x: {question: prompt}]", ["analyse.x.question", "got 'prompt'; did you mean prompts?"]),
        (
            "stages: [evaluate.ss]",
            ["no instance evaluate.ss", "Say what it reads, such as --set evaluate.ss.of=propose"],
        ),
        ("stages: [true-masks.x]", ["no instance true-masks.x. Leave the label out: true-masks has no options"]),
        ("stages: [detect.finale]", ["no instance detect.finale; did you mean detect.final?"]),
        ("stages: [detect.x: {model: retrain.nil}]", ["no instance retrain.nil"]),
        ("stages: [detect.x: {model: 3}]", ["instances.detect.x.model (from mine.yaml)", "a valid string, got 3"]),
        (
            "stages: [detect.x: {model: label}]",
            ["detect.x.model: expected an instance of train-mil or retrain, got 'label'"],
        ),
        (
            "retrain: {learn_from: detect.mil}",
            ["learn_from: expected an instance of label or true-boxes or segment or true-masks or import-masks, got"],
        ),
        ("stages: [evaluate.x: {views: [label]}]", ["evaluate.x.views: expected an instance of detect, got 'label'"]),
        ("stages: 3", ["stages (from mine.yaml)", "got 3"]),
        ("instances: 3", ["instances (from mine.yaml)", "got 3"]),
        ("instances: [evaluate.x]", ["instances (from mine.yaml)"]),
        ("instances: {evaluate.x: 3}", ["instances.evaluate.x (from mine.yaml)", "got 3"]),
        ("stages: [index: [a]]", ["mine.yaml: stages: expected a name or {name: {option: value}}"]),
        ("stages: [{index: {}, propose: {}}]", ["mine.yaml: stages: expected a name or {name: {option: value}}"]),
    ],
    ids=str,
)
def test_a_mistake_in_an_instance_is_told_before_anything_starts(tmp_path: Path, given: str, parts: list[str]) -> None:
    message = message_of(write(tmp_path, mine=f"base: small\n{given}"))
    for part in parts:
        assert part in message


# --- choices


@pytest.mark.parametrize(
    ("below", "above", "items", "expected"),
    [
        pytest.param("{}", "{}", [], FasterRcnnConfig(), id="nothing said: the default"),
        pytest.param("{}", "{}", ["retrain.detector=dino"], DinoConfig(), id="a name alone"),
        pytest.param("{beta: 0.5}", "{rois: 64}", [], FasterRcnnConfig(beta=0.5, rois=64), id="of the default, merged"),
        pytest.param("{name: dino, heads: 4}", "dino", [], DinoConfig(heads=4), id="the same name again, merged"),
        pytest.param("dino", "{heads: 4}", ["retrain.detector.dim=64"], DinoConfig(heads=4, dim=64), id="of a name, merged"),
        pytest.param("{beta: 0.5, rois: 64}", "dino", [], DinoConfig(), id="another one: nothing is left of the first"),
        pytest.param(
            "{drop: {enabled: true, tau_cls: 2.0}}", "{}", ["retrain.detector={name: dino, heads: 4}"],
            DinoConfig(heads=4), id="another one by --set",
        ),
        pytest.param("{beta: 0.5}", "dino", ["retrain.detector=faster_rcnn"], FasterRcnnConfig(), id="there and back"),
        pytest.param("dino", "{name: faster_rcnn, beta: 0.5}", [], FasterRcnnConfig(beta=0.5), id="the default by name"),
        pytest.param(
            "{drop: {enabled: true}}", "{}", ["retrain.detector.drop.tau_cls=2.0"],
            FasterRcnnConfig(drop=RoiDropConfig(enabled=True, tau_cls=2.0)), id="an option of an option",
        ),
    ],
)  # fmt: skip
def test_options_merge_with_those_of_the_same_member_and_replace_anothers(
    tmp_path: Path, below: str, above: str, items: list[str], expected: object
) -> None:
    path = write(
        tmp_path,
        base=f"{{base: grid, retrain: {{detector: {below}}}}}",
        mine=f"{{base: base.yaml, retrain: {{detector: {above}}}}}",
    )
    recipe, origins = load_recipe(path, items)
    assert recipe.retrain.detector == expected
    given = [name for name in origins if name.startswith("retrain.detector.")]
    assert {name.split(".")[2] for name in given} <= vars(expected).keys()
    again = write(tmp_path, again=render(recipe, origins))
    assert load_recipe(again)[0] == recipe


def test_an_instance_may_choose_another_member_than_its_section(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        mine="""
            base: small
            stages:
              - retrain
              - retrain.dino: {detector: {name: dino, queries: 30}}
              - retrain.wide: {detector: {rois: 64}}
            retrain: {detector: {beta: 0.5}}
        """,
    )
    recipe, origins = load_recipe(path, ["retrain.dino.detector.heads=4"])
    section = recipe.retrain.detector
    assert recipe.of("retrain.dino").retrain.detector == DinoConfig(queries=30, heads=4)
    assert recipe.of("retrain.wide").retrain.detector == replace(section, rois=64)
    assert isinstance(section, FasterRcnnConfig)
    assert (section.beta, section.rois) == (0.5, 32)
    assert origins["instances.retrain.dino.detector.queries"] == "mine.yaml"
    assert origins["instances.retrain.dino.detector.heads"] == "--set"


def test_the_printed_recipe_says_where_each_option_of_a_member_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, one="{base: small, retrain: {detector: {drop: {enabled: true}}}}", mine="base: one.yaml")
    recipe, origins = load_recipe(path, ["retrain.detector={name: dino, heads: 4}"])
    text = render(recipe, origins)
    lines = text[text.index("\nretrain:") :].splitlines()
    start = lines.index("  detector:")
    assert lines[start + 1] == "    name: dino  # --set"
    assert "    heads: 4  # --set" in lines
    assert "      enabled: false" in lines  # of Faster R-CNN's drop nothing is left


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (
            "retrain: {detector: dyno}",
            ["retrain.detector.name (from mine.yaml): expected one of dino, faster_rcnn, mask2former, mask_rcnn, got 'dyno'"],
        ),
        ("retrain: {detector: 3}", ["retrain.detector"]),
        ("retrain: {detector: {name: 3}}", ["retrain.detector.name (from mine.yaml): expected one of dino"]),
        (
            "retrain: {detector: {name: dino, querys: 3}}",
            ["retrain.detector.querys (from mine.yaml): no such option; did you mean queries?"],
        ),
        ("retrain: {detector: {name: dino, rois: 3}}", ["retrain.detector.rois (from mine.yaml): no such option"]),
        (
            "retrain: {detector: {name: dino, drop: {percentil: 3}}}",
            ["retrain.detector.drop.percentil (from mine.yaml): no such option; did you mean percentile?"],
        ),
        (
            "retrain: {detector: {name: dino, heads: 3}}",
            ["retrain.detector.dim: expected a multiple of heads = 3, got 256"],
        ),
        ("mil: {detector: {share: lots}}", ["mil.detector.share (from mine.yaml)", "a valid number, got 'lots'"]),
        (
            "stages: [retrain.dino: {detector: {name: dino, querys: 3}}]",
            ["instances.retrain.dino.detector.querys (from mine.yaml): no such option; did you mean queries?"],
        ),
        ("clues: {source: weakt}", ["clues.source.name (from mine.yaml)", "got 'weakt'; did you mean weaktr?"]),
        ("data: {kind: vok}", ["data.kind (from mine.yaml): expected one of auto, voc", "did you mean voc?"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_in_a_choice_is_named_with_its_path(tmp_path: Path, given: str, parts: list[str]) -> None:
    message = message_of(write(tmp_path, mine=f"base: small\n{given}"))
    for part in parts:
        assert part in message


MINE = """
from dataclasses import dataclass
from typing import ClassVar
from weaksam.config import RetrainedDetectorConfig

@dataclass(frozen=True, kw_only=True)
class MineConfig(RetrainedDetectorConfig):
    implementation: ClassVar[str] = "no_such_module:Mine"
    name: str = "mine"
    depth: int = 3
"""


def beside_a_package(folder: Path, points: str, *items: str) -> str:
    """Print the detector of a recipe where a package with these entry points is installed."""
    (folder / "mine.py").write_text(MINE)
    metadata = folder / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[weaksam.retrained]\n{points}\n")
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\nfrom pipelines.recipe.model import load_recipe\n"
        f"print(load_recipe('grid', {list(items)!r})[0].retrain.detector)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_member_of_another_package_is_chosen_like_ours(tmp_path: Path) -> None:
    said = beside_a_package(tmp_path, "mine = mine:MineConfig", "retrain.detector=mine", "retrain.detector.depth=5")
    assert said == "MineConfig(name='mine', depth=5)\n"


def test_two_members_of_one_name_are_told_when_a_recipe_is_read(tmp_path: Path) -> None:
    said = beside_a_package(tmp_path, "dino = mine:MineConfig", "retrain.detector=dino")
    assert (
        "weaksam.retrained: 'dino' is registered twice, as weaksam.config.retrain:DinoConfig and as mine:Mine" in said
    )


# --- weights


def test_weights_are_an_address_or_an_address_with_its_checksum(tmp_path: Path) -> None:
    path = write(tmp_path, mine="{base: small, mil: {weights: a.pth}, retrain: {init: {uri: b.pth, sha256: 00ff}}}")
    recipe, origins = load_recipe(path, ["clues.weights=c.pth"])
    assert (recipe.mil.weights, recipe.retrain.init) == (Weights("a.pth"), Weights("b.pth", "00ff"))
    assert (recipe.clues.weights, recipe.mil.init) == (Weights("c.pth"), Weights("builtin:stem"))
    assert not load_recipe("shapes", ["mil.init="])[0].mil.init
    again = write(tmp_path, again=render(recipe, origins))
    assert load_recipe(again)[0] == recipe


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{sha256: 00ff}", "uri: expected the address of the file with this sha256, got ''"),
        ("{url: a.pth}", "mil.weights.url (from mine.yaml): no such option"),
        ("3", "mil.weights (from mine.yaml): Input should be an object, got 3"),
    ],
)
def test_weights_without_an_address_are_refused(tmp_path: Path, given: str, message: str) -> None:
    assert message in message_of(write(tmp_path, mine=f"{{base: small, mil: {{weights: {given}}}}}"))
