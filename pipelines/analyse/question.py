"""What a question about the method is: what its answer depends on, and how it is found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from pipelines.engine.product import Facts
from pipelines.engine.stage import Job
from pipelines.products.index import NO_SPLIT, Index, in_hash_order
from pipelines.recipe.model import Recipe
from pipelines.store.tables import Rows
from weaksam.errors import DataError

O = TypeVar("O")  # noqa: E741


class Question(ABC, Generic[O]):
    """A member of ``QUESTIONS``; its options are a dataclass as a stage's are."""

    title: ClassVar[str]
    measures_by_true_boxes: ClassVar[bool] = True

    @abstractmethod
    def options(self, recipe: Recipe) -> O:
        """Return all that the answer depends on; ``recipe`` is what the instance of ``analyse`` sees."""

    def is_idle(self, recipe: Recipe) -> bool:  # noqa: ARG002
        """Whether the recipe gives nothing to ask about."""
        return False

    @abstractmethod
    def run(self, job: Job[O]) -> Facts:
        """Find the answer, write it and print it."""


def analysed_split(split: str, index: Index, data_uri: str) -> str:
    """Return the split to analyse; "auto" is the one that labels were granted to."""
    if split != "auto":
        return split
    if index.granted_split == NO_SPLIT:
        raise DataError(f"analyse.split: auto means the training split, but {data_uri} has none; name a split")
    return index.granted_split


def first_proposed(proposals: Rows, split: str, most: int) -> list[str]:
    """Return the ids of the split's images that have proposals, the first in hash order; ``most`` 0 = all.

    Raises:
        DataError: there are none.
    """
    ids = [row["image_id"] for row in proposals.iter_rows(["image_id", "split"]) if row["split"] == split]
    if not ids:
        raise DataError(f"analyse.split: no image of split {split!r} has proposals; see propose.splits")
    return in_hash_order(ids)[: most or None]
