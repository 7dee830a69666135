import pytest

from tests import portable
from tests.portable import ROWS, Outcome, counted, own_kernels, settings

REPORT = """<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1"/><testsuite tests="2"/></testsuites>"""


def test_a_report_is_added_up(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    assert counted(tmp_path / "report.xml") == {"tests": 7, "failures": 1, "errors": 1, "skipped": 1}


def test_every_row_is_another_setting_and_ray_runs_once():
    assert len({(row.name, row.threads) for row in ROWS}) == len(ROWS)
    assert {row.threads for row in ROWS} == {1, 2}
    assert ["not ray" in row.tests for row in ROWS] == [False] + [True] * (len(ROWS) - 1)
    assert settings() == {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"}


@pytest.mark.parametrize(
    ("kernels", "outcome", "ran", "code"),
    [
        pytest.param("AVX512", Outcome(9, 0, 1, 2.0, 0), len(ROWS), 0, id="all-pass"),
        pytest.param("AVX2", Outcome(9, 0, 1, 2.0, 0), len(ROWS) - 1, 0, id="no-avx512-here"),
        pytest.param("DEFAULT", Outcome(9, 1, 0, 2.0, 1), 3, 1, id="a-failure"),
        pytest.param("AVX512", Outcome(0, 0, 0, 2.0, 4), len(ROWS), 1, id="pytest-itself-fails"),
    ],
)
def test_what_the_processor_lacks_is_skipped_and_failures_are_told(monkeypatch, capsys, kernels, outcome, ran, code):
    seen = []
    monkeypatch.setattr(portable, "own_kernels", lambda: kernels)
    monkeypatch.setattr(portable, "run", lambda row, seed, tests: seen.append((row, seed, tests)) or outcome)
    monkeypatch.setattr("sys.argv", ["portable", "--seed", "7", "tests/weaksam"])
    assert portable.main() == code
    assert len(seen) == ran
    assert {(seed, *tests) for _, seed, tests in seen} == {(7, "tests/weaksam")}
    printed = capsys.readouterr().out
    assert "--seed 7" in printed
    assert printed.count("skipped: ") == len(ROWS) - ran


def test_a_row_that_nothing_is_called_is_an_error(monkeypatch):
    monkeypatch.setattr("sys.argv", ["portable", "--only", "no such row"])
    assert portable.main() == 1


def test_the_kernels_of_this_processor_are_known():
    assert own_kernels() in portable.KERNELS
