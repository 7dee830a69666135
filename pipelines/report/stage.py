"""The report stage: one HTML page that shows a run, complete in itself: no scripts, no files beside it, no requests.

The page is a list of ``SECTIONS``: each reads what other stages wrote, and what it needs of the images and their true boxes.
It is written into the instance's folder and, to be found easily, to ``RUN/report.html``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.stage import Job, Stage
from pipelines.page.render import Frame, render_page
from pipelines.page.section import in_order
from pipelines.page.shown_run import ShownRun, shown_instances
from pipelines.recipe.model import Recipe
from pipelines.report import SECTIONS
from pipelines.store.instances import Instance
from pipelines.store.schemas import IMAGES
from pipelines.store.tables import write_bytes
from weaksam.io.files import join
from weaksam.structures import IMAGE_LABELS

PAGE_FILE = "report.html"
SHOWN_UNFINISHED = ("index", "propose")  # verbs whose instances a page reads as far as they have come


def execute(job: Job) -> dict[str, Any]:
    """Write the page."""
    page = page_of(shown_run(job)).encode()
    for uri in (job.instance.file(PAGE_FILE), join(job.instance.run_uri, PAGE_FILE)):
        write_bytes(uri, page)
    return {"text": f"{join(job.instance.run_uri, PAGE_FILE)} ({len(page) / 2**20:.1f} MiB)"}


def shown_run(job: Job) -> ShownRun:
    """Return what the sections see of the run."""
    from weaksam.datasets import open_dataset

    return ShownRun(
        recipe=job.recipe,
        uri=job.instance.run_uri,
        instances=job.upstream,
        ground_truth=cache(open_dataset(job.recipe.data).ground_truth),
        read_image=_image_reader(job.upstream["index"]),
    )


def page_of(run: ShownRun) -> str:
    """Return the page of a run."""
    parts = {"propose": ("proposals", ["recall"]), "detect": ("detections", ["average precision", "CorLoc"])}
    shown = [part for verb, part in parts.items() if run.of_verb(verb)]
    found, measures = _and([what for what, _ in shown]), [measure for _, of in shown for measure in of]
    heading = run.recipe.report.title or run.recipe.name
    frame = Frame(
        title=f"{heading} · {found}" if found else heading,
        heading=heading,
        description=run.recipe.description,
        footer=_footer(run, found, measures),
    )
    return render_page(frame, in_order(SECTIONS.values()), run)


def _footer(run: ShownRun, found: str, measures: Sequence[str]) -> str:
    """Say what the results are computed from, and what they are measured against."""
    if not measures:
        return ""
    measured = f"{_and(measures)} {'are' if len(measures) > 1 else 'is'} measured against true boxes"
    learnt = [name for name in run.instances if run.manifest(name).get("supervision", IMAGE_LABELS) != IMAGE_LABELS]
    if learnt:
        return f"{measured[0].upper()}{measured[1:]}, which {_and(learnt)} learnt from."
    source = f"Object {found}" if run.of_verb("propose") else found.capitalize()
    untouched = "which nothing before this page and its figures has read"
    return f"{source} from image-level labels. {measured[0].upper()}{measured[1:]}, {untouched}."


def _and(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _image_reader(index: Instance) -> Callable[[str], NDArray[np.uint8]]:
    """Give a function from image id to upright RGB image [H, W, 3]; it raises ImageError for one that cannot be read."""
    from weaksam.io.files import read_bytes
    from weaksam.io.images import decode_image

    uris = {row["image_id"]: row["uri"] for row in index.table(IMAGES).iter_rows(["image_id", "uri"])}
    return lambda image_id: decode_image(read_bytes(uris[image_id]))


def _reads(recipe: Recipe, _name: str) -> tuple[str, ...]:
    return shown_instances(recipe)


def _method(recipe: Recipe, _name: str) -> Mapping[str, Any]:
    # How often the page is made follows from what it shows, the recipe's own words among it.
    return {
        "report": recipe.report,
        "name": recipe.name,
        "description": recipe.description,
        "data": recipe.data,
        "sections": list(SECTIONS),
    }


STAGE = Stage(
    verb="report",
    help="Write the page to look at: pictures, tables, curves, dropped images.",
    reads=_reads,
    method=_method,
    execute=execute,
)
