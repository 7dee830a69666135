"""The activation maps behind proposals, or of a classifier alone, computed anew for the few images that a page shows.

A run keeps none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from pipelines.dataflow.rows import one_thread
from pipelines.page.shown_run import ShownRun
from pipelines.products.index import Index, Indexed
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.keys import Input
from pipelines.recipe.model import Recipe
from pipelines.registry import asked_of
from pipelines.stages.propose.actors import Prompting, prompter
from pipelines.stages.propose.stage import (
    ProposeOptions,
    class_names_of,
    clue_weights_of,
    gating_labels,
    uses_clues,
)
from pipelines.stages.train_classifier.trained import TrainedClassifier
from weaksam.config import SamConfig
from weaksam.structures import ClassMaps, in_table_order

if TYPE_CHECKING:
    from weaksam.proposals.proposer import Proposer

HeatMaps = Mapping[
    tuple[int, str], NDArray[np.float32]
]  # class index, source ("fine", "coarse", "cross") -> map [h, w], as large as it is shown


def heat_mappers(run: ShownRun) -> dict[str, HeatMapper]:
    """Return what makes the maps of a run, by instance: of the proposals that saw clues, else of the classifiers it trained."""
    asked = {name: asked_of(run.recipe, name)[1] for name in run.of_kind(ProposalTable)}  # or of an import
    seeing = {name: o for name, o in asked.items() if isinstance(o, ProposeOptions) and uses_clues(o)}
    if not seeing:
        seeing = {name: _as_clues(run.recipe.of(name), name) for name in run.of_kind(TrainedClassifier)}
    return {name: HeatMapper(run, options) for name, options in seeing.items()}


def _as_clues(recipe: Recipe, name: str) -> ProposeOptions:
    """Return the options of proposals that would see a classifier's maps; the SAM in them is any, for no map needs it."""
    clues = recipe.clues.once_trained
    any_sam = SamConfig(precision="tf32" if clues.cam.precision == "tf32" else "exact")
    return ProposeOptions(
        classifier=Input(name),
        splits=(),
        method=Prompting(clues=clues, prompts=recipe.prompts, sam=any_sam, proposals=recipe.proposals),
        longest_side=0,
        resources=recipe.resources,
    )


class HeatMapper:
    """A clue source; it is loaded once the first maps are asked for, and works on the CPU.

    Args:
        run: whose page is made.
        options: of proposals that see its clues.
    """

    def __init__(self, run: ShownRun, options: ProposeOptions) -> None:
        self._run = run
        self._options = options

    def maps(self, image_id: str, image: NDArray[np.uint8]) -> HeatMaps:
        """Return the maps, in [0, 1], of the classes for which an image was prompted; of several maps of a source, their mean.

        They are no larger than the page shows them: of a photograph of 48 million pixels one alone would take 200 MB.

        Args:
            image_id: of the image, whose labels may say which classes these are.
            image: ``[H, W, 3]`` RGB, upright.

        Raises:
            WeaksamError: the clue source's weights are not to be had, or are those of another network.
        """
        found: dict[tuple[int, str], NDArray[np.float32]] = {}
        side = self._run.recipe.report.gallery_side

        def keep(of_class: ClassMaps) -> None:
            for source in in_table_order(of_class.maps):
                of_source = of_class.maps[source]
                heat = Image.fromarray(of_source.mean(dim=0).clamp(0, 1).cpu().numpy())
                heat.thumbnail((side, side), Image.Resampling.BILINEAR)
                found[of_class.class_index, source] = np.asarray(heat)

        with one_thread():
            self._prompter.prompt(image, self._labels(image_id), on_maps=keep)
        return found

    @cached_property
    def _indexed(self) -> Indexed:
        index = self._run.products[self._options.index]
        assert isinstance(index, Index)
        return Indexed.of(index)

    @cached_property
    def _prompter(self) -> Proposer:
        weights = clue_weights_of(self._options, self._run.products)
        class_names = self._indexed.class_names or class_names_of(self._options, weights)
        assert isinstance(self._options.method, Prompting)
        return prompter(self._options.method, weights, class_names, "cpu")

    def _labels(self, image_id: str) -> list[int] | None:
        for column in gating_labels(self._options):
            images = self._indexed.images
            labels: list[int] | None = images.filter(pc.equal(images["image_id"], image_id))[column][0].as_py()
            return labels
        return None
