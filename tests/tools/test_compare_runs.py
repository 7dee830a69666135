"""Run folders written by hand, without the package's own writers: equal ones, and ones with a single difference."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tools.compare_runs import compare_json, compare_runs, compare_tables, main
from weaksam.errors import RunError

SCORES = {"a": [0.5, 0.25], "b": [], "c": [1.0]}


def table(scores=SCORES, **columns):
    return pa.table(
        {
            "image_id": list(scores),
            "split": ["train"] * len(scores),
            "score": pa.array(list(scores.values()), pa.list_(pa.float32())),
            **columns,
        }
    )


def write_instance(
    run, name, key="0123456789ab", *, finished=True, rows=None, dropped=None, weights=None, metrics=None
):
    folder = run / name / key
    (folder / "_sets").mkdir(parents=True)
    (run / name / "current").write_text(f"{key} 9876\n")
    (folder / "_sets" / "5432.manifest.json").write_text("{}")  # of another set of images
    if finished:
        (folder / "_sets" / "9876.manifest.json").write_text(json.dumps({"key": key, "text": "for people"}))
    if rows is not None:  # in two parts
        pq.write_table(rows.slice(1), folder / "part-0.parquet")
        pq.write_table(rows.slice(0, 1), folder / "part-1.parquet")
    if dropped is not None:
        (folder / "_dropped").mkdir()
        pq.write_table(dropped, folder / "_dropped" / "part-0.parquet")
    if weights is not None:
        save_file(weights, folder / "detector.safetensors")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two runs that differ in their keys and manifests alone."""
    for run, key in (("a", "0123456789ab"), ("b", "ba9876543210")):
        folder = tmp_path / run
        write_instance(folder, "detect.mil", key, rows=table(), dropped=table({"d": [0.0]}))
        write_instance(folder, "retrain", key, weights={"body": torch.ones(2, 3), "head": torch.zeros(4)})
        write_instance(folder, "evaluate.mil", key, metrics={"split": "val", "rows": [{"ap": 0.25}, {"ap": None}]})
        (folder / "retrain" / key / "report.html").write_text(run)
        (folder / "preview-8").mkdir()
    return tmp_path / "a", tmp_path / "b"


def differing(comparisons):
    return {(c.instance, c.product): (c.differing, c.first) for c in comparisons if c.differing}


def test_runs_of_equal_products_are_equal_whatever_their_keys(runs, capsys):
    assert {(c.instance, c.product, c.compared) for c in compare_runs(*runs)} == {
        ("detect.mil", "rows", 3),
        ("detect.mil", "dropped", 1),
        ("retrain", "detector.safetensors", 2),
        ("evaluate.mil", "metrics.json", 3),
    }
    assert main(list(map(str, runs))) == 0
    assert "all 4 products are equal" in capsys.readouterr().out


def test_the_order_of_rows_and_their_files_do_not_matter():
    assert compare_tables(table(), table().take([2, 0, 1])) == (3, [])


def test_one_flipped_bit_of_a_column_is_found():
    flipped = (np.float32(0.25).view(np.uint32) ^ 1).view(np.float32)
    rows, differences = compare_tables(table(), table(SCORES | {"a": [0.5, flipped]}))
    assert rows == 3
    assert differences == [("a train", "score: [0.5, 0.25] != [0.5, 0.2500000298023224]")]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [(float("nan"), float("nan"), True), (0.0, -0.0, False), (float("nan"), 1.0, False), (float("inf"), 1e38, False)],
    ids=["NaN is NaN", "signed zeros differ", "NaN is no number", "infinity is no number"],
)
def test_floats_are_compared_by_their_bits(one, other, equal):
    _, differences = compare_tables(table({"a": [one]}), table({"a": [other]}))
    assert (not differences) == equal
    _, differences = compare_json({"ap": one}, {"ap": other})
    assert (not differences) == equal


def test_a_null_is_no_empty_list():
    assert compare_tables(table({"a": None}), table({"a": []})) == (1, [("a train", "score: None != []")])


def test_rows_that_only_one_table_has_are_differences():
    less = {name: SCORES[name] for name in "ac"}
    assert compare_tables(table(), table(less)) == (2, [("b train", "only in A")])
    assert compare_tables(table(less), table()) == (2, [("b train", "only in B")])


def test_rows_of_one_image_in_two_splits_or_of_two_inputs_are_two_rows():
    val = table().set_column(1, "split", [["val"] * 3])
    assert compare_tables(pa.concat_tables([table(), val]), pa.concat_tables([val, table()])) == (6, [])
    one, other = (table().set_column(1, "input", [[word] * 3]) for word in ("before", "since"))
    assert compare_tables(pa.concat_tables([one, other]), pa.concat_tables([other, one])) == (6, [])


def test_a_run_from_before_there_were_sets_is_compared_with_one_of_now(tmp_path):
    rows = table()
    folder = write_instance(tmp_path / "a", "detect.mil", rows=rows)
    (tmp_path / "a" / "detect.mil" / "current").write_text(f"{folder.name}\n")
    of_now = rows.rename_columns(["image_id", "input", "score"])
    write_instance(tmp_path / "b", "detect.mil", rows=of_now)
    assert differing(compare_runs(tmp_path / "a", tmp_path / "b")) == {
        ("detect.mil", ""): (1, "instance: not finished in A")
    }
    (folder / "_manifest.json").write_text("{}")
    assert differing(compare_runs(tmp_path / "a", tmp_path / "b", ignored=["split", "input"])) == {}
    more = differing(compare_runs(tmp_path / "a", tmp_path / "b"))
    assert more == {("detect.mil", "rows"): (2, "column split: only in A")}


def test_a_row_that_is_there_twice_is_a_difference():
    twice = pa.concat_tables([table(), table({"b": []})])
    assert compare_tables(table(), twice) == (3, [("rows", "several of one image in B")])


def test_a_column_that_only_one_table_has_is_a_difference_unless_it_is_ignored():
    more = table(noise=["x", "y", "z"])
    assert compare_tables(table(), more) == (3, [("column noise", "only in B")])
    assert compare_tables(table(), more, ["noise"]) == (3, [])


def test_rows_are_paired_by_image_where_only_one_table_has_splits():
    _, differences = compare_tables(table(), table().drop_columns("split"), ["split"])
    assert differences == []


def test_other_types_and_other_class_names_are_differences():
    wider = table().set_column(2, "score", table()["score"].cast(pa.list_(pa.float64())))
    _, [(item, how)] = compare_tables(table(), wider)
    assert item == "column score"
    assert "float" in how
    assert "double" in how
    named = [table().replace_schema_metadata({"class_names": json.dumps(names)}) for names in (["cat"], ["dog"])]
    assert compare_tables(*named) == (3, [("class names", "another list")])


@pytest.mark.parametrize(
    ("head", "first"),
    [
        (torch.tensor([0.0, 0.0, -0.0, 0.0]), "head: other bits in torch.float32 [4]"),
        (torch.zeros(2, 2), "head: torch.float32 [4] != torch.float32 [2, 2]"),
        (torch.zeros(4).half(), "head: torch.float32 [4] != torch.float16 [4]"),
        (None, "head: only in A"),
    ],
    ids=["a bit", "a shape", "a type", "a missing tensor"],
)
def test_other_weights_are_found_by_tensor(tmp_path, head, first):
    weights = {"body": torch.ones(2, 3), "scale": torch.tensor(1.0)}
    write_instance(tmp_path / "a", "retrain", weights=weights | {"head": torch.zeros(4)})
    write_instance(tmp_path / "b", "retrain", weights=weights if head is None else weights | {"head": head})
    assert differing(compare_runs(tmp_path / "a", tmp_path / "b")) == {("retrain", "detector.safetensors"): (1, first)}


def test_values_of_json_files_are_named_by_their_path():
    old = {"rows": [{"ap": 0.25, "seconds": 1.5}], "note": []}
    new = {"rows": [{"ap": 0.5, "seconds": 2.5}], "note": ["x"]}
    assert compare_json(old, new, ["seconds"]) == (
        1,
        [("note", "only in A"), ("note.0", "only in B"), ("rows.0.ap", "0.25 != 0.5")],
    )


def test_long_values_are_shown_from_where_they_part():
    _, [(_, how)] = compare_tables(table({"a": [1.0] * 100 + [2.0]}), table({"a": [1.0] * 100 + [3.0]}))
    assert how.startswith("score: …")
    assert "2.0]" in how
    assert "3.0]" in how
    assert len(how) < 100


def test_an_instance_that_one_run_lacks_or_has_not_finished_is_a_difference(runs, capsys):
    a, b = runs
    write_instance(a, "label", rows=table())
    write_instance(a, "report")
    write_instance(b, "report", finished=False)
    assert differing(compare_runs(a, b)) == {
        ("label", ""): (1, "instance: only in A"),
        ("report", ""): (1, "instance: not finished in B"),
    }
    assert main([str(a), str(b)]) == 1
    assert "2 of 6 products differ" in capsys.readouterr().out


def test_a_product_that_one_run_lacks_is_a_difference(runs):
    a, b = runs
    (b / "detect.mil" / "ba9876543210" / "_dropped" / "part-0.parquet").unlink()
    assert differing(compare_runs(a, b)) == {("detect.mil", "dropped"): (1, "product: only in A")}


def test_renamed_instances_are_paired(runs, capsys):
    a, b = runs
    (b / "detect.mil").rename(b / "detect.first")
    assert differing(compare_runs(a, b)).keys() == {("detect.mil", ""), ("detect.first", "")}
    assert differing(compare_runs(a, b, {"detect.mil": "detect.first"})) == {}
    assert main([str(a), str(b), "--rename", "detect.mil=detect.first", "--json"]) == 0
    assert {"detect.mil = detect.first"} < {c["instance"] for c in json.loads(capsys.readouterr().out)}


def test_what_is_no_run_and_no_instance_is_told(runs, capsys):
    a, b = runs
    with pytest.raises(RunError, match="expected a run folder"):
        compare_runs(a, a / "retrain")
    with pytest.raises(RunError, match=r"expected an instance of .*a \(detect.mil, evaluate.mil, retrain\), got mask"):
        compare_runs(a, b, {"mask": "retrain"})
    assert main([str(a), str(b), "--rename", "retrain"]) == 2
    assert "expected OLD=NEW, got 'retrain'" in capsys.readouterr().err
