"""A clue source that is not trained, from the recipe to proposals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.dataflow.rows import FETCHED
from pipelines.engine.stage import Options
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.model import load_recipe
from pipelines.registry import active
from pipelines.runner import Run
from pipelines.stages.propose.actors import ActorSpec, PromptActor, Prompting, ProposeActor, SegmentActor
from tests.support.bright import BrightConfig
from tests.support.broken_files import encode
from tests.support.sams import noise
from tests.support.sets import instance_of
from tests.support.voice import Recorder
from weaksam.config import ClipEsConfig, CluesConfig, PromptsConfig, ProposalsConfig, SamConfig
from weaksam.config.weights import NO_WEIGHTS
from weaksam.errors import ConfigError

SMALL = [
    "resources.here=true", "resources.cpus=1", "data.splits=[train]", "data.shapes.train=2", "data.shapes.size=64",
    "prompts.sources=[grid, coarse]", "prompts.points_per_side=2",
]  # fmt: skip


def test_a_source_without_training_prompts_sam_and_no_classifier_is_trained(tmp_path: Path) -> None:
    recipe = load_recipe("shapes", SMALL)[0]
    recipe = recipe.model_copy(update={"clues": replace(recipe.clues, source=BrightConfig(gamma=2.0))})
    assert "train-classifier" not in active(recipe)
    run = Run(recipe, str(tmp_path))
    assert run.needed_for("propose") == ["index", "propose"]
    run.bring(["propose"], Options(), Recorder())
    rows = ProposalTable(run.instance("propose")).table.read().to_pylist()
    assert len(rows) == 2
    assert all("coarse" in row["source"] or "coarse" in row["prompt_source"] for row in rows)
    other = recipe.model_copy(update={"clues": replace(recipe.clues, source=BrightConfig(gamma=1.0))})
    assert Run(other, str(tmp_path)).instance("propose").key != run.instance("propose").key


@pytest.mark.parametrize("given", ["clues.source.name=clip_es", "clues.weights=cam.safetensors"])
def test_no_classifier_is_measured_where_none_is_trained(given: str) -> None:
    trains, trains_none = (load_recipe("photos-sam", asked)[0] for asked in ([], [given]))
    assert set(active(trains)) - set(active(trains_none)) == {"train-classifier", "evaluate.classifier"}


def test_what_a_recipe_leaves_open_of_clip_is_as_published() -> None:
    given = ["clues.source.clip.weights=own.safetensors", "clues.source.affinity.threshold=0.7"]
    own, published = (
        load_recipe("photos-sam", ["clues.source.name=clip_es", *more])[0].clues.source for more in (given, [])
    )
    assert isinstance(own, ClipEsConfig)
    assert isinstance(published, ClipEsConfig)
    assert own.clip.background == published.clip.background
    assert len(own.clip.background) == 25
    assert (own.affinity.rounds, own.affinity.threshold, published.affinity.threshold) == (3, 0.7, 0.4)


def test_a_classifier_that_cannot_be_trained_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    recipe = load_recipe("shapes", [*SMALL, "clues.source.name=clip_es"])[0]
    with pytest.raises(ConfigError, match="expected one that is trained on image labels, got clip_es"):
        Run(recipe, str(tmp_path)).bring(["train-classifier"], Options(), Recorder())


def test_one_actor_with_both_networks_proposes_what_one_of_each_does(tmp_path: Path) -> None:
    instance = instance_of(str(tmp_path), "propose")
    how = Prompting(
        clues=CluesConfig(source=BrightConfig(gamma=2.0), gating="predicted"),
        prompts=PromptsConfig(sources=("grid", "coarse"), points_per_side=2),
        sam=SamConfig(name="builtin"),
        proposals=ProposalsConfig(),
    )
    spec = ActorSpec(
        instance=instance, how=how, clue_weights=NO_WEIGHTS, class_names=("a", "b"), threads=1, device="cpu"
    )
    images = {f"image {seed}": encode(Image.fromarray(noise(40 + seed, 60)), "PNG") for seed in range(3)}
    rows = [
        {"image_id": name, "input": "i", "uri": name, "labels": None, "bytes": data, "reason": None, "detail": None}
        for name, data in images.items()
    ]
    rows[1] |= {"bytes": None, "reason": "not an image"}
    batch = pa.Table.from_pylist(rows, schema=FETCHED)
    apart = SegmentActor(spec)(PromptActor(spec)(batch))
    together = ProposeActor(spec)
    assert together(batch).equals(apart)
    assert apart["image_id"].to_pylist() == ["image 0", "image 2"]
    together._spec = replace(spec, device="cuda")  # as on a GPU, where threads prepare the next images
    assert together(batch).equals(apart)
