"""Whether losses tell which pseudo labels are wrong: bins, rates and ranks by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipelines.analyse import noise
from pipelines.analyse.noise import (
    QUESTION,
    Regions,
    auroc,
    best_ious,
    judge,
    of_loss,
    sampled_regions,
    verdict,
    what_is_dropped,
)
from pipelines.recipe.keys import inputs_of, method_of
from pipelines.recipe.model import load_recipe
from weaksam.config import RoiDropConfig
from weaksam.errors import ConfigError, DataError
from weaksam.structures import GroundTruth, PseudoGroundTruth, no_objects


def floats(*values):
    return np.array(values, dtype=np.float32)


def flags(text):
    return np.array([c == "x" for c in text], dtype=bool)


def test_losses_are_binned_between_the_smallest_and_the_largest():
    # Normalised: 0, .05, .1, .5, .5, .99 and 1; the largest belongs to the last bin.
    values = floats(2, 2.5, 3, 7, 7, 11.9, 12)
    found = of_loss(values, {"0.7": flags("...x.xx"), "0.5": flags("......x")})
    assert (found["minimum"], found["maximum"]) == (2, 12)
    assert [row["count"] for row in found["bins"]] == [2, 1, 0, 0, 0, 2, 0, 0, 0, 2]
    assert [row["error_rate"]["0.7"] for row in found["bins"]] == [0, 0, None, None, None, 0.5, None, None, None, 1]
    assert found["bins"][9]["error_rate"]["0.5"] == 0.5
    assert found["auroc"]["0.5"] == 1


def test_equal_losses_fall_into_the_first_bin_and_tell_nothing():
    found = of_loss(floats(3, 3, 3, 3), {"0.7": flags("x..x")})
    assert [row["count"] for row in found["bins"]] == [4] + [0] * 9
    assert found["bins"][0]["error_rate"]["0.7"] == 0.5
    assert found["auroc"]["0.7"] == 0.5


def test_without_regions_there_is_nothing_to_bin():
    assert of_loss(floats(), {"0.7": flags("")}) == {
        "minimum": None, "maximum": None, "bins": [], "auroc": {"0.7": None}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        ((1, 2, 3), "..x", 1.0),
        ((1, 2, 3), "x..", 0.0),
        ((1, 2, 2, 3), ".x.x", 0.875),  # of the pairs 2>1, 2=2, 3>1, 3>2 the second counts half
        ((1, 2), "xx", None),
        ((1, 2), "..", None),
    ],
)
def test_auroc_counts_the_pairs_in_the_right_order(values, positive, expected):
    assert auroc(floats(*values), flags(positive)) == expected


def test_auroc_is_the_count_of_pairs_on_random_values():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values, positive = rng.integers(0, 6, 30).astype(np.float32), rng.random(30) < 0.4
        pairs = [(p > n) + (p == n) / 2 for p in values[positive] for n in values[~positive]]
        assert auroc(values, positive) == pytest.approx(np.mean(pairs))


def test_a_pseudo_box_is_judged_by_the_object_it_overlaps_most_of_any_class():
    boxes = floats(0, 0, 10, 10, 0, 0, 10, 5, 50, 50, 60, 60).reshape(-1, 4)
    objects = floats(0, 0, 10, 10, 0, 0, 5, 5).reshape(-1, 4)
    assert best_ious(boxes, objects).tolist() == [1, 0.5, 0]
    assert best_ious(boxes, objects[:0]).tolist() == [0, 0, 0]
    assert best_ious(boxes[:0], objects).shape == (0,)


def test_the_verdict_says_how_well_each_loss_tells():
    analysis = {
        "images": 3,
        "regions": 1200,
        "step": 20,
        "error_rate": {"0.7": 0.25},
        "losses": {"cls": {"auroc": {"0.7": 0.81}}, "reg": {"auroc": {"0.7": None}}},
        "drop": {"foreground": {"regions": 1200, "dropped": 40, "wrong": 240, "wrong_dropped": 30}},
    }
    assert verdict(analysis) == (
        "1,200 foreground regions of 3 images at step 20, 25.0 % errors; AUROC of classification loss 0.81, of box loss "
        "not measured (chance .50); RoI drop: it drops 40, of which 75.0 % are wrong (20.0 % of all are)"
    )
    assert "of 3 images (2 more cannot be read) at step 20" in verdict({**analysis, "unreadable": 2})
    analysis["drop"]["foreground"] = dict.fromkeys(analysis["drop"]["foreground"], 0)
    assert verdict(analysis).endswith("RoI drop: it drops none (0.0 % of all are)")


def test_a_label_is_wrong_in_place_in_class_or_where_an_object_is_missed():
    pseudo = PseudoGroundTruth(
        boxes_xyxy=floats(0, 0, 10, 10, 20, 20, 30, 30, 50, 50, 60, 60).reshape(-1, 4),
        class_index=np.array([0, 0, 1]),
        score=floats(1, 1, 1),
        score_normalised=floats(1, 1, 1),
    )
    truth = GroundTruth(
        boxes_xyxy=floats(0, 0, 10, 10, 20, 20, 30, 30, 80, 80, 90, 90).reshape(-1, 4),
        class_index=np.array([0, 1, 2]),
        difficult=flags("..."),
        crowd=flags("..."),
    )
    regions = floats(
        0, 0, 10, 9,  # of the first box: right
        21, 20, 30, 30,  # of the second, whose class is wrong
        50, 50, 60, 59,  # of the third, where nothing is
        80, 80, 90, 89,  # background on an object that has no box
        0, 50, 10, 60,  # background
    ).reshape(-1, 4)  # fmt: skip
    ious, wrong = judge(regions, np.array([0, 1, 2, -1, -1]), pseudo, truth)
    assert ious.tolist() == [1, 1, 0, 0, 0]
    assert wrong.tolist() == [False, True, True, True, False]
    ious, wrong = judge(regions, np.array([0, 1, 2, -1, -1]), pseudo, no_objects())
    assert wrong.tolist() == [True, True, True, False, False]


def test_dropped_regions_are_counted_with_those_that_are_wrong():
    regions = Regions(
        loss_cls=floats(5, 1, 1, 5, 1),
        loss_reg=floats(0.5, 2, 0.5, 0, 0),
        foreground=flags("xxx.."),
        pseudo_iou=floats(0, 1, 1, 0, 0),
        wrong=flags("x..x."),
    )
    assert what_is_dropped(regions, RoiDropConfig()) == {
        "foreground": {"regions": 3, "dropped": 2, "wrong": 1, "wrong_dropped": 1},
        "background": {"regions": 2, "dropped": 1, "wrong": 1, "wrong_dropped": 1},
    }


def test_it_needs_a_faster_rcnn_that_this_run_retrains():
    def options(recipe, *settings):
        return QUESTION.options(load_recipe(recipe, settings)[0])

    assert inputs_of(options("voc07")) == ("index", "label", "retrain")
    assert method_of(options("voc07")) != method_of(options("coco14"))  # other thresholds
    with pytest.raises(ConfigError, match=r"expected retrain\.detector=faster_rcnn, which has regions, got 'dino'"):
        options("voc07", "retrain.detector=dino")
    with pytest.raises(ConfigError, match=r"expected a detector that this run retrains"):
        options("voc07", "retrain.weights=a.safetensors")


def test_images_that_cannot_be_read_are_passed_over_and_counted(tmp_path, monkeypatch, caplog):
    Image.new("RGB", (20, 10)).save(tmp_path / "sound.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = [SimpleNamespace(image_id=name, uri=str(tmp_path / f"{name}.png")) for name in ("sound", "broken", "gone")]
    monkeypatch.setattr(noise, "_regions_of", lambda image, pixels, *_: (image.image_id, pixels.shape))
    found, unreadable = sampled_regions(SimpleNamespace(images=images), None, {}, 0)
    assert (found, unreadable) == ([("sound", (10, 20, 3))], 2)
    assert "image broken: its regions are not sampled" in caplog.text
    with pytest.raises(DataError, match="none of 2 training images can be read"):
        sampled_regions(SimpleNamespace(images=images[1:]), None, {}, 0)
