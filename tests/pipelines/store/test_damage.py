"""Files of a run that were damaged after they were written: named with a command, and mended by that command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.engine.clean import plan_cleaning
from pipelines.engine.status import run_status
from pipelines.exchange.imports import run_import
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.store.files import DamagedFileError
from pipelines.store.instances import Instance, current_instance, finished_instance
from pipelines.store.schemas import DROPPED, IMAGES, PROPOSALS
from pipelines.store.tables import Table
from tests.pipelines.test_runner import bring
from tests.support.drawn_run import with_instances
from weaksam.errors import RunError

NAMES = ("index", "propose", "evaluate.proposals", "report")


def recipe(*overrides: str) -> Recipe:
    """Selective Search over five small drawings in this process, and what comes after it."""
    shapes = ("data.shapes.train=3", "data.shapes.val=2", "data.shapes.test=0", "data.shapes.size=32")
    here = (
        "resources.here=true",
        "resources.rows_per_task=2",
        "propose.method=selective-search",
        "selective_search.resize_width=0",
    )
    return load_recipe("grid", [*shapes, *here, *overrides], "shapes:")[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    bring(recipe(), run, *NAMES)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of one's own; copies keep their times, or everything would be read again."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def instance_in(run: Path, name: str) -> Instance:
    instance = current_instance(str(run), name)
    assert instance is not None
    return instance


def part_of(run: Path, name: str) -> Path:
    return sorted(Path(instance_in(run, name).folder).glob("part-*.parquet"))[0]


def rows_of(run: Path) -> dict[str, str]:
    return {row["image_id"]: repr(row) for row in ProposalTable(instance_in(run, "propose")).table.iter_rows()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(16, len(data) // 2, 64):  # some of them are in pages, and not in what nobody reads
        data[place] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def exchange(path: Path) -> None:
    path.unlink()
    Table(str(path.parent), DROPPED).write_rows([], path.stem)


def make_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


DAMAGES: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (flip, cut, empty, exchange, make_folder, Path.unlink)
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("name", ["index", "propose"])
def test_a_damaged_part_of_a_finished_instance_is_made_again_by_the_command_named(
    run: Path, name: str, damage: Callable[[Path], None]
) -> None:
    before, part = rows_of(run), part_of(run, name)
    damage(part)
    if damage is not Path.unlink:
        with pytest.raises(DamagedFileError, match=rf"{part.name}: damaged: .* run `weaksam {name} {run}` again"):
            instance_in(run, name).table(IMAGES if name == "index" else PROPOSALS).read()
    manifests, printed = bring(recipe(), run, name)
    assert f"{name} " in printed
    assert "5" in manifests[name]["text"]
    assert rows_of(run) == before
    assert bring(recipe(), run, *NAMES)[1].count("is finished") == len(NAMES)  # nothing else had to be made again
    aside = list((part.parent / "_damaged").glob("*")) if damage is not Path.unlink else []
    assert len(aside) == (damage is not Path.unlink)


def test_only_the_rows_of_the_damaged_part_are_made_again(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = part_of(run, "propose")
    others = {path: path.stat().st_mtime_ns for path in part.parent.glob("part-*.parquet") if path != part}
    flip(part)
    bring(recipe(), run, *NAMES)
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert f"set aside 1 damaged file in {part.parent}/_damaged: {part.name} (" in caplog.text


def test_a_foreign_part_too_many_is_set_aside(run: Path) -> None:
    before = rows_of(run)
    shutil.copy(part_of(run, "index"), part_of(run, "propose").parent / "foreign.parquet")
    bring(recipe(), run, "propose")
    assert rows_of(run) == before


def test_rows_that_are_there_twice_are_seen_once_and_removed_by_whoever_works_next(run: Path) -> None:
    before, part = rows_of(run), part_of(run, "propose")
    shutil.copy(part, part.parent / "part-zzz.parquet")
    assert rows_of(run) == before
    flip(sorted(part.parent.glob("part-*.parquet"))[1])
    bring(recipe(), run, "propose")
    assert rows_of(run) == before
    assert not (part.parent / "part-zzz.parquet").exists()


def test_a_damaged_list_of_dropped_images_is_made_again(run: Path) -> None:
    instance = instance_in(run, "propose")
    lost = next(iter(rows_of(run)))
    drop = {"image_id": lost, "input": "", "uri": "u", "stage": "propose", "reason": "broken", "detail": ""}
    instance.dropped.write_rows([drop], "part-0")
    empty(Path(instance.dropped.folder) / "part-0.parquet")
    with pytest.raises(
        DamagedFileError, match=rf"_dropped/part-0.parquet: damaged: .* run `weaksam propose {run}` again"
    ):
        list(instance.dropped.iter_rows())
    bring(recipe(), run, *NAMES)
    assert instance.dropped.ids() == []


RECORDS: dict[str, bytes] = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "cut": b'{"instance": "pro',
    "a list": b"[]",
    "of other types": b'{"text": 7, "images": [], "reads": 1, "planned": "x"}',
}


@pytest.mark.parametrize("content", RECORDS.values(), ids=RECORDS.keys())
@pytest.mark.parametrize("kind", ["manifest", "plan"])
def test_a_damaged_record_is_named_and_mended(run: Path, kind: str, content: bytes) -> None:
    before, instance = rows_of(run), instance_in(run, "propose")
    file = Path(instance.manifest_uri if kind == "manifest" else instance.plan_uri)
    file.write_bytes(content)
    named = rf"{file}: damaged: .* run `weaksam propose {run}` again"
    with pytest.raises(DamagedFileError, match=named):
        instance.manifest() if kind == "manifest" else instance.plan()
    with pytest.raises(DamagedFileError, match=named):
        run_status(str(run))
    with pytest.raises(DamagedFileError, match=named):
        finished_instance(str(run), "propose")
    assert "damaged, would be mended" in bring(recipe(), run, "propose", dry_run=True)[1]
    bring(recipe(), run, *NAMES)
    assert rows_of(run) == before
    assert json.loads(file.read_text())["key"] == instance.key


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../etc\n", b"a b", None], ids=str)
def test_a_damaged_name_of_the_current_instance_is_named_and_mended(run: Path, content: bytes | None) -> None:
    current = run / "propose" / "current"
    key = current.read_text()
    if content is None:
        make_folder(current)
    else:
        current.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"propose/current: damaged: .* run `weaksam propose {run}` again"):
        run_status(str(run))
    bring(recipe(), run, *NAMES)
    assert current.read_text() == key


PRODUCTS: dict[str, Callable[[Path], None]] = {f.__name__: f for f in (flip, cut, empty, make_folder, Path.unlink)}


@pytest.mark.parametrize("damage", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_a_measurement_that_is_not_what_was_written_is_made_again(run: Path, damage: Callable[[Path], None]) -> None:
    metrics = Path(instance_in(run, "evaluate.proposals").file("metrics.json"))
    content = metrics.read_bytes()
    damage(metrics)
    bring(recipe(), run, *NAMES)
    assert metrics.read_bytes() == content


def test_a_damaged_import_names_the_command_that_imports_and_is_mended_by_it(run: Path, tmp_path: Path) -> None:
    ids = list(rows_of(run))
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps([{"image_id": i, "bbox": [1, 1, 5, 5], "score": 1, "category_id": 1} for i in ids]))

    def again() -> None:
        run_import(str(run), str(file), name="mine")

    def measure() -> None:
        bring(with_instances(recipe(), evaluate_mine={"of": "import.mine"}), run, "evaluate.mine")

    again()
    measure()
    flip(part_of(run, "import.mine"))
    with pytest.raises(DamagedFileError, match=rf"run `weaksam import {run} FILE --name mine` again"):
        measure()
    again()
    measure()
    assert len(instance_in(run, "import.mine").table(PROPOSALS).ids()) == 5


def test_an_import_that_is_not_there_names_the_commands_that_make_it(tmp_path: Path) -> None:
    with pytest.raises(RunError) as missing:
        bring(with_instances(recipe(), evaluate_truth={"of": "true-boxes.truth"}), tmp_path, "evaluate.truth")
    assert str(missing.value) == (
        f"{tmp_path}: no finished true-boxes.truth; make it first: `weaksam export {tmp_path} --as pseudo-labels "
        "--name truth [--noise SHARE --seed N]`"
    )


@pytest.mark.parametrize("content", [b"", b"[]", b'{"rows": 7}', b'{"rows": [{"instances": {"x": 5}}]}'], ids=str)
def test_a_damaged_table_of_the_paper_stops_cleaning(run: Path, content: bytes) -> None:
    (run / "tables").mkdir()
    (run / "tables" / "table-1.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"table-1\.json: damaged: .* run `weaksam table` again"):
        plan_cleaning(str(run), previews=False)


def test_cleaning_leaves_what_was_set_aside(run: Path) -> None:
    (run / "propose" / "current").write_bytes(b"")
    bring(recipe(), run, "propose")
    assert plan_cleaning(str(run), previews=False).leftovers == []
