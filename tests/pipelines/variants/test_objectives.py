"""What objectives read of instances that are finished by hand."""

import numpy as np
import pytest

from pipelines.engine.stage import Options
from pipelines.evaluate.detections import NO_PROPOSALS, MeasuredImage
from pipelines.products.label_maps import SeedFacts
from pipelines.products.measured import Analysis, Evaluation
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.variants.objectives import OBJECTIVES, check_objective
from pipelines.variants.objectives.agreement import RANKED
from pipelines.variants.objectives.base import ALL_IMAGES, NO_IMAGES, TRAINING_IMAGES, EarlyDetections, Reading
from pipelines.variants.objectives.pseudo_labels import HALVES, half_of
from tests.support.measured import label_maps
from tests.support.sets import instance_of
from tests.support.upstream import RECIPE, finish_upstream
from weaksam.datasets import open_dataset
from weaksam.datasets.shapes import Shapes
from weaksam.errors import ConfigError
from weaksam.structures import Detections


class FinishedRun:
    """A run of one instance, of any recipe."""

    def __init__(self, folder, name="evaluate.x", recipe=None):
        self.recipe = recipe or load_recipe("shapes")[0]
        self._instance = instance_of(str(folder), name)

    def instance(self, _name):
        return self._instance


def reading(tmp_path, metrics, *overrides):
    run = FinishedRun(tmp_path, recipe=load_recipe("shapes", overrides)[0])
    Evaluation(run.instance("")).write(metrics)
    return Reading(run=run, name="evaluate.x")


def test_detections_are_read_split_by_split(tmp_path):
    of = reading(
        tmp_path,
        {
            "detections": {
                split: {
                    "classification_map": value + 0.1,
                    "rows": [
                        {"name": "detector", "ap50_area": value, "coco_ap": value / 2, "corloc": None},
                        {"name": "whole image", "ap50_area": 0.9, "corloc": 0.2},
                    ],
                }
                for split, value in {"val": 0.25, "test": 0.5}.items()
            }
        },
    )
    assert OBJECTIVES["ap50"].read(of) == {"val": 0.25, "test": 0.5}
    assert OBJECTIVES["mil_ap50"].read(of) == {"val": 0.25, "test": 0.5}
    assert OBJECTIVES["map"].read(of) == {"val": 0.125, "test": 0.25}
    assert OBJECTIVES["corloc"].read(of) == {"val": None, "test": None}
    assert OBJECTIVES["whole_image_corloc"].read(of) == {"val": 0.2, "test": 0.2}


def test_a_split_without_true_boxes_has_no_figure(tmp_path):
    of = reading(tmp_path, {"detections": {"val": {"classification_map": None, "rows": []}}})
    assert OBJECTIVES["ap50"].read(of) == {"val": None}


def seen_in(recipe, dataset, split="val"):
    """A detector that finds nothing, and knows what there is."""

    def found(record):
        scores = np.isin(np.arange(len(dataset.class_names)), record.labels_difficult).astype(np.float32)
        return Detections(
            boxes_xyxy=np.zeros((0, 4), np.float32),
            class_index=np.zeros(0, np.int64),
            score=np.zeros(0, np.float32),
            image_scores=scores,
        )

    images = [
        MeasuredImage(
            image_id=r.image_id, split=split, size_hw=(64, 64), detections=found(r), proposals_xyxy=NO_PROPOSALS
        )
        for r in dataset.records(split)
    ]
    return EarlyDetections(recipe=recipe, split=split, class_names=dataset.class_names, images=images)


def test_a_detector_is_looked_at_early_as_it_is_in_the_end(monkeypatch):
    recipe, _ = load_recipe("shapes", ["data.shapes.val=12", "data.shapes.size=64"], "shapes:")
    seen = seen_in(recipe, open_dataset(recipe.data))
    assert OBJECTIVES["ap50"].early(seen) == 0.0
    monkeypatch.setattr(Shapes, "ground_truth", lambda *_, **__: {})
    assert OBJECTIVES["ap50"].early(seen) is None

    def refuse(*_):
        raise AssertionError("true boxes were read")

    monkeypatch.setattr(Shapes, "ground_truth", refuse)
    assert OBJECTIVES["classification_map"].early(seen) == 1.0


def test_figures_say_which_images_they_are_of():
    assert OBJECTIVES["ap50"].images("select", "val") == "val"
    assert OBJECTIVES["pseudo_f1"].images("select", "val") == "half of the training images"
    assert OBJECTIVES["pseudo_f1"].images("report", "test") == "the other half of the training images"
    assert OBJECTIVES["label_agreement"].images("select", "val") == TRAINING_IMAGES
    assert OBJECTIVES["label_agreement"].images("report", "test") == NO_IMAGES


def test_a_figure_of_all_images_is_that_of_either_part_of_a_sweep():
    wrong, ap50 = OBJECTIVES["regions_wrong"], OBJECTIVES["ap50"]
    assert [wrong.of_part({"": 0.25}, part, "val") for part in ("select", "report")] == [0.25, 0.25]
    assert (ap50.of_part({"val": 0.5}, "select", "val"), ap50.of_part({"val": 0.5}, "report", "test")) == (0.5, None)
    assert OBJECTIVES["label_agreement"].of_part({TRAINING_IMAGES: 0.5}, "report", "test") is None


def test_figures_of_what_a_sweep_trains_differ_from_seed_to_seed():
    assert {name for name, objective in OBJECTIVES.items() if objective.seeded} == {
        "ap50", "voc_ap50", "map", "coco_ap50", "coco_ap75", "corloc", "part", "whole_image_voc_ap50", "whole_image_corloc",
        "mask_ap", "mask_ap25", "mask_ap50", "mask_ap70", "mask_ap75", "filled_box_ap50",
        "classification_map", "agreement", "rank", "regions_wrong", "regions_dropped", "dropped_wrong",
        "miou", "boundary_iou", "pixel_seed_miou", "coarse_seed_miou", "fine_seed_miou", "fine_seed_boundary_iou",
        "seed_agreement", "seed_clip_score",
    }  # fmt: skip


ROWS = [
    {"sources": ["grid"], "points": 16.0, "boxes": 3.0, "one_to_one": {"0.5": 0.2, "0.75": 0.1}},
    {"sources": ["grid", "fine"], "points": 18.5, "boxes": 5.0, "one_to_one": {"0.5": 0.8, "0.75": 0.3}},
    {"sources": ["fine"], "points": 2.5, "boxes": 2.0, "one_to_one": {"0.5": 0.9}},
]


def test_recall_is_that_of_all_sources_together(tmp_path):
    of = reading(tmp_path, {"splits": {"val": {"rows": ROWS}, "test": {"rows": []}}})
    assert OBJECTIVES["recall50"].read(of) == {"val": 0.8, "test": None}
    assert OBJECTIVES["recall75"].read(of) == {"val": 0.3, "test": None}
    assert OBJECTIVES["recall90"].read(of) == {"val": None, "test": None}
    assert OBJECTIVES["mil_boxes"].read(of) == {"val": 5.0, "test": None}  # the detector learns from all


@pytest.mark.parametrize(
    ("sources", "boxes"), [("[grid]", 3.0), ("[grid, fine]", 5.0), ("[fine]", 2.0), ("[grid, coarse]", None)]
)
def test_a_detectors_proposals_are_those_of_the_sources_that_it_learns_from(tmp_path, sources, boxes):
    of = reading(tmp_path, {"splits": {"val": {"rows": ROWS}}}, f"mil.proposal_sources={sources}")
    assert OBJECTIVES["mil_boxes"].read(of) == {"val": boxes}
    assert OBJECTIVES["recall50"].read(of) == {"val": 0.8}


def test_sources_that_a_recipe_does_not_have_are_no_part_of_what_is_looked_up(tmp_path):
    overrides = ("prompts.sources=[grid, fine]", "mil.proposal_sources=[grid, fine, coarse]")
    of = reading(tmp_path, {"splits": {"val": {"rows": ROWS}}}, *overrides)
    assert OBJECTIVES["mil_recall50"].read(of) == {"val": 0.8}


def test_prompts_and_boxes_are_counted_of_all_sources(tmp_path):
    of = reading(tmp_path, {"splits": {"val": {"rows": ROWS}}})
    assert [OBJECTIVES[name].read(of) for name in ("points", "boxes")] == [{"val": 18.5}, {"val": 5.0}]


def test_the_classifier_is_measured_by_its_scores_of_images(tmp_path):
    of = reading(
        tmp_path, {"classifier": {"val": {"images": 3, "mean_ap": 0.7}, "train": {"images": 2, "mean_ap": None}}}
    )
    assert OBJECTIVES["classifier_map"].read(of) == {"val": 0.7, "train": None}


def test_label_free_figures_are_read_from_the_agreement(tmp_path):
    of = reading(tmp_path, {"agreement": {"val": {"classification_map": 0.7, "agreement": 0.4}}})
    assert [OBJECTIVES[name].read(of) for name in RANKED] == [{"val": 0.7}, {"val": 0.4}]
    of = reading(tmp_path, {"agreement": {"train": {"images": 3, "label_agreement": 0.6}}})
    assert OBJECTIVES["label_agreement"].read(of) == {TRAINING_IMAGES: 0.6}
    assert OBJECTIVES["rank"].read(of) == {}


def test_label_maps_are_read_split_by_split_beside_what_needs_no_method(tmp_path):
    of = reading(tmp_path, label_maps(0.625))
    assert OBJECTIVES["miou"].read(of) == {"test": None, "train": 0.625}
    assert OBJECTIVES["background_miou"].read(of) == {"test": None, "train": 0.375}
    assert OBJECTIVES["largest_class_miou"].read(of) == {"test": None, "train": 0.25}
    assert OBJECTIVES["bound_miou"].read(of) == {"test": None, "train": None}  # of a segmenter's, which have none
    rows = of.metrics()["label_maps"]["train"]["rows"]
    assert OBJECTIVES["boundary_iou"].read(of) == {"test": None, "train": rows[0]["boundary_iou"]}


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("pixel_seed_miou", "mean_iou"),
        ("coarse_seed_miou", "mean_iou"),
        ("fine_seed_miou", "mean_iou"),
        ("fine_seed_boundary_iou", "boundary_iou"),
    ],
)
def test_seeds_are_told_by_true_maps_and_not_chosen_by_them(tmp_path, name, figure):
    train = label_maps(0.625)["label_maps"]["train"]
    values = OBJECTIVES[name].read(reading(tmp_path, {"label_maps": {"any": train}}))
    assert values == {TRAINING_IMAGES: train["rows"][0][figure]}
    assert OBJECTIVES[name].of_part(values, "select", "any") is None
    assert OBJECTIVES[name].of_part(values, "report", "val") == train["rows"][0][figure]
    assert not OBJECTIVES[name].chooses
    assert OBJECTIVES["miou"].chooses
    assert OBJECTIVES["pseudo_f1"].chooses


def test_what_is_known_of_seeds_without_a_true_map_is_chosen_by_and_not_reported(tmp_path):
    run = FinishedRun(tmp_path, "seeds.coarse")
    instance = run.instance("")
    instance.begin({})
    instance.finish(SeedFacts(text="done", agreement=0.75, clip_score=0.5).to_plain())
    for name, expected in (("seed_agreement", 0.75), ("seed_clip_score", 0.5)):
        values = OBJECTIVES[name].read(Reading(run=run, name="seeds.coarse"))
        assert values == {TRAINING_IMAGES: expected}
        assert OBJECTIVES[name].of_part(values, "select", "val") == expected
        assert OBJECTIVES[name].of_part(values, "report", "test") is None


def test_predicted_maps_are_of_the_splits_that_the_segmenter_ran_over():
    recipe, _ = load_recipe("shapes-fma", ["predict_maps.splits=[val]"])
    assert OBJECTIVES["miou"].splits(recipe, "select") == {
        "data.splits": ("train", "val"),
        "predict_maps.splits": ("val",),
    }
    assert OBJECTIVES["miou"].splits(recipe, "select", "evaluate.fine") == {}


def test_shares_of_dropped_regions_are_known_where_there_are_regions(tmp_path):
    of = reading(tmp_path, {})
    counts = {"regions": 8, "wrong": 2, "dropped": 4, "wrong_dropped": 1}
    for foreground, expected in (
        (counts, [0.25, 0.5, 0.25]),
        (counts | {"dropped": 0, "wrong_dropped": 0}, [0.25, 0.0, None]),
        (dict.fromkeys(counts, 0), [None, None, None]),
    ):
        Analysis(of.instance).write({"drop": {"foreground": foreground, "background": counts}})
        names = ("regions_wrong", "regions_dropped", "dropped_wrong")
        assert [OBJECTIVES[name].read(of) for name in names] == [{ALL_IMAGES: value} for value in expected]


def test_pseudo_labels_are_measured_on_two_halves_that_never_meet(tmp_path):
    from pipelines.evaluate.pseudo_labels import measure
    from pipelines.products.pseudo_labels import PseudoLabelTable

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, _ = load_recipe(str(tmp_path / "recipe.yaml"), data_uri="shapes:")
    run = Run(recipe, str(tmp_path / "run"))
    finish_upstream(recipe, run.uri)
    run.bring(["label"], Options())
    label = run.instance("label")
    table = PseudoLabelTable(label)
    assert {half_of(image.image_id) for image in table.images()} == {"select", "report"}
    for part, images in zip(("select", "report"), HALVES, strict=True):
        mine = [image for image in table.images() if half_of(image.image_id) == part]
        (expected,) = measure(mine, table.class_names, open_dataset(recipe.data).ground_truth).values()
        row = expected["rows"][0]
        found = {
            name: OBJECTIVES[f"pseudo_{name}"].read(Reading(run=run, name="label"))[images]
            for name in ("precision", "recall", "f1")
        }
        assert found["precision"] == row["precision"] > 0
        assert found["recall"] == row["recall"] > 0
        assert found["f1"] == pytest.approx(2 / (1 / row["precision"] + 1 / row["recall"]))


def test_an_image_stays_in_its_half():
    halves = [half_of(f"{n:06}") for n in range(1000)]
    assert halves == [half_of(f"{n:06}") for n in range(1000)]
    assert 440 < halves.count("select") < 560


def test_every_objective_says_what_it_is_and_is_read_from_an_instance_that_there_is():
    runs = [Run(load_recipe(name)[0], "/run") for name in ("shapes", "shapes-fma")]
    for objective in OBJECTIVES.values():
        assert objective.what
        (of, *_) = [run for run in runs if objective.instance in {*run.recipe.instances, *run.recipe.stages}]
        assert "index" in of.needed_for(objective.instance)
    free = {name for name, objective in OBJECTIVES.items() if objective.label_free}
    assert free == {
        "classification_map", "classifier_map", "agreement", "label_agreement", "rank", "seed_agreement",
        "seed_clip_score",
    }  # fmt: skip


def test_a_misspelt_objective_is_told_the_nearest():
    check_objective("pseudo_f1", "a file")
    with pytest.raises(ConfigError, match=r"a file: expected one of ap50, .*, got pseudo_fl; did you mean pseudo_f1"):
        check_objective("pseudo_fl", "a file")
