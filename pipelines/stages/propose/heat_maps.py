"""The activation maps behind proposals, computed anew for the few images that a page shows: a run keeps none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.dataflow.rows import one_thread
from pipelines.page.shown_run import ShownRun
from pipelines.products.index import Index, Indexed
from pipelines.registry import asked_of
from pipelines.stages.propose.actors import prompter
from pipelines.stages.propose.stage import ProposeOptions, class_names_of, clue_weights_of, gating_labels, uses_clues
from weaksam.structures import ClassMaps, in_table_order

if TYPE_CHECKING:
    from weaksam.proposals.proposer import Proposer

HeatMaps = Mapping[
    tuple[int, str], NDArray[np.float32]
]  # class index, source ("fine", "coarse", "cross") -> map [H, W]


class HeatMapper:
    """The clue source of an instance of ``propose``; it is loaded once the first maps are asked for, and works on the CPU.

    Args:
        run: whose page is made.
        name: of the instance. One that saw no clues has no maps.
    """

    def __init__(self, run: ShownRun, name: str) -> None:
        self._run = run
        self._options = asked_of(run.recipe, name)[1]

    def maps(self, image_id: str, image: NDArray[np.uint8]) -> HeatMaps:
        """Return the maps, in [0, 1], of the classes for which an image was prompted; of several maps of a source, their mean.

        Args:
            image_id: of the image, whose labels may say which classes these are.
            image: ``[H, W, 3]`` RGB, upright.

        Raises:
            WeaksamError: the clue source's weights are not to be had, or are those of another network.
        """
        found: dict[tuple[int, str], NDArray[np.float32]] = {}
        if not isinstance(self._options, ProposeOptions) or not uses_clues(self._options):  # the former of an import
            return found

        def keep(of_class: ClassMaps) -> None:
            for source in in_table_order(of_class.maps):
                of_source = of_class.maps[source]
                found[of_class.class_index, source] = of_source.mean(dim=0).clamp(0, 1).cpu().numpy()

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
        return prompter(self._options.method, weights, class_names, "cpu")

    def _labels(self, image_id: str) -> list[int] | None:
        for column in gating_labels(self._options):
            images = self._indexed.images
            labels: list[int] | None = images.filter(pc.equal(images["image_id"], image_id))[column][0].as_py()
            return labels
        return None
