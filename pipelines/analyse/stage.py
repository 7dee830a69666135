"""The analyse stage: questions about the method that the evaluation does not answer.

"prompts" asks whether the clues say *where* (Table 4), "similarity" how alike the proposals of an image are (Fig. 6), "noise"
whether losses tell which pseudo labels are wrong (Fig. 3, 7). Every instance leaves an ``analysis.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pipelines.analyse import noise, prompts, similarity
from pipelines.engine.stage import Content, Job, Stage
from pipelines.recipe.model import Recipe
from pipelines.store.schemas import PROPOSALS


def question_of(recipe: Recipe) -> ModuleType:
    """Return the module that answers an instance's question; ``recipe`` is what the instance sees."""
    modules: dict[str, ModuleType] = {"prompts": prompts, "similarity": similarity, "noise": noise}
    return modules[recipe.analyse.question]


def execute(job: Job) -> dict[str, Any]:
    """Answer the instance's question."""
    return dict(question_of(job.recipe).execute(job))


def _reads(recipe: Recipe, _name: str) -> tuple[str, ...]:
    return tuple(question_of(recipe).reads(recipe))


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    return dict(question_of(recipe).method(recipe))


def _contents(recipe: Recipe, _name: str) -> Mapping[str, Content]:
    return similarity.contents(recipe) if question_of(recipe) is similarity else {}


STAGE = Stage(
    verb="analyse",
    help="Answer a question about the method.\n\n"
    "`--label prompts`: is each clue source better than random points and a denser grid (Table 4)? `--label similarity`: how "
    "alike does the detector see an image's proposals (Fig. 6)? `--label noise`: do losses tell which pseudo labels are wrong "
    "(Fig. 3, 7)?",
    reads=_reads,
    method=_method,
    execute=execute,
    table=PROPOSALS,  # of the controls of Table 4
    contents=_contents,
)
