"""DINO, a detection transformer, with query drop: ``model.py`` is the network, ``criterion.py`` what it is taught."""

from weaksam.detectors.retrained.dino.model import Dino

__all__ = ["Dino"]
