"""Clue sources: networks trained on image-level labels whose activation maps say where to prompt.

``loading.py`` builds, writes and reads a network of ``CLUES``, and wraps it into the multi-scale inference of ``cam.py``;
``gating.py`` says for which classes that runs. To add one: a file with a ``ClueNetwork``, a line in ``CLUES``, a config of
that name in ``ClassifierConfig``, the name in ``CluesConfig``, the maps it makes in ``CLUE_KINDS`` of the recipe's model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weaksam.registry import Registry

if TYPE_CHECKING:
    from weaksam.clues.base import ClueNetwork

CLUES: Registry[type[ClueNetwork]] = Registry(
    "weaksam.clues",
    {
        "weaktr": "weaksam.clues.weaktr:WeakTr",
        "resnet_cam": "weaksam.clues.resnet_cam:ResNetCam",
    },
)
