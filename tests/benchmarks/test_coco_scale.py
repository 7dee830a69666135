"""The benchmark of COCO's size: its arithmetic, and a small run that is killed at half."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from benchmarks.coco_scale.__main__ import as_costs, as_table
from benchmarks.coco_scale.cost import COCO_TRAIN2017, Price, hours, measured_seconds_per_image
from benchmarks.coco_scale.scene import Life, Measured, Plan, Resumed, scene
from tests.support.sets import instance_of
from weaksam.errors import RunError

PLAN = Plan(rows=8_000, new=1_000, rows_per_s=80.0, boxes=5)
LIFE = Life(seconds=125.0, rss_mib=[100.0, 150.0, 300.0, 310.0, 320.0, 330.0, 301.0, 309.0])
MEASURED = Measured(
    gpus=8,
    plan=PLAN,
    index_s=3.0,
    whole=LIFE,
    files=125,
    resumed=Resumed(twice=0, until_first_s=12.4, wrong=[]),
    new_s=20.0,
    wrong=[],
)


def test_beside_the_actors_is_what_a_run_takes_longer_than_their_sleeping_at_full_use() -> None:
    assert (MEASURED.needed_s, MEASURED.beside_s, MEASURED.beside) == (100.0, 25.0, 0.2)


def test_memory_is_compared_by_quarters_of_a_driver_s_life() -> None:
    assert (LIFE.peak_mib, LIFE.quarter_mib(1), LIFE.quarter_mib(3)) == (330.0, 305.0, 305.0)
    short = Life(seconds=1.0, rss_mib=[100.0, 200.0])
    assert short.quarter_mib(0) == 150.0  # too short for quarters


def test_hours_are_the_gpus_share_and_the_time_beside() -> None:
    assert hours(7_200, 2.0, 4, beside_s=0.0) == 1.0
    assert hours(7_200, 2.0, 4, beside_s=1_800.0) == 1.5


def test_dollars_are_of_whole_machines() -> None:
    price = Price(machine="four", gpus=4, dollars_per_hour=2.0, on=date(2026, 11, 28))
    assert [price.dollars(gpus, 3.0) for gpus in (1, 4, 5)] == [6.0, 6.0, 12.0]
    assert str(price) == "four, 2 $/h on 2026-11-28"


def test_seconds_per_image_of_a_run_are_those_of_one_of_its_gpus(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run folder"):
        measured_seconds_per_image(str(tmp_path), 1)
    instance = instance_of(str(tmp_path), "propose")
    instance.begin({})
    instance.finish({"throughput": {"images": 0, "seconds": 1.0, "images_per_s": 0.0}})
    with pytest.raises(RunError, match="found none to do"):
        measured_seconds_per_image(str(tmp_path), 1)
    instance.finish({"throughput": {"images": 40, "seconds": 20.0, "images_per_s": 2.0}})
    assert measured_seconds_per_image(str(tmp_path), 4) == 2.0


def test_tables_say_all_of_it() -> None:
    cells = [cell.strip() for cell in as_table([MEASURED]).splitlines()[2].strip("| ").split("|")]
    assert cells == [
        *("8", "8,000", "125", "25.0", "20.0%", "330", "305", "305", "125"),
        *("3", "0", "12", "1,000", "20"),
    ]
    price = Price(machine="four", gpus=4, dollars_per_hour=2.0, on=date(2026, 11, 28))
    *_, costs = as_costs([MEASURED], 8 * (3_600 - 25) / COCO_TRAIN2017, [price]).splitlines()
    assert [cell.strip() for cell in costs.strip("| ").split("|")] == ["8", "1.0", "4.00"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_of_two_gpus_that_is_killed_at_half_does_no_written_row_again(tmp_path: Path) -> None:
    plan = Plan(rows=200, new=0, rows_per_s=80.0, boxes=3)
    with scene(2, plan, tmp_path) as on:
        resumed = on.resumed()
    assert (resumed.twice, resumed.wrong) == (0, [])
    assert 0 < resumed.until_first_s < float("inf")
