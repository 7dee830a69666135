from __future__ import annotations

from weaksam.random import derive_seed


def test_seeds_differ_by_every_part_and_by_its_place():
    seeds = [
        derive_seed(0, 1, "a"),
        derive_seed(1, 0, "a"),
        derive_seed(0, 1, "b"),
        derive_seed(0, "1", "a"),
        derive_seed(),
    ]
    assert len(set(seeds)) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_process_and_on_every_platform():
    assert derive_seed(504, 3, "2008_000002") == 1209386641705197821
