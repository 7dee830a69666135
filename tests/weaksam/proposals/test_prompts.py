import numpy as np
import pytest
import torch

from weaksam.config import ClustersConfig, PeaksConfig, PromptsConfig
from weaksam.proposals.prompts import clue_prompts, grid_prompts
from weaksam.structures import ClassMaps

PEAKS = PeaksConfig(kernel_cam=3, kernel_cross=3, threshold=0.5)
ALONE = ClustersConfig(method="none")
SIZE_HW = (30, 40)


def with_peaks(*points_xy):
    """One map whose peaks, best first, are the given points."""
    drawn = torch.zeros(SIZE_HW)
    for rank, (x, y) in enumerate(points_xy):
        drawn[y, x] = 1 - 0.01 * rank
    return drawn


def points(prompts):
    return [prompt.tolist() for prompt in prompts.points_xy]


def test_grid_points_are_the_centres_of_the_cells_row_by_row():
    grid = grid_prompts((20, 40), 2)
    assert points(grid) == [[[10, 5]], [[30, 5]], [[10, 15]], [[30, 15]]]
    assert (grid.source, set(grid.kind), set(grid.class_index)) == ("grid", {"grid"}, {-1})
    assert grid.points_xy[0].dtype == np.float32


def test_the_grid_of_a_one_pixel_image_lies_inside_it():
    assert points(grid_prompts((1, 1), 1)) == [[[0.5, 0.5]]]
    assert len(grid_prompts((1, 1), 32)) == 1024


def test_every_peak_alone_and_then_the_peaks_of_each_class_together():
    class_maps = [
        ClassMaps(class_index=7, maps={"coarse": with_peaks((4, 5), (20, 6))[None]}),
        ClassMaps(class_index=2, maps={"coarse": with_peaks((30, 8))[None]}),
    ]
    (coarse,) = clue_prompts(class_maps, PromptsConfig(sources=("coarse",), peaks=PEAKS))
    assert points(coarse) == [[[4, 5]], [[20, 6]], [[30, 8]], [[4, 5], [20, 6]], [[30, 8]]]
    assert coarse.kind == ["semantic"] * 3 + ["class-joint"] * 2
    assert coarse.class_index == [7, 7, 2, 7, 2]
    assert {prompt.dtype for prompt in coarse.points_xy} == {np.dtype(np.float32)}


def test_without_class_joint_every_peak_stays_alone():
    class_maps = [ClassMaps(class_index=0, maps={"fine": with_peaks((4, 5), (20, 6))[None]})]
    (fine,) = clue_prompts(class_maps, PromptsConfig(sources=("fine",), class_joint=False, peaks=PEAKS))
    assert fine.kind == ["semantic", "semantic"]


def test_cross_peaks_of_all_classes_and_maps_are_pooled_and_clustered():
    class_maps = [
        ClassMaps(class_index=0, maps={"cross": torch.stack([with_peaks((4, 5)), with_peaks((6, 5))])}),
        ClassMaps(class_index=1, maps={"cross": torch.stack([with_peaks((5, 8)), with_peaks()])}),
    ]
    in_threes = ClustersConfig(points_per_cluster=3)
    (clustered,) = clue_prompts(class_maps, PromptsConfig(sources=("cross",), clusters=in_threes, peaks=PEAKS))
    assert points(clustered) == [[[5, 6]]]
    assert (clustered.kind, clustered.class_index) == (["instance"], [-1])
    (raw,) = clue_prompts(class_maps, PromptsConfig(sources=("cross",), clusters=ALONE, peaks=PEAKS))
    assert points(raw) == [[[4, 5]], [[6, 5]], [[5, 8]]]


def test_sources_come_as_coarse_fine_cross_restricted_to_the_wanted():
    class_maps = [
        ClassMaps(class_index=0, maps={name: with_peaks((4, 5))[None] for name in ("coarse", "fine", "cross")})
    ]
    found = clue_prompts(class_maps, PromptsConfig(sources=("cross", "grid", "coarse", "fine"), peaks=PEAKS))
    assert [prompts.source for prompts in found] == ["coarse", "fine", "cross"]
    found = clue_prompts(class_maps, PromptsConfig(sources=("cross", "grid"), peaks=PEAKS))
    assert [prompts.source for prompts in found] == ["cross"]


@pytest.mark.parametrize(
    "class_maps",
    [
        pytest.param([], id="no-class-is-present"),
        pytest.param([ClassMaps(class_index=0, maps={})], id="no-such-maps"),
        pytest.param(
            [ClassMaps(class_index=0, maps={name: torch.zeros(1, 9, 9) for name in ("coarse", "fine", "cross")})],
            id="no-peaks",
        ),
    ],
)
def test_a_source_without_peaks_is_there_and_empty(class_maps):
    found = clue_prompts(class_maps, PromptsConfig())
    assert [(prompts.source, len(prompts)) for prompts in found] == [("coarse", 0), ("fine", 0), ("cross", 0)]


def test_maps_are_taken_one_class_at_a_time():
    alive = []

    def lazily():
        for class_index in range(3):
            assert sum(alive) == 0
            alive.append(1)
            yield ClassMaps(class_index=class_index, maps={"fine": with_peaks((4, 5))[None]})
            alive[-1] = 0

    (fine,) = clue_prompts(lazily(), PromptsConfig(sources=("fine",), peaks=PEAKS))
    assert fine.class_index == [0, 1, 2, 0, 1, 2]
