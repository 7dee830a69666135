"""Instances that a recipe configures: two detectors of one verb, trained, run, measured and shown side by side."""

import re
from pathlib import Path

import pytest

from pipelines.engine.stage import Options
from pipelines.exchange.true_boxes import run_export_true_boxes
from pipelines.products.measured import Evaluation
from pipelines.recipe.keys import inputs_of
from pipelines.recipe.model import load_recipe
from pipelines.registry import active
from pipelines.runner import Run, stage_of
from tests.support.upstream import RECIPE, finish_upstream

TWO = """
stages:
  - index
  - label
  - retrain
  - detect.final
  - evaluate.final
  - retrain.dino: {optimizer: adamw, lr: 0.001, detector: {name: dino, levels: 2, dim: 32, heads: 4, points: 2,
      encoder_layers: 1, decoder_layers: 2, feedforward_dim: 32, queries: 10, denoising_queries: 4}}
  - detect.dino: {model: retrain.dino}
  - evaluate.dino: {of: detect.dino}
  - report
"""


@pytest.mark.slow
def test_a_run_without_proposals_has_a_report_and_makes_none_for_it(tmp_path: Path) -> None:
    stages = "stages: [index, retrain, detect.final, evaluate.final, report]\n"
    (tmp_path / "recipe.yaml").write_text(RECIPE + stages)
    settings = ["resources.here=true", "resources.cpus=1", "retrain.learn_from=true-boxes.truth"]
    recipe, _ = load_recipe(str(tmp_path / "recipe.yaml"), settings, "shapes:")
    run = tmp_path / "run"
    Run(recipe, str(run)).bring(["index"], Options())
    run_export_true_boxes(str(run), name="truth")
    Run(recipe, str(run)).bring(active(recipe), Options())
    assert not (run / "propose").exists()
    page = (run / "report.html").read_text()
    for shown in ("detect.final", 'id="gallery"', 'id="detections"', 'id="training"'):
        assert shown in page
    assert 'id="counts"' not in page
    assert "Prompts:" not in page
    assert page.count("<article") > 3


@pytest.mark.slow
def test_two_retrained_detectors_stand_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE + TWO)
    recipe, _ = load_recipe(str(tmp_path / "recipe.yaml"), ["resources.here=true", "resources.cpus=1"], "shapes:")
    run = str(tmp_path / "run")
    finish_upstream(recipe, run)
    Run(recipe, run).bring(active(recipe), Options())
    for label, detector, model in (("final", "faster_rcnn", "retrain"), ("dino", "dino", "retrain.dino")):
        detect = Run(recipe, run).resolve(f"detect.{label}")
        assert (detect.options.detector.detector.name, set(detect.inputs)) == (detector, {"index", model})
        metrics = Evaluation(Run(recipe, run).instance(f"evaluate.{label}")).read()
        assert set(metrics["detections"]) == {"val", "test"}
    page = (tmp_path / "run" / "report.html").read_text()
    tables = re.findall('aria-label="Detections measured on (.*?)".*?<table>(.*?)</table>', page, re.DOTALL)
    assert [split for split, _ in tables] == ["test", "val"]
    for _, table in tables:
        assert re.findall('<tr><th scope="row">(.*?)</th>', table) == ["final", "dino"]
    # A setting of the one leaves the other as it is.
    changed, _ = load_recipe(str(tmp_path / "recipe.yaml"), ["resources.here=true", "retrain.dino.seed=1"], "shapes:")
    for name, same in (("retrain", True), ("evaluate.final", True), ("retrain.dino", False), ("evaluate.dino", False)):
        assert (Run(changed, run).instance(name).key == Run(recipe, run).instance(name).key) is same


def test_a_detector_scores_the_proposals_that_it_learnt_from_and_is_measured_beside_them() -> None:
    settings = ["train-mil.sam.proposals=import.sam", "train-mil.sam.proposal_sources=[grid]"]
    settings += ["detect.sam.model=train-mil.sam", "evaluate.sam.of=detect.sam", "detect.other.model=train-mil.sam"]
    recipe, _ = load_recipe("small", [*settings, "detect.other.proposals=propose"])

    def reads(name: str) -> set[str]:
        return set(inputs_of(stage_of(name).options(recipe.of(name), name)))

    assert reads("detect.sam") == {"index", "import.sam", "train-mil.sam"}
    assert reads("evaluate.sam") == {"detect.sam", "import.sam"}
    assert stage_of("evaluate.sam").options(recipe.of("evaluate.sam"), "evaluate.sam").proposal_sources == ("grid",)
    assert reads("detect.other") == {"index", "propose", "train-mil.sam"}
    assert reads("detect.mil") == {"index", "propose", "train-mil"}
    assert reads("evaluate.final") == {"detect.final", "propose"}  # the recipe makes them anyway
    both, _ = load_recipe(
        "small", ["mil.proposals=[propose, propose.search]", "propose.search.method=selective-search"]
    )
    for name in ("train-mil", "detect.mil", "evaluate.mil"):
        assert set(inputs_of(stage_of(name).options(both.of(name), name))) >= {"propose", "propose.search"}
    alone, _ = load_recipe("small", ["stages=[index, retrain, detect.final]"])
    options = stage_of("evaluate.final").options(alone.of("evaluate.final"), "evaluate.final")
    assert inputs_of(options) == ("detect.final",)
