"""A clue source that is not trained, from the recipe to proposals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines.engine.stage import Options
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.model import load_recipe
from pipelines.registry import active
from pipelines.runner import Run
from tests.support.bright import BrightConfig
from tests.support.voice import Recorder

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
