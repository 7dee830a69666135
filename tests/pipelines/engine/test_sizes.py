from __future__ import annotations

from typing import Any

import pytest

from pipelines.engine.reach import Reach
from pipelines.engine.sizes import PoolSizes, pool_sizes
from pipelines.recipe.config import ResourcesConfig


def machine(cpus: int, gpus: int = 0) -> Reach:
    return Reach(cpus=cpus, gpus=gpus, least_cpus=cpus)


def cluster(*cpus: int, gpus: int = 0) -> Reach:
    return Reach(cpus=sum(cpus), gpus=gpus, least_cpus=min(cpus), grows=True)


def sizes(
    prompt: int, segment: int, threads: int, gpu_share: float, cpu_share: float, rows: int, most: int = 0
) -> PoolSizes:
    return PoolSizes(
        prompt_actors=prompt,
        segment_actors=segment,
        threads=threads,
        gpu_share=gpu_share,
        cpu_share=cpu_share,
        rows_per_task=rows,
        most_actors=most,
    )


CHOSEN: dict[str, tuple[dict[str, Any], int, bool, Reach, PoolSizes]] = {
    # recipe; images, with clues, room; prompt and segment actors, threads, GPU share, CPU share, rows per task, most actors
    "one core": ({}, 100, True, machine(1), sizes(1, 1, 1, 0, 0.25, 25)),
    "a laptop, grid alone": ({}, 100, False, machine(2), sizes(0, 2, 1, 0, 0.5, 13)),
    "a laptop with clues": ({}, 100, True, machine(2), sizes(1, 2, 1, 0, 0.33, 13)),
    "a workstation": ({}, 10_000, True, machine(16), sizes(8, 16, 1, 0, 0.33, 64)),
    "one GPU": ({}, 10_000, True, machine(8, 1), sizes(0, 1, 1, 1, 0.0, 64)),
    "one GPU, grid alone": ({}, 10_000, False, machine(8, 1), sizes(0, 1, 1, 1.0, 0.0, 64)),
    "eight GPUs": ({}, 10_000, True, machine(96, 8), sizes(0, 8, 1, 1, 0.0, 64)),
    "no image": ({}, 0, True, machine(2), sizes(1, 2, 1, 0, 0.33, 1)),
    "one image": ({}, 1, False, machine(2), sizes(0, 2, 1, 0, 0.5, 1)),
    "one big actor": ({"segment_actors": 1}, 100, False, machine(4), sizes(0, 1, 4, 0, 1.0, 25)),
    "all said": (
        {"prompt_actors": 3, "segment_actors": 5, "threads_per_actor": 2, "rows_per_task": 7},
        100, True, machine(4), sizes(3, 5, 2, 0, 0.25, 7),
    ),
    "two actors on each of two GPUs": ({"gpus_per_actor": 0.5}, 100, True, machine(8, 2), sizes(0, 4, 1, 0.5, 0.0, 7)),
    "three on one": ({"gpus_per_actor": 0.33}, 100, True, machine(8, 1), sizes(0, 3, 1, 0.33, 0.0, 9)),
    "at most four": ({"most_actors": 4}, 100, False, machine(96, 8), sizes(0, 4, 1, 1, 0.0, 7)),
    "a cluster of GPUs": ({}, 10_000, True, cluster(8, 32, gpus=5), sizes(0, 5, 1, 1, 0.0, 64, most=256)),
    "at most four in a cluster": ({"most_actors": 4}, 100, False, cluster(8, gpus=1), sizes(0, 1, 1, 1, 0.0, 4, most=4)),
    "three in a cluster, whatever comes": ({"segment_actors": 3}, 96, True, cluster(8, gpus=1), sizes(0, 3, 1, 1, 0.0, 8)),
    "a cluster of CPUs": ({}, 10_000, True, cluster(2, 4), sizes(3, 6, 1, 0, 0.43, 64, most=256)),
    "of one CPU each": ({}, 10_000, True, cluster(1, 1), sizes(1, 2, 1, 0, 0.27, 64, most=256)),
    "threads that no node has": (
        {"segment_actors": 1}, 100, False, cluster(2, 2), sizes(0, 1, 2, 0, 1.0, 25),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "images", "with_clues", "room", "expected"), CHOSEN.values(), ids=CHOSEN.keys())
def test_what_a_recipe_leaves_open_is_chosen_for_the_cluster(
    given: dict[str, Any], images: int, with_clues: bool, room: Reach, expected: PoolSizes
) -> None:
    assert pool_sizes(ResourcesConfig(**given), images, with_clues, room) == expected


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 16, 64, 192])
@pytest.mark.parametrize("with_clues", [False, True])
def test_reading_and_writing_tasks_always_find_room_beside_the_actors(cpus: int, with_clues: bool) -> None:
    chosen = pool_sizes(ResourcesConfig(), 1000, with_clues, machine(cpus))
    reserved = (chosen.prompt_actors + chosen.segment_actors) * chosen.cpu_share
    assert chosen.prompt_actors + chosen.segment_actors > 0
    assert reserved <= 0.5 * cpus + 0.005 * (chosen.prompt_actors + chosen.segment_actors)
    assert cpus - reserved >= 0.2  # a task that fetches and one that writes, a tenth each


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 16, 64])
@pytest.mark.parametrize("with_clues", [False, True])
def test_a_node_of_a_cluster_that_grows_holds_its_actors_and_tasks_and_few_more(cpus: int, with_clues: bool) -> None:
    chosen = pool_sizes(ResourcesConfig(), 1000, with_clues, cluster(cpus))
    actors = chosen.prompt_actors + chosen.segment_actors
    assert cpus - actors * chosen.cpu_share > 0.1  # a task that fetches or writes
    assert cpus / chosen.cpu_share < (2.5 if cpus == 1 else 1.6) * actors + 1


def test_sizes_are_described_for_people() -> None:
    assert (
        sizes(1, 2, 1, 0, 0.33, 13).describe()
        == "1 prompt + 2 segment actor(s), 1 CPU thread(s) each, 13 images per task"
    )
    assert sizes(0, 1, 1, 0.5, 0, 64).describe() == "1 actor(s), 0.5 GPU each, 64 images per task"
    assert (
        sizes(0, 1, 1, 1, 0, 64, most=256).describe()
        == "1 actor(s), 1 GPU each, more as nodes come, 64 images per task"
    )
