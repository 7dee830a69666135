"""Questions about the method that the evaluation does not answer, a file for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weaksam.registry import Registry

if TYPE_CHECKING:
    from pipelines.analyse.question import Question

QUESTIONS: Registry[Question[Any]] = Registry(
    "weaksam.questions",
    {
        "prompts": "pipelines.analyse.prompts:QUESTION",
        "similarity": "pipelines.analyse.similarity:QUESTION",
        "noise": "pipelines.analyse.noise:QUESTION",
    },
)
