"""Whose maps become seeds: those of prompts of CLIP, or of a classifier that is trained on image labels.

Apart from the stage, which is imported without torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam.clues.base import ClueNetwork
from weaksam.clues.cam import MultiScaleCam
from weaksam.clues.loading import load_classifier
from weaksam.config import CamConfig, ClipConfig, SeedConfig, Weights
from weaksam.errors import DataError
from weaksam.networks.clip.load import load_clip
from weaksam.segmentation.class_maps import ClassMapper, PromptMapper
from weaksam.segmentation.prompted import load_prompts


class ClassifierMapper:
    """The maps of a classifier over its scales and mirror images, each stretched to [0, 1]; a ``ClassMapper``.

    Fine maps where the classifier has them, coarse ones otherwise.

    Args:
        network: on its device.
        class_names: C, of the data, which are the network's.
        config: scales and precision.
    """

    def __init__(self, network: ClueNetwork, class_names: Sequence[str], config: CamConfig) -> None:
        self._kind = "fine" if "fine" in network.kinds else "coarse"
        self._device = next(network.parameters()).device
        self._source = MultiScaleCam(
            network,
            class_names=class_names,
            class_slots=range(len(class_names)),
            kinds=(self._kind,),
            config=config,
        )

    def __call__(self, image: NDArray[np.uint8], class_index: Sequence[int]) -> Tensor:
        """Return the maps of the classes that an image shows; see ``ClassMapper``."""
        found = [of.maps[self._kind] for of in self._source.class_maps(image, class_index)]
        return torch.cat(found) if found else torch.zeros(0, *image.shape[:2], device=self._device)


def class_mapper(
    how: ClipConfig | CamConfig, model: Weights, config: SeedConfig, class_names: tuple[str, ...], device: str
) -> ClassMapper:
    """Return what computes the maps of one image after the other.

    Args:
        how: of CLIP, to which ``model`` is prompts; or of the maps of ``model``, a classifier.
        model: weights that a stage of this project trained.
        config: how maps of prompts are made.
        class_names: of the data.
        device: where it computes.

    Raises:
        CheckpointError: ``model`` or CLIP is missing or of another kind.
        DataError: ``model`` knows other classes.
    """
    path = model.fetch().path
    mapper: ClassMapper
    if isinstance(how, ClipConfig):
        prompted, known = load_prompts(path, load_clip(how))
        _check_classes(known, class_names, model)
        mapper = PromptMapper(prompted.to(device), config)
    else:
        network, known = load_classifier(path)
        _check_classes(known, class_names, model)
        mapper = ClassifierMapper(network.to(device), class_names, how)
    return mapper


def _check_classes(known: tuple[str, ...], class_names: tuple[str, ...], model: Weights) -> None:
    if known != class_names:
        raise DataError(
            f"{model}: expected maps of the classes {', '.join(class_names)}, got those of {', '.join(known) or 'none'}; "
            "train it on this data"
        )
