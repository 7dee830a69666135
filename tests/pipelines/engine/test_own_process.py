"""Stages in the driver's own process: the same tables as ever, without Ray."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.engine import ray_session
from pipelines.engine.reach import Reach, reach
from pipelines.engine.stage import Options
from pipelines.engine.voice import SILENT
from pipelines.recipe.config import ResourcesConfig
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.stages.retrain.stage import TrainedDetector
from pipelines.store.instances import Instance
from pipelines.store.schemas import DETECTIONS, DROPPED, IMAGES, PROPOSALS, detections_from_row
from pipelines.store.tables import Table
from pipelines.training.fit import choose_resources
from tests.support.tolerances import assert_near, roundings_in
from tests.support.upstream import RECIPE, finish_upstream
from tests.support.voice import Recorder
from weaksam.datasets.shapes import CLASS_NAMES
from weaksam.detectors.inference import detect_alone
from weaksam.detectors.loading import build_retrained, detector_to_bytes
from weaksam.errors import ConfigError
from weaksam.io.files import read_bytes
from weaksam.io.images import decode_image
from weaksam.masks_np import decode_rle
from weaksam.structures import IMAGE_LABELS

GRID = [
    "data.shapes.train=5", "data.shapes.val=0", "data.shapes.test=0", "data.shapes.size=64",
    "prompts.points_per_side=3", "resources.here=true", "resources.cpus=1",
]  # fmt: skip


def propose(out: Path, *settings: str) -> tuple[Instance, Recorder]:
    recipe, _ = load_recipe("grid", [*GRID, *settings], "shapes:")
    voice = Recorder()
    Run(recipe, str(out)).bring(["propose"], Options(max_dropped="1"), voice)
    return Run(recipe, str(out)).instance("propose"), voice


def rows(instance: Instance):
    return instance.table(PROPOSALS).read().sort_by("image_id")


def test_a_table_stage_needs_no_ray_and_goes_on_where_it_stopped(tmp_path):
    instance, voice = propose(tmp_path / "one", "resources.rows_per_task=1")
    assert "5 of 5 images to do; in this process, 1 thread(s), 1 images at a time" in voice.text
    assert voice.counted == [("propose", 5, 0, 5)]  # before and after
    whole = rows(instance)
    assert whole.num_rows == 5
    assert sum(len(boxes) for boxes in whole["boxes_xyxy"].to_pylist()) > 5
    parts = sorted(Path(instance.folder).glob("part-*.parquet"))
    for path in [*parts[:2], Path(instance.manifest_uri)]:
        path.unlink()
    _, voice = propose(tmp_path / "one", "resources.rows_per_task=4")
    assert "2 of 5 images to do" in voice.text
    assert voice.counted == [("propose", 5, 3, 5)]
    assert rows(instance).equals(whole)
    assert set(parts[2:]) < set(Path(instance.folder).glob("part-*.parquet"))


def test_selective_search_of_several_images_at_once_is_that_of_one_after_the_other(tmp_path):
    small = ("selective_search.min_side=4", "selective_search.resize_width=0")
    search = ("propose.method=selective-search", *small, "resources.rows_per_task=4")
    one, voice = propose(tmp_path / "one", *search)
    assert "1 thread(s), 4 images at a time" in voice.text
    several, voice = propose(tmp_path / "several", *search, "resources.cpus=3")
    assert "3 thread(s), 4 images at a time" in voice.text
    unrated = "predicted_iou"  # NaN, which equals nothing
    assert rows(several).drop_columns(unrated).equals(rows(one).drop_columns(unrated))
    assert rows(one).num_rows == 5


def test_a_bad_image_is_dropped_with_its_reason(tmp_path):
    recipe, _ = load_recipe("grid", GRID, "shapes:")
    Run(recipe, str(tmp_path)).bring(["index"], Options())
    index = Run(recipe, str(tmp_path)).instance("index").table(IMAGES)
    table = index.read()
    listed = table.to_pylist()
    listed[2]["uri"] = str(tmp_path / "nowhere.png")
    index.remove_all()
    index.write_part(table.from_pylist(listed, schema=table.schema), "part-0")
    instance, _ = propose(tmp_path)
    assert instance.table(PROPOSALS).count() == 4
    (gone,) = Table(instance.file("_dropped"), DROPPED).read().to_pylist()
    assert (gone["image_id"], gone["reason"]) == (listed[2]["image_id"], "missing")


@pytest.mark.slow
def test_a_whole_chain_runs_where_ray_cannot_be_imported(tmp_path):
    settings = [argument for setting in GRID for argument in ("--set", setting)]
    command = ["run", "grid", "--data", "shapes:", "--out", str(tmp_path), "--until", "evaluate.proposals", *settings]
    code = (
        f"import sys; sys.modules['ray'] = None; sys.argv[1:] = {command!r}; from pipelines.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "images 5 = done 5 + dropped 0" in done.stdout


@pytest.mark.parametrize("detector", ["name: faster_rcnn", "name: mask_rcnn, mask_dims: [8]"])
def test_what_a_detector_finds_in_mirror_images_is_told_of_the_images_themselves(tmp_path, detector):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("detector: {", f"detector: {{{detector}, "))
    recipe, _ = load_recipe(str(tmp_path / "recipe.yaml"), ["resources.here=true", "resources.cpus=1"], "shapes:")
    run = str(tmp_path / "run")
    finish_upstream(recipe, run)
    torch.manual_seed(0)
    taught = build_retrained(recipe.retrain, 6).eval()
    for name in Run(recipe, run).needed_for("retrain")[-2:]:  # label, retrain
        resolved = Run(recipe, run).resolve(name)
        resolved.instance.begin(resolved.parts)
        TrainedDetector(resolved.instance).write_weights(detector_to_bytes(taught, CLASS_NAMES, IMAGE_LABELS))
        resolved.instance.finish({"reads": resolved.read(), "text": "by hand", "supervision": IMAGE_LABELS})
    Run(recipe, run).bring(["detect.final-plain", "detect.final-mirrored"], Options())
    index = Run(recipe, run).instance("index").table(IMAGES)
    images = {row["image_id"]: row["uri"] for row in index.iter_rows()}
    found = {
        view: {
            row["image_id"]: detections_from_row(row)
            for row in Run(recipe, run).instance(f"detect.final-{view}").table(DETECTIONS).iter_rows()
        }
        for view in ("plain", "mirrored")
    }
    taught.config = replace(recipe.retrain, test=replace(recipe.retrain.test, flip=False))
    for image_id, detections in found["mirrored"].items():
        image = decode_image(read_bytes(images[image_id]))
        expected = detect_alone(taught, np.ascontiguousarray(image[:, ::-1]))
        x1, y1, x2, y2 = expected.boxes_xyxy.T
        turned = np.stack([64 - x2, y1, 64 - x1, y2], axis=1)
        assert_near(detections.boxes_xyxy, turned, length=roundings_in(taught), magnitude=64.0)
        assert_near(detections.score, expected.score, length=roundings_in(taught))
        if expected.mask_rle is not None:
            masks, turned_masks = (np.stack([decode_rle(rle) for rle in of.mask_rle]) for of in (detections, expected))
            # A pixel at the rim may fall to either side.
            assert (masks != turned_masks[:, :, ::-1]).sum() <= 0.01 * turned_masks.sum()
            assert turned_masks.sum() > 100
        plain = detect_alone(taught, image)
        assert_near(found["plain"][image_id].boxes_xyxy, plain.boxes_xyxy, length=roundings_in(taught), magnitude=64.0)


def test_here_means_no_worker_and_a_gpu_only_if_asked():
    sizes = choose_resources(ResourcesConfig(here=True), 4, Reach(cpus=3, gpus=0, least_cpus=3), [])
    assert (sizes.workers, sizes.threads, sizes.use_gpu, sizes.loaders) == (0, 3, False, 0)
    on_gpu = ResourcesConfig(here=True, cpus=3, gpus_per_actor=1)
    sizes = choose_resources(on_gpu, 4, reach(on_gpu, SILENT), [])
    assert (sizes.workers, sizes.threads, sizes.use_gpu, sizes.loaders) == (0, 3, True, 2)
    assert reach(on_gpu, SILENT) == Reach(cpus=3, gpus=1, least_cpus=3)
    assert reach(ResourcesConfig(here=True, cpus=3, device="gpu"), SILENT).device == "gpu"
    assert reach(ResourcesConfig(here=True, cpus=3), SILENT).device == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(
        ConfigError, match=r"resources\.gpus_per_actor: expected 0, because torch finds no GPU here, got 1"
    ):
        ray_session.connect(ResourcesConfig(here=True, gpus_per_actor=1))


@pytest.mark.parametrize("setting", [{"train_workers": 2}, {"segment_actors": 3}, {"gpus_per_actor": 0.5}])
def test_here_refuses_what_it_would_have_to_ignore(setting):
    with pytest.raises(ConfigError, match=r"\w+: expected none beside here"):
        ResourcesConfig(here=True, **setting)
    with pytest.raises(ConfigError, match="expected no --address beside it, got auto"):
        ray_session.connect(ResourcesConfig(here=True), "auto")
