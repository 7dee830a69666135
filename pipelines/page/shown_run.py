"""What the sections of a run's page see of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.product import Product
from pipelines.recipe.model import Recipe, label_of, verb_of
from pipelines.registry import active
from weaksam.datasets.label_maps import TrueLabelMaps
from weaksam.structures import GroundTruth

P = TypeVar("P", bound=Product[Any])


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """A run as far as it has come: sections show what is there, and make nothing."""

    recipe: Recipe
    uri: str
    products: Mapping[str, Product[Any]]  # by instance name, in the recipe's order; the page itself is not among them
    ground_truth: Callable[[str], Mapping[str, GroundTruth]]  # split -> image id -> true objects; empty if not known
    true_masks: Callable[[str], Mapping[str, GroundTruth]]  # the same with their masks, where annotations state any
    true_label_maps: Callable[[str], TrueLabelMaps]  # of a split
    # Image id -> upright RGB image [H, W, 3]; raises ImageError for one that cannot be read any more.
    read_image: Callable[[str], NDArray[np.uint8]]

    def of_kind(self, *kinds: type[P]) -> dict[str, P]:
        """Return what the instances of some kinds left behind, by name."""
        return {name: product for name, product in self.products.items() if isinstance(product, kinds)}


def shown_instances(recipe: Recipe) -> tuple[str, ...]:
    """Return the instances that a recipe's page shows: those that the recipe makes, and the index."""
    return tuple(dict.fromkeys(("index", *(name for name in active(recipe) if verb_of(name) != "report"))))


def short_name(name: str) -> str:
    """Return what a page calls an instance: its label, or its verb where it has none."""
    return label_of(name) or name


def heading(name: str, split: str) -> str:
    """Say what an instance's figures are of: its label and the split."""
    return f"{short_name(name)} on {split}"


def of_several(instances: Mapping[str, Any], name: str) -> str:
    """Return an instance's name where there are several of its kind to tell apart, else ""."""
    return name if len(instances) > 1 else ""
