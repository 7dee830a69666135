"""The analyse stage: questions about the method that the evaluation does not answer, one per label.

``analyse.similarity`` asks how alike the proposals of an image are (Fig. 6), ``analyse.noise`` whether losses tell which pseudo
labels are wrong (Fig. 3, 7); every other label asks whether the clues say *where* (Table 4). Every instance leaves an
``analysis.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pipelines.analyse import noise as analyse_noise
from pipelines.analyse import prompts as analyse_prompts
from pipelines.analyse import similarity as analyse_similarity
from pipelines.engine.stage import Content, Job, Stage
from pipelines.recipe.model import Recipe
from pipelines.store.schemas import PROPOSALS


def question_of(name: str) -> ModuleType:
    """Return the module that answers the question of the instance of this name."""
    by_label: dict[str, ModuleType] = {module.LABEL: module for module in (analyse_noise, analyse_similarity)}
    return by_label.get(name.partition(".")[2], analyse_prompts)


def execute(job: Job) -> dict[str, Any]:
    """Analyse what the instance's label says."""
    return dict(question_of(job.instance.name).execute(job))


def _reads(recipe: Recipe, name: str) -> tuple[str, ...]:
    return tuple(question_of(name).reads(recipe))


def _method(recipe: Recipe, name: str) -> Mapping[str, Any]:
    return dict(question_of(name).method(recipe))


def _contents(recipe: Recipe, name: str) -> Mapping[str, Content]:
    return analyse_similarity.contents(recipe) if question_of(name) is analyse_similarity else {}


STAGE = Stage(
    verb="analyse",
    help="compare the clues with as many random points and with a denser grid (Table 4), proposals with each other (Fig. 6), "
    "or losses with what is wrong in the pseudo labels (Fig. 3, 7)",
    reads=_reads,
    method=_method,
    execute=execute,
    table=PROPOSALS,  # of the controls of Table 4
    contents=_contents,
)
