"""What each stage did and how long it took, and, of a preview, what the whole would take."""

from __future__ import annotations

from typing import Any

from pipelines.engine.product import Product
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun
from pipelines.products.rows import RowFacts
from pipelines.stages.propose.preview import estimate
from pipelines.store.numbers import duration
from pipelines.training.trained import TrainingFacts


def view(run: ShownRun) -> View | None:
    """Return a line per instance; a resumed stage shows the rate of its last run."""
    if not run.products:
        return None
    whole = estimate(run.recipe, run.uri, run.products)
    return {
        "stages": [_stage(product) for product in run.products.values()],
        "whole": whole and {"images": f"{whole.images:,}", "time": duration(whole.seconds)},
    }


def _stage(product: Product[Any]) -> dict[str, Any]:
    facts = product.facts
    rate = facts.throughput if isinstance(facts, RowFacts | TrainingFacts) else None
    timed = rate is not None and rate.images > 0
    return {
        "name": product.name,
        "key": product.instance.key,
        "seconds": duration(product.seconds),
        "images": f"{rate.images:,}" if rate and timed else "–",
        "rate": f"{rate.images_per_s:.1f}" if rate and timed else "–",
        "text": facts.text if product.is_finished else "not finished",
    }


SECTION: Section[ShownRun] = Section(id="stages", title="Stages", view=view, template=beside(__name__))
