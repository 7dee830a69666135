"""Weights that are overwritten: the key of what they make changes, and no actor loads others than the driver saw."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from pipelines.bringing import Resolved
from pipelines.engine.stage import Job, Options
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.stages.propose import stage as propose
from pipelines.stages.propose.actors import ActorSpec, Prompting, SegmentActor
from pipelines.store.files import write_bytes
from pipelines.training.trained import weights_of_job
from tests.support.drawn_run import job_for
from tests.support.s3_server import s3_server
from tests.support.web_server import web_server
from weaksam.config.weights import NO_WEIGHTS, PlacedWeights, Weights, WeightsConfig
from weaksam.errors import CheckpointError
from weaksam.io.weights import PUBLISHED
from weaksam.sam.small import build_small_sam

SHAPES = ("data.shapes.train=2", "data.shapes.val=1", "data.shapes.test=0", "data.shapes.size=32")
SETTINGS = (*SHAPES, "sam.name=builtin", "prompts.points_per_side=2", "resources.here=true")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))


def random_sam(seed: int) -> bytes:
    torch.manual_seed(seed)
    return save(build_small_sam().state_dict())


@contextmanager
def place_for(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """A place for weights: its address to read and to write."""
    (folder / "site").mkdir()
    if name == "bucket":
        with s3_server() as bucket:
            yield bucket, bucket
    elif name == "disk":
        yield str(folder / "site"), str(folder / "site")
    else:
        with web_server(folder / "site", name) as server:
            yield server.uri, str(folder / "site")


def recipe(*settings: str) -> Recipe:
    return load_recipe("grid", [*SETTINGS, *settings], "shapes:")[0]


def actor_of(resolved: Resolved) -> SegmentActor:
    assert isinstance(resolved.options.method, Prompting)
    spec = ActorSpec(
        instance=resolved.instance,
        how=resolved.options.method,
        clue_weights=NO_WEIGHTS,
        class_names=(),
        threads=1,
        device="cpu",
    )
    return SegmentActor(spec)


def is_loaded(actor: SegmentActor, weights: bytes) -> bool:
    """Whether the actor's SAM has the weights of a safetensors file."""
    sam = actor._proposer.sam
    assert sam is not None
    state = sam.state_dict()
    return all(torch.equal(state[name], tensor) for name, tensor in load(weights).items())


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "Last-Modified", "ETag", "bucket"])
def test_new_weights_at_an_address_are_loaded_under_another_key(tmp_path: Path, place: str) -> None:
    keys = set()
    with place_for(place, tmp_path) as (at, write_at):
        for seed in (1, 2):
            write_bytes(f"{write_at}/sam.safetensors", random_sam(seed))
            resolved = Run(recipe(f"sam.weights={at}/sam.safetensors"), str(tmp_path)).resolve("propose")
            assert is_loaded(actor_of(resolved), random_sam(seed))
            keys.add(resolved.instance.key)
    assert len(keys) == 2


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "ETag", "bucket"])
def test_weights_overwritten_between_the_driver_and_an_actor_end_the_run(tmp_path: Path, place: str) -> None:
    with place_for(place, tmp_path) as (at, write_at):
        weights = f"{at}/sam.safetensors"
        asked = recipe(f"sam.weights={weights}", f"weights.cache={tmp_path}/driver")
        write_bytes(f"{write_at}/sam.safetensors", random_sam(1))
        run = Run(asked, f"{tmp_path}/run")
        seen = run.resolve("propose").parts["fingerprints"]["sam"]
        shutil.rmtree(tmp_path / "driver", ignore_errors=True)  # the actors are elsewhere
        write_bytes(f"{write_at}/sam.safetensors", random_sam(2))
        new = hashlib.sha256(random_sam(2)).hexdigest()
        said = f"{weights}: expected SHA-256 {seen}, which this run began with, got {new}: .* start the run again"
        with pytest.raises(CheckpointError, match=said):
            run.bring(["propose"], Options())
        again = Run(asked, f"{tmp_path}/run")
        manifest = again.bring(["propose"], Options())["propose"]
        assert manifest["fingerprints"] == {"sam": new}
        assert again.instance("propose").key != run.instance("propose").key


def test_where_weights_are_looked_for_and_kept_is_in_no_key(tmp_path: Path) -> None:
    keys = {
        Run(recipe(*settings), str(tmp_path)).instance("propose").key
        for settings in ((), ("weights.mirror=s3://mirror",), (f"weights.cache={tmp_path}",))
    }
    assert len(keys) == 1


def test_published_weights_need_no_download_to_be_in_the_key(tmp_path: Path) -> None:
    resolved = Run(recipe("sam.name=vit_h"), str(tmp_path)).resolve("propose")
    assert resolved.parts["fingerprints"] == {"sam": PUBLISHED["vit_h"].sha256}
    assert resolved.options.method.sam.weights.uri == PUBLISHED["vit_h"].uri
    assert resolved.options.method.sam.weights.seen == PUBLISHED["vit_h"].sha256


def test_all_weights_of_a_stage_go_through_the_places_of_the_recipe(tmp_path: Path) -> None:
    places = WeightsConfig(mirror="/mirror", cache=str(tmp_path))
    detector = tmp_path / "d.safetensors"
    detector.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    settings = [f"weights.mirror={places.mirror}", f"weights.cache={places.cache}", f"mil.weights={detector}"]
    options = Run(load_recipe("shapes", [*SHAPES, *settings])[0], "/run").resolve("detect.mil").options
    expected = PlacedWeights(str(detector), places=places, seen=digest)
    assert options.weights == options.detector.weights == expected
    assert options.detector.init == PlacedWeights(
        "builtin:stem", places=places
    )  # nobody loads it where a detector is given


def _model_weights(job: Job[Any]) -> Weights:
    return weights_of_job(job, job.options.model, job.options.weights)


def _clue_weights(job: Job[Any]) -> Weights:
    return propose.clue_weights_of(job.options, job.inputs)


@pytest.mark.parametrize(
    ("name", "trained", "file", "weights_of"),
    [
        ("detect.mil", "train-mil", "detector.safetensors", _model_weights),
        ("propose", "train-classifier", "classifier.safetensors", _clue_weights),
    ],
)
def test_what_this_run_trained_is_the_same_file_for_every_actor(
    tmp_path: Path, name: str, trained: str, file: str, weights_of: Callable[[Job[Any]], Weights]
) -> None:
    job = job_for(load_recipe("shapes", list(SHAPES))[0], str(tmp_path), name, (trained,))
    path = tmp_path / trained / "k" / file
    write_bytes(str(path), b"trained")
    weights = weights_of(job)
    assert weights.fetch().path == path
    write_bytes(str(path), b"trained again")
    with pytest.raises(CheckpointError, match=f"{path}: expected SHA-256 .*, which this run began with"):
        weights.fetch()


def test_the_driver_says_what_a_mirror_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = recipe("sam.name=vit_h", f"weights.mirror={tmp_path}")
    job = job_for(asked, "/run", "propose", ()).with_options(Run(asked, "/run").resolve("propose").options)
    propose._say_missed(job)
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}/sam_vit_h_4b8939.pth: FileNotFoundError")
    assert said.endswith(f"{PUBLISHED['vit_h'].uri} is fetched instead, on each node that has no copy")
    (tmp_path / "sam_vit_h_4b8939.pth").touch()
    propose._say_missed(job)
    assert len(caplog.messages) == 1
