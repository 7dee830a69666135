import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipelines.analyse.prompts import (
    PLANNED,
    Control,
    ControlActor,
    compare,
    control_prompts,
    planned_images,
    segment_controls,
    table_rows,
    verdict,
)
from pipelines.analyse.question import analysed_split
from pipelines.products.index import Index
from pipelines.products.proposal_boxes import ImageBoxes
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.config import AnalyseConfig, ProposeConfig, ResourcesConfig
from pipelines.store.schemas import PROPOSALS
from tests.support.drawn_run import SHAPES, drawn_recipe, job_for, work, write_run
from tests.support.sams import in_double, trained_sam
from tests.support.sets import instance_of
from tests.support.voice import Recorder
from weaksam.config import PromptsConfig, ProposalsConfig, SamConfig
from weaksam.datasets.shapes import Shapes
from weaksam.errors import DataError
from weaksam.proposals.prompts import grid_prompts
from weaksam.structures import SOURCES, GroundTruth, Prompts

SIZE_HW = (40, 60)
FINE = Prompts(
    source="fine",
    points_xy=[np.float32([(5, 6)]), np.float32([(7, 8)]), np.float32([(5, 6)]), np.float32([(5, 6), (7, 8)])],
    kind=["semantic", "semantic", "semantic", "class-joint"],
    class_index=[0, 0, 3, 0],
)
CROSS = Prompts(source="cross", points_xy=[np.float32([(1, 2)])], kind=["instance"], class_index=[-1])
GRID = grid_prompts(SIZE_HW, 4)


def by_name(controls: list[Control]) -> dict[str, Prompts]:
    return {control.names[p.source]: p for control in controls for p in control.prompts}


def test_controls_stand_beside_every_clue_source_of_the_recipe():
    controls = control_prompts("a", SIZE_HW, [GRID, FINE, CROSS], SOURCES, (0, 1))
    assert [sorted(control.names.values()) for control in controls] == [
        ["random-0:cross", "random-0:fine"],
        ["random-1:cross", "random-1:fine"],
        ["dense-grid:fine"],
        ["dense-grid:coarse"],
        ["dense-grid:cross"],
    ]


def test_the_dense_grid_has_at_least_as_many_points_as_grid_and_clues_so_far():
    found = by_name(control_prompts("a", SIZE_HW, [GRID, FINE, CROSS], SOURCES, ()))
    # 16 points of the grid + 3 alone in fine (the joint prompt repeats two) = 19 -> 5 x 5; no coarse; + 1 cross = 20.
    assert {name: len(p) for name, p in found.items()} == {
        "dense-grid:fine": 25,
        "dense-grid:coarse": 25,
        "dense-grid:cross": 25,
    }
    assert all(p.source == "grid" for p in found.values())


@pytest.mark.parametrize(("clue_points", "side"), [(0, 4), (1, 5), (9, 5), (10, 6)])
def test_the_dense_grid_is_the_smallest_that_is_large_enough(clue_points, side):
    points = [np.float32([(n, n)]) for n in range(clue_points)]
    fine = Prompts(source="fine", points_xy=points, kind=["semantic"] * clue_points, class_index=[0] * clue_points)
    found = by_name(control_prompts("a", SIZE_HW, [GRID, fine], ("grid", "fine"), ()))
    assert len(found["dense-grid:fine"]) == side**2


def test_random_points_keep_everything_but_the_places():
    moved = by_name(control_prompts("a", SIZE_HW, [GRID, FINE, CROSS], SOURCES, (0,)))["random-0:fine"]
    assert moved.kind == FINE.kind
    assert moved.class_index == FINE.class_index
    assert [len(p) for p in moved.points_xy] == [1, 1, 1, 2]
    first, second, other_class, joint = (p.tolist() for p in moved.points_xy)
    assert joint == first + second  # the joint prompt holds the class's own points
    assert first != other_class  # the same place of another class is another peak
    for points in moved.points_xy:
        assert points.dtype == np.float32
        assert (points == points.astype(int)).all()
        assert (points >= 0).all()
        assert (points < (SIZE_HW[1], SIZE_HW[0])).all()


def test_random_places_differ_by_seed_image_and_source_and_repeat():
    def places(image_id: str, seed: int, source: str = "fine") -> list:
        prompts = [GRID, replace(FINE, source=source)]
        found = by_name(control_prompts(image_id, SIZE_HW, prompts, SOURCES, (seed,)))
        return [p.tolist() for p in found[f"random-{seed}:{source}"].points_xy]

    assert places("a", 0) == places("a", 0)
    assert len({str(places(*which)) for which in [("a", 0), ("a", 1), ("b", 0), ("a", 0, "coarse")]}) == 4


def test_random_places_cover_the_image_evenly():
    many = [np.float32([(n, 0)]) for n in range(4000)]
    fine = Prompts(source="fine", points_xy=many, kind=["semantic"] * 4000, class_index=[0] * 4000)
    moved = by_name(control_prompts("a", SIZE_HW, [fine], ("fine",), (0,)))["random-0:fine"]
    quadrant = np.concatenate(moved.points_xy) >= (30, 20)
    counts = Counter(map(tuple, quadrant.tolist()))
    assert min(counts.values()) > 900


def test_sources_without_clues_have_no_controls():
    assert control_prompts("a", SIZE_HW, [GRID], ("grid",), (0, 1, 2)) == []
    assert control_prompts("a", SIZE_HW, [], ("fine",), (0,)) == []


@pytest.fixture(scope="module")
def sam():
    return in_double(trained_sam())  # in float32 the masks of many prompts round otherwise than those of few


def test_each_control_is_segmented_as_if_it_were_alone(sam):
    from weaksam.io.files import read_bytes
    from weaksam.io.images import decode_image
    from weaksam.proposals.filters import propose

    image = decode_image(read_bytes(Shapes(SHAPES).records("train")[0].uri))
    prompts = [grid_prompts(image.shape[:2], 3), FINE, CROSS]
    controls = control_prompts("a", image.shape[:2], prompts, SOURCES, (0, 1))
    config = ProposalsConfig(whole_image_if_empty=False)
    together = segment_controls(sam, image, controls, config)
    assert len(together) > 0
    first_prompt = 0
    for control in controls:
        alone = propose(sam, image, control.prompts, config)
        names = set(control.names.values())
        rows = [n for n, source in enumerate(together.source) if source in names]
        np.testing.assert_array_equal(together.boxes_xyxy[rows], alone.boxes_xyxy)
        np.testing.assert_array_equal(together.prompt_index[rows], alone.prompt_index + first_prompt)
        np.testing.assert_array_equal(together.mask_index[rows], alone.mask_index)
        first_prompt += sum(len(p) for p in control.prompts)
    assert sum(len(p) for p in together.prompts) == first_prompt
    assert {p.source for p in together.prompts} == {name for c in controls for name in c.names.values()}


def test_no_controls_give_no_boxes(sam):
    nothing = segment_controls(sam, np.zeros((8, 9, 3), np.uint8), [], ProposalsConfig())
    assert (len(nothing), nothing.size_hw, nothing.boxes_xyxy.shape) == (0, (8, 9), (0, 4))


def truth(*boxes):
    no = np.zeros(len(boxes), bool)
    return GroundTruth(
        boxes_xyxy=np.float32(boxes).reshape(-1, 4), class_index=np.zeros(len(boxes), np.int64), difficult=no, crowd=no
    )


def boxes_of(image_id, **boxes):
    """One image with boxes by source; two points per source."""
    flat = [(source.replace("_", "-", 1).replace("__", ":"), box) for source, group in boxes.items() for box in group]
    return ImageBoxes(
        image_id=image_id,
        split="train",
        size_hw=(100, 100),
        boxes_xyxy=np.float32([box for _, box in flat]).reshape(-1, 4),
        source=[source for source, _ in flat],
        points=Counter(dict.fromkeys((source for source, _ in flat), 2)),
    )


A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


def compared(images, known):
    return compare(images, known, ("grid", "fine", "cross"), (0, 1), iou_thresholds=(0.5,), include_difficult=True)


def test_clues_and_controls_are_counted_over_the_grid():
    method = boxes_of("a", grid=[A], fine=[B], cross=[C])
    controls = boxes_of("a", random_0__fine=[B], random_1__fine=[], random_0__cross=[C, C], dense_grid__fine=[A])
    controls = replace(controls, source=[s.replace("dense-grid__fine", "dense-grid:fine") for s in controls.source])
    rows = compared([(method, controls)], {"a": truth(A, B, C)})
    assert [row["name"] for row in rows] == ["grid", "fine", "cross"]
    grid, fine, cross = rows
    assert "random" not in grid
    assert fine["recall"]["0.5"] == pytest.approx(2 / 3)
    # Seed 0 finds A by the grid and B; seed 1 only A.
    assert fine["random"]["recall"]["0.5"] == pytest.approx(1 / 2)
    assert fine["random"]["spread"]["0.5"] == pytest.approx(1 / 3)
    assert cross["recall"]["0.5"] == 1.0
    assert cross["random"]["recall"]["0.5"] == pytest.approx((1 + 1 / 3) / 2)
    assert cross["random"]["boxes"] == (4 + 1) / 2


def test_nothing_compared_is_null():
    rows = compared([], {})
    assert rows[1]["random"]["recall"]["0.5"] is None
    assert verdict({"rows": rows}).startswith("nothing to compare")


def test_the_verdict_counts_what_exceeds_the_spread():
    row = {
        "name": "fine",
        "recall": {"0.5": 0.9, "0.75": 0.5, "0.9": 0.3},
        "random": {"recall": {"0.5": 0.8, "0.75": 0.45, "0.9": 0.3}, "spread": {"0.5": 0.05, "0.75": 0.05, "0.9": 0.0}},
        "dense_grid": {"recall": {"0.5": 0.95, "0.75": 0.5, "0.9": 0.2}},
    }
    # .9 - .8 > .05 holds; .5 - .45 > .05 does not; .3 - .3 > 0 does not. Denser grid: only .3 > .2.
    assert verdict({"rows": [row]}) == (
        "of 3 recalls of clue rows, 1 exceeds random points by more than the seeds' spread, 1 exceeds the denser grid"
    )


def test_controls_follow_their_source_in_the_table():
    analysis = {"seeds": [0, 1], "rows": compared([], {})}
    labels = ["grid", "+ fine", "random × 2", "denser grid", "+ cross", "random × 2", "denser grid"]
    assert [label for label, _ in table_rows(analysis)] == labels


def test_a_recipe_without_clues_has_nothing_to_compare(tmp_path):
    run = str(tmp_path)
    write_run(run)
    for recipe in (
        drawn_recipe(prompts=PromptsConfig(sources=("grid",))),
        drawn_recipe(propose=ProposeConfig(method="selective-search")),
    ):
        manifest = work(job_for(recipe, run, "analyse.prompts", ("index", "propose")))
        assert manifest["text"].startswith("nothing to compare")


@pytest.mark.slow
def test_the_stage_compares_a_split_and_goes_on_where_it_stopped(tmp_path):
    run = str(tmp_path)
    write_run(run)
    recipe = drawn_recipe(
        sam=SamConfig(name="builtin"),
        analyse=AnalyseConfig(max_images=3, random_seeds=(0, 1)),
        resources=ResourcesConfig(here=True, rows_per_task=2),
    )
    voice = Recorder()
    job = job_for(recipe, run, "analyse.prompts", ("index", "propose"), voice)
    manifest = work(job)
    table = job.instance.table(PROPOSALS)
    rows = {row["image_id"]: row for row in table.iter_rows()}
    assert manifest["images"] == {"images": 3, "done": 3, "dropped": 0, "before": 0, "duplicates": 0}
    assert "random × 2" in voice.text
    written = json.loads((tmp_path / "analyse.prompts" / "k" / "analysis.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["grid", "fine", "coarse", "cross"]
    assert (written["split"], written["images"]) == ("train", 3)

    (tmp_path / "analyse.prompts" / "k" / table.parts()[0].rpartition("/")[2]).unlink()
    again = work(job)
    assert again["images"]["done"] == 3
    assert 0 < again["throughput"]["images"] <= 3
    assert {row["image_id"]: row for row in table.iter_rows()} == rows


def test_an_actor_alone_turns_prompts_into_controls_and_sets_bad_images_aside(tmp_path):
    run = str(tmp_path)
    write_run(run)
    propose, index = ProposalTable(instance_of(run, "propose")), Index(instance_of(run, "index"))
    instance = instance_of(run, "analyse.prompts")
    planned = planned_images(propose, index, "train", 2, instance.planned_rows())
    rows = planned.to_pylist()
    rows[1]["uri"] = "/nowhere.png"
    actor = ControlActor(instance, SamConfig(name="builtin"), ProposalsConfig(), SOURCES, (0,), 1, "cpu")
    done = actor(planned.from_pylist(rows, schema=PLANNED)).to_pylist()
    assert [row["image_id"] for row in done] == [rows[0]["image_id"]]
    assert set(done[0]["source"]) <= {"random-0:fine", "random-0:cross"} | {f"dense-grid:{s}" for s in SOURCES}
    assert [(row["image_id"], row["reason"]) for row in instance.dropped.iter_rows()] == [
        (rows[1]["image_id"], "missing")
    ]


def test_a_split_without_labels_or_proposals_is_refused(tmp_path):
    run = str(tmp_path)
    write_run(run)
    propose, index = ProposalTable(instance_of(run, "propose")), Index(instance_of(run, "index"))
    assert analysed_split("auto", index, "shapes:") == "train"
    assert analysed_split("val", index, "shapes:") == "val"
    with pytest.raises(DataError, match="no image of split 'test'"):
        planned_images(propose, index, "test", 0, instance_of(run, "analyse.prompts").planned_rows())
    index.instance.finish({"labels_granted_to": "none"})
    with pytest.raises(DataError, match=r"shapes:.*name a split"):
        analysed_split("auto", Index(index.instance), "shapes:")


def test_the_first_images_in_hash_order_are_analysed(tmp_path):
    run = str(tmp_path)
    write_run(run)
    propose, index = ProposalTable(instance_of(run, "propose")), Index(instance_of(run, "index"))
    planned = instance_of(run, "analyse.prompts").planned_rows()
    few = planned_images(propose, index, "train", 2, planned)["image_id"].to_pylist()
    everything = planned_images(propose, index, "train", 0, planned)["image_id"].to_pylist()
    assert len(few) == 2
    assert set(few) < set(everything)
    assert len(everything) == 5
