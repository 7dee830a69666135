from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from weaksam.clues import CLUES
from weaksam.config import Member
from weaksam.datasets import DATASETS
from weaksam.detectors.mil import MIL_DETECTORS
from weaksam.detectors.retrained import RETRAINED
from weaksam.errors import ConfigError
from weaksam.io.files import DRAWN
from weaksam.registry import Registry, load
from weaksam.sam import SAMS

CHOICES: tuple[Registry[type[Member]], ...] = (CLUES, MIL_DETECTORS, RETRAINED)

POINTS = """[weaksam.numbers]
two = fractions:Fraction
one = decimal:Decimal
"""


def run_beside_a_package(folder: Path, points: str, code: str) -> str:
    """Run code where a package with these entry points is installed."""
    metadata = folder / "others-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(points)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\nfrom weaksam.registry import Registry\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_members_of_other_packages_come_after_ours_and_are_imported_when_asked_for(tmp_path: Path) -> None:
    said = run_beside_a_package(
        tmp_path,
        POINTS,
        'numbers = Registry("weaksam.numbers", {"none": "numbers:Number"})\n'
        'print(list(numbers), "two" in numbers, "fractions" in sys.modules)\n'
        'print(numbers["two"].__name__)',
    )
    assert said == "['none', 'one', 'two'] True False\nFraction\n"


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    said = run_beside_a_package(tmp_path, POINTS, 'len(Registry("weaksam.numbers", {"one": "numbers:Number"}))')
    assert "weaksam.numbers: 'one' is registered twice, as numbers:Number and as decimal:Decimal" in said


@pytest.mark.parametrize("target", ["no_such_module:Thing", "decimal:NoSuchThing"])
def test_a_member_that_cannot_be_imported_is_named_with_what_to_do(target: str) -> None:
    with pytest.raises(ConfigError, match=rf"weaksam\.tests: 'a' cannot be imported from {target} .*; install"):
        Registry[object]("weaksam.tests", {"a": target})["a"]


def test_an_unknown_name_is_a_key_error() -> None:
    numbers: Registry[type] = Registry("weaksam.tests", {"a": "decimal:Decimal"})
    with pytest.raises(KeyError):
        numbers["b"]


def test_an_attribute_may_have_dots() -> None:
    assert load("collections:OrderedDict.fromkeys")("ab") == {"a": None, "b": None}


@pytest.mark.parametrize("family", CHOICES, ids=lambda family: family.group)
def test_every_member_is_there_and_its_options_know_its_name(family: Registry[type[Member]]) -> None:
    for name in family:
        options = family[name]()
        assert options.name == name
        assert name == "none" or callable(load(options.implementation))


def test_every_sam_and_every_data_set_is_there() -> None:
    assert all(callable(load(SAMS[name].builder)) for name in SAMS)
    assert all(callable(DATASETS[name]) for name in DATASETS)


def test_what_draws_images_is_there() -> None:
    for drawer in DRAWN.values():
        assert callable(load(drawer.read))
        assert isinstance(load(drawer.version), int)
