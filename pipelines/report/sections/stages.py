"""What each stage did and how long it took, and, of a preview, what the whole would take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun
from pipelines.stages.propose.preview import estimate
from pipelines.store.instances import Instance
from pipelines.store.numbers import duration


def view(run: ShownRun) -> View | None:
    """Return a line per instance; a resumed stage shows the rate of its last run."""
    if not run.instances:
        return None
    manifests = {name: run.manifest(name) for name in run.instances}
    whole = estimate(run.recipe, run.uri, manifests)
    return {
        "stages": [_stage(run.instances[name], manifest) for name, manifest in manifests.items()],
        "whole": whole and {"images": f"{whole.images:,}", "time": duration(whole.seconds)},
    }


def _stage(instance: Instance, manifest: Mapping[str, Any]) -> dict[str, Any]:
    rate = manifest.get("throughput", {})
    return {
        "name": instance.name,
        "key": instance.key,
        "seconds": duration(manifest.get("seconds", 0.0)),
        "images": f"{rate['images']:,}" if rate.get("images") else "–",
        "rate": f"{rate['images_per_s']:.1f}" if rate.get("images") else "–",
        "text": manifest.get("text", "") if manifest else "not finished",
    }


SECTION: Section[ShownRun] = Section(id="stages", title="Stages", view=view, template=beside(__name__))
