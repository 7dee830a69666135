"""The analyse stage: questions about the method that the evaluation does not answer, see ``QUESTIONS``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.analyse import QUESTIONS
from pipelines.engine.product import Facts
from pipelines.engine.stage import Job, Stage
from pipelines.products.measured import Analysis
from pipelines.recipe.keys import inputs_of
from pipelines.recipe.model import Recipe


@dataclass(frozen=True, kw_only=True)
class AnalyseOptions:
    """A question, and what its answer depends on."""

    question: str
    about: Any


class AnalyseStage(Stage[AnalyseOptions]):
    """See the module."""

    verb = "analyse"
    help = "Answer a question about the method.\n\n" + " ".join(
        f"`--label {name}`: {question.title}" for name, question in QUESTIONS.items()
    )
    product = Analysis

    def is_idle(self, recipe: Recipe, name: str) -> bool:  # noqa: ARG002
        """Whether the recipe gives nothing to ask about."""
        return QUESTIONS[recipe.analyse.question].is_idle(recipe)

    def options(self, recipe: Recipe, name: str) -> AnalyseOptions:  # noqa: ARG002
        """Let the question look up what its answer depends on."""
        question = recipe.analyse.question
        return AnalyseOptions(question=question, about=QUESTIONS[question].options(recipe))

    def measures_by_true_boxes(self, recipe: Recipe) -> bool:
        """Whether the question is one about true boxes."""
        return QUESTIONS[recipe.analyse.question].measures_by_true_boxes

    def reads(self, options: AnalyseOptions) -> tuple[str, ...]:
        """Return what the question reads."""
        return inputs_of(options.about)

    def run(self, job: Job[AnalyseOptions]) -> Facts:
        """Answer the question."""
        return QUESTIONS[job.options.question].run(job.with_options(job.options.about))


STAGE = AnalyseStage()
