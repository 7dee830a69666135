"""A classifier of one brightness threshold, on pictures whose order by brightness is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.engine.stage import Options
from pipelines.products.measured import Evaluation
from pipelines.recipe.keys import inputs_of
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.registry import STAGES, product_of
from pipelines.runner import Run
from pipelines.store.instances import finished_instance
from pipelines.training.trained import Trained
from tests.support.sets import of_index
from tests.support.voice import Recorder
from weaksam.clues.loading import build_classifier, classifier_to_bytes
from weaksam.config import ClueNetworkConfig
from weaksam.errors import DataError

# Brightness -> label: of the training pictures the bright ones are days, of the others two are not where they should be.
PICTURES = {
    "train": {250: "day", 200: "day", 40: "night", 10: "night"},
    "test": {240: "day", 160: "night", 120: "day", 20: "night"},
}
TINY = (
    "{name: weaktr, stem: cnn, patch_size: 8, dim: 16, depth: 1, heads: 2, position_grid: 4, fusion: uniform, init: ''}"
)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    data = tmp_path / "data"
    rows = ["path,labels"]
    for split, pictures in PICTURES.items():
        (data / split).mkdir(parents=True)
        for brightness, label in pictures.items():
            Image.new("RGB", (40, 30), (brightness,) * 3).save(data / split / f"{brightness}.png")
            rows.append(f"{split}/{brightness}.png,{label}")
    Image.new("RGB", (40, 30)).save(data / "test" / "unlabelled.png")
    (data / "labels.csv").write_text("\n".join(rows))
    return load_recipe("small", [f"clues.source={TINY}", "classifier.crop_size=32"], str(data))[0]


def evaluate(recipe: Recipe, run: str, monkeypatch: pytest.MonkeyPatch, *class_names: str) -> Recorder:
    """Evaluate a network whose logits are brightness and darkness."""
    source, voice = recipe.clues.source, Recorder()
    assert isinstance(source, ClueNetworkConfig)
    network = build_classifier(source, len(class_names))
    monkeypatch.setattr(
        type(network), "classify", lambda _, views: views.mean(dim=(1, 2, 3))[:, None] * views.new_tensor([1, -1])
    )
    Run(recipe, run).bring(["index"], Options())
    training = product_of(of_index(run, "train-classifier"))
    assert isinstance(training, Trained)
    training.instance.begin({})
    training.write_weights(classifier_to_bytes(network, class_names))
    training.instance.finish({"text": "by hand"})
    Run(recipe, run, given=[training.instance]).bring(["evaluate.classifier"], Options(), voice)
    return voice


def test_each_split_is_measured_by_its_labels(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(tmp_path / "run")
    voice = evaluate(recipe, run, monkeypatch, "day", "night")
    figures: dict[str, Any] = Evaluation(finished_instance(run, "evaluate.classifier")).read()["classifier"]
    assert figures["train"] == {
        "images": 4,
        "labelled": 4,
        "mean_ap": 1.0,
        "classes": [{"name": name, "images": 2, "ap": 1.0} for name in ("day", "night")],
    }
    assert figures["test"]["images"] == 4  # what is not labelled is not counted
    # The two of a class are first and third: a precision of 1, then of 2/3.
    assert [row["ap"] for row in figures["test"]["classes"]] == pytest.approx([5 / 6, 5 / 6])
    assert "test  4  83.3  83.3  83.3" in voice.text
    assert "train: mAP 100.0 · test: mAP 83.3" in voice.text


def test_other_classes_are_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="expected a classifier of the classes day, night, got one of dawn, dusk"):
        evaluate(recipe, str(tmp_path / "run"), monkeypatch, "dawn", "dusk")


def test_it_reads_the_classifier_and_the_images(recipe: Recipe) -> None:
    options = STAGES["evaluate"].options(recipe.of("evaluate.classifier"), "evaluate.classifier")
    assert set(inputs_of(options)) == {"index", "train-classifier"}
