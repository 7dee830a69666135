"""What a training's scalars say of its loss drop: how much it dropped, and a warning when that cannot all be noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipelines.engine.voice import Tone, Toned, Voice

if TYPE_CHECKING:
    from pipelines.training.task import Progress


def dropped_shares(rows: Sequence[Progress]) -> dict[str, float]:
    """Return which share of the foreground and of the background the loss drop dropped, over all steps; {} without counts."""
    totals = {name: sum(row.counts[name] for row in rows) for name in (rows[0].counts if rows else ())}
    names = [name for name in ("foreground", "background") if f"dropped_{name}" in totals]
    return {name: totals[f"dropped_{name}"] / totals[name] if totals[name] else 0.0 for name in names}


def warn_of_dropped_positives(voice: Voice) -> Callable[[Progress], None]:
    """Return a function that looks at each row of the scalars and warns once if too many positives were dropped."""
    from weaksam.losses.drop import MOST_POSITIVES_DROPPED

    warned = False

    def look(row: Progress) -> None:
        nonlocal warned
        share = dropped_shares([row]).get("foreground", 0.0)
        if share > MOST_POSITIVES_DROPPED and not warned:
            warned = True
            voice.say(
                Toned(f"the loss drop drops {share:.0%} of the positives at step {row.step:,}", Tone.WARNING),
                f": more than {MOST_POSITIVES_DROPPED:.0%} are rarely noise. Raise its thresholds, start it later, or look at "
                "analyse.noise",
            )

    return look
