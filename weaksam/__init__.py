"""weaksam: weakly-supervised recognition, from image-level labels to object proposals, detectors and masks.

This package is the method alone. It needs torch and imports neither Ray nor Arrow nor YAML, so it works in a notebook,
on a bare GPU machine, or inside somebody else's trainer. The stages that run it at scale live in ``pipelines``.
"""

__version__ = "0.1.0"
