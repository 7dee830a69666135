"""What RoI drop drops of the foreground regions that Faster R-CNN samples when it begins (Fig. 3)."""

from __future__ import annotations

from functools import partial

from pipelines.products.measured import Analysis
from pipelines.variants.objectives.base import ALL_IMAGES, Objective, Reading, Values


def _share(part: str, whole: str, reading: Reading) -> Values:
    counts = Analysis(reading.instance).read()["drop"]["foreground"]
    return {ALL_IMAGES: counts[part] / counts[whole] if counts[whole] else None}


def _regions(part: str, whole: str, what: str, *, more_is_better: bool) -> Objective:
    return Objective(
        what=what,
        instance="analyse.noise",
        read=partial(_share, part, whole),
        more_is_better=more_is_better,
        seeded=True,
    )


WRONG = _regions("wrong", "regions", "share of foreground regions whose label is wrong", more_is_better=False)
DROPPED = _regions("dropped", "regions", "share of foreground regions that RoI drop drops", more_is_better=False)
WRONG_AMONG_DROPPED = _regions(
    "wrong_dropped", "dropped", "share of dropped foreground regions whose label is wrong", more_is_better=True
)
