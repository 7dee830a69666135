"""What an instance of ``report`` depends on."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.recipe.config import ReportConfig
from pipelines.recipe.keys import INDEX, Input, Inputs
from pipelines.recipe.model import Recipe
from weaksam.config import DataConfig
from weaksam.config.weights import NotInKey


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What is shown, and how. How often the page is made follows from what it shows, the recipe's own words among it."""

    index: Input = INDEX
    shown: Inputs
    report: ReportConfig
    title: str
    description: str
    data: DataConfig
    sections: tuple[str, ...]
    recipe: NotInKey[Recipe]
