"""How alike the detector sees the proposals of an image (Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.analyse import similarity
from pipelines.analyse.sections.analysed import analyses
from pipelines.page import pictures
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, heading
from pipelines.store.instances import Instance
from weaksam.io.files import read_bytes


def view(run: ShownRun) -> View | None:
    """Return every analysis of similarity, with the matrices of its first image as pictures."""
    shown = [_analysis(run.products[name].instance, content) for name, content in analyses(run, "similarity").items()]
    return {"analyses": shown} if shown else None


def _analysis(instance: Instance, content: Mapping[str, Any]) -> dict[str, Any]:
    first = content["images"][0]
    matrices = [
        pictures.similarity(
            read_bytes(instance.file(similarity.matrix_file(row["name"]))),
            alt=f"Cosine of every two proposals of {first}, {row['name']}: mean {row['values'][first]:.3f}",
            caption=f"{row['name']}: {row['values'][first]:.3f}",
        )
        for row in content["rows"]
        if row["values"][first] is not None
    ]
    return {**content, "heading": heading(instance.name, content["split"]), "first": first, "matrices": matrices}


SECTION: Section[ShownRun] = Section(
    id="similarity", title="How alike are the proposals?", link="Similarity", view=view, template=beside(__name__)
)
