"""Damaged files are read or refused by name: some of those that ``python -m benchmarks.fuzz`` tries by the thousand."""

import json
from pathlib import Path
from random import Random

import pytest

from benchmarks.fuzz.attempt import KINDS, attempt, damaged_file
from benchmarks.fuzz.mutate import damage_bytes, damage_tree, to_json

SEED = 20_000
FILES = 500
SLOW = ("safetensors, detector", "safetensors, SAM", "PyTorch file, SAM")  # megabytes each
SLOW_FILES = 8


def _share(kind: str) -> int:
    others = [name for name in KINDS if name not in SLOW]
    each, surplus = divmod(FILES - SLOW_FILES * len(SLOW), len(others))
    return SLOW_FILES if kind in SLOW else each + (others.index(kind) < surplus)


@pytest.mark.filterwarnings("default")  # as for users: no warning is an error to a reader that catches those of others
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind].place(tmp_path)
    faults = {}
    for number in range(_share(kind)):
        outcome = attempt(kind, SEED, number, path, limit_s=60)
        if outcome.word == "fault":
            faults[number] = outcome.text
    assert not faults, f"python -m benchmarks.fuzz --seed {SEED} --kind {kind!r} --only {next(iter(faults))}: {faults}"


def test_all_shares_together_are_what_is_promised() -> None:
    assert sum(map(_share, KINDS)) == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind].place(tmp_path)
    for data in KINDS[kind].sound():
        path.write_bytes(data)
        KINDS[kind].read(path)


@pytest.mark.parametrize("kind", ["pickle", "COCO's JSON, values", "Parquet, images"])
def test_an_input_is_decided_by_its_kind_seed_and_number(kind: str) -> None:
    first = [damaged_file(kind, 1, number) for number in range(20)]
    assert first == [damaged_file(kind, 1, number) for number in range(20)]
    assert len(set(first)) > 15
    assert first != [damaged_file(kind, 2, number) for number in range(20)]


def test_damage_changes_most_files_and_leaves_the_original_alone() -> None:
    tree = {"a": [1, {"b": 2.5}], "c": "text"}
    copy = json.loads(json.dumps(tree))
    changed = [damage_tree(Random(n), tree) for n in range(50)]
    assert tree == copy
    assert sum(to_json(other) != to_json(tree) for other in changed) > 40
    assert sum(damage_bytes(Random(n), b"0123456789", [b"other"]) != b"0123456789" for n in range(50)) > 40


def test_an_error_of_another_type_and_a_slow_reader_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> None:
        raise KeyError("x")

    def hang(_path: Path) -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    kind = KINDS["pickle"]
    for read, text in ((fail, "KeyError: 'x'"), (hang, "not done after 0.05 s")):
        monkeypatch.setitem(KINDS, "pickle", kind._replace(read=read))
        outcome = attempt("pickle", 0, 0, tmp_path / "p", limit_s=0.05)
        assert outcome.word == "fault"
        assert text in outcome.text


# Found by longer runs: (kind, seed, number) of what was neither read nor refused by a message that tells something.
FOUND = [
    ("VOC's XML, bytes", 2, 434),
    ("recipe", 2, 338),
    ("safetensors, classifier", 1, 130),
    ("safetensors, classifier", 2, 82),
    ("safetensors, SAM", 2, 125),
    ("PyTorch file, classifier", 1, 179),
]


@pytest.mark.parametrize(("kind", "seed", "number"), FOUND)
def test_what_longer_runs_found_stays_mended(kind: str, seed: int, number: int, tmp_path: Path) -> None:
    outcome = attempt(kind, seed, number, KINDS[kind].place(tmp_path), limit_s=60)
    assert outcome.word != "fault", outcome.text
