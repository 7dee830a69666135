"""Clue sources: what says where in an image a class may be, by activation maps (``base.ClueSource``).

A trained one is a network that learns image-level labels: ``loading.py`` builds, writes and reads it, and wraps it into the
multi-scale inference of ``cam.py``. Another one is made as it is. ``gating.py`` says for which classes maps are made. To add
one: a file with its options (``ClueSourceConfig``) and what they name, and a line in ``CLUES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weaksam.registry import Registry

if TYPE_CHECKING:
    from weaksam.config import ClueSourceConfig

# Options, which name their ``ClueNetwork``, or what makes the ``ClueSource``.
CLUES: Registry[type[ClueSourceConfig]] = Registry(
    "weaksam.clues",
    {
        "none": "weaksam.config.clues:NoCluesConfig",
        "weaktr": "weaksam.config.clues:WeakTrConfig",
        "resnet_cam": "weaksam.config.clues:ResNetCamConfig",
        "lite_cam": "weaksam.config.clues:LiteCamConfig",
        "clip_es": "weaksam.config.clues:ClipEsConfig",
    },
)
