"""Label maps of new pictures, of a segmenter with random weights: held against the segmenter called by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from pipelines.cli import app as cli
from pipelines.predict.predictor import predictor_of
from pipelines.recipe.model import load_recipe
from pipelines.registry import product_of
from pipelines.store.files import write_bytes
from pipelines.training.trained import Trained
from tests.pipelines.test_predict import draw
from tests.support.sets import instance_of
from weaksam.io.files import join
from weaksam.io.images import decode_image
from weaksam.segmentation.inference import class_probabilities, label_map_of
from weaksam.segmentation.segmenters.loading import build_segmenter, load_segmenter, segmenter_to_bytes

CLASSES = ("cat", "a & b")
RECIPE = """
base: small.yaml
name: taught
stages: [index, detect.mil, train-segmenter, predict-maps, report]
data: {uri: /gone, kind: voc, splits: [trainval], limit: 3}
segmenter: {init: "", learn_from: predict-maps.elsewhere, side: 64, network: {name: deeplab, dim: 16, fine_dim: 16}}
predict_maps: {splits: [trainval], flip: true}
resources: {here: true, threads_per_actor: 1}
"""


@pytest.fixture
def taught(tmp_path: Path) -> str:
    """A run whose segmenter is trained, with random weights that find a bit of everything."""
    run = str(tmp_path / "taught")
    write_bytes(join(run, "recipe.yaml"), RECIPE.encode())
    torch.manual_seed(1)
    segmenter = build_segmenter(load_recipe(join(run, "recipe.yaml"))[0].segmenter, len(CLASSES))
    segmenter.get_submodule("classify").weight.data *= 20  # type: ignore[operator, union-attr]
    training = product_of(instance_of(run, "train-segmenter"))
    assert isinstance(training, Trained)
    training.instance.begin({})
    training.write_weights(segmenter_to_bytes(segmenter, CLASSES, "masks"))
    training.instance.finish({"text": "by hand"})
    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder and one without a suffix of JPEG."""
    for n, name in enumerate(("a.jpg", "b c.png", "sub/a.jpg")):
        draw(tmp_path / "photos" / name, n)
    return tmp_path / "photos"


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)], catch_exceptions=False)


def test_maps_are_those_that_the_segmenter_finds(taught: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = predict(taught, "--data", photos, "--out", out)
    assert done.exit_code == 0, done.output
    recipe = load_recipe(f"{taught}/recipe.yaml")[0]
    weights = Path(Trained(instance_of(taught, "train-segmenter")).instance.file("segmenter.safetensors"))
    segmenter = load_segmenter(weights, recipe.segmenter).segmenter
    maps = out / "label_maps" / "all"
    numbers = set()
    for name in ("a.jpg", "b c.png", "sub/a.jpg"):
        png = Image.open(maps / (name if name.endswith(".png") else f"{name}.png"))
        expected = label_map_of(
            class_probabilities(segmenter, decode_image((photos / name).read_bytes()), recipe.predict_maps).strips()
        )
        assert (np.asarray(png) != expected).mean() < 0.01  # threads may round otherwise
        assert png.mode == "P"
        palette = png.getpalette()
        assert palette is not None
        assert palette[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # VOC's first colours
        numbers |= set(np.unique(expected).tolist())
    assert len(numbers) > 1
    assert (maps / "classes.txt").read_text() == "0 background\n1 cat\n2 a & b\n"
    assert "images 3 · PNGs of class numbers, named in classes.txt" in done.output


def test_pictures_show_the_maps(taught: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "3 pictures with their label maps" in predict(taught, "--data", photos, "--out", out).output
    drawn = {str(path.relative_to(out / "pictures")) for path in (out / "pictures").rglob("*.jpg")}
    assert drawn == {"a.jpg", "b c.png.jpg", "sub/a.jpg"}
    before, after = (Image.open(folder / "a.jpg") for folder in (photos, out / "pictures"))
    assert np.abs(np.asarray(after, int) - np.asarray(before.resize(after.size), int)).max() > 50
    assert (
        "1 pictures with their label maps of 3"
        in predict(taught, "--data", photos, "--out", out, "--pictures", "1").output
    )


def test_what_cannot_be_read_is_counted_and_new_pictures_alone_are_looked_at(
    taught: str, photos: Path, tmp_path: Path
) -> None:
    (photos / "torn.jpg").write_bytes(b"\xff\xd8 torn")
    command = (taught, "--data", photos, "--out", tmp_path / "out", "--max-dropped", "1")
    assert "images 3 (1 dropped) · PNGs" in predict(*command).output
    draw(photos / "later.jpg", 9)
    done = predict(*command)
    assert "1 of 5 images to do" in done.output
    assert "images 4 (1 dropped) · PNGs" in done.output


def test_a_run_predicts_with_what_it_lists_last(taught: str, photos: Path) -> None:
    recipe, name = predictor_of(taught, str(photos))
    assert (name, recipe.stages) == ("predict-maps", ("index", "predict-maps"))
    assert recipe.of(name).predict_maps.splits == ()
    assert recipe.of("train-segmenter").segmenter.weights.uri == Trained(
        instance_of(taught, "train-segmenter")
    ).instance.file("segmenter.safetensors")
    assert recipe.data.pictures_only


def test_superpixels_that_tell_a_run_s_maps_are_made_of_new_pictures_too(
    taught: str, photos: Path, tmp_path: Path
) -> None:
    by_superpixels = "predict_maps.superpixels=superpixels"
    recipe, _ = predictor_of(taught, str(photos), overrides=[by_superpixels])
    assert recipe.stages == ("index", "superpixels", "predict-maps")
    assert recipe.of("superpixels").superpixels.splits == ()
    values = ("--set", by_superpixels, "--set", "superpixels.points_per_side=4")
    done = predict(taught, "--data", photos, "--out", tmp_path / "out", *values)
    assert done.exit_code == 0, done.output
    assert "superpixels" in done.output
    assert "images 3 · PNGs" in done.output
