"""The report stage: one HTML page that shows a run, complete in itself: no scripts, no files beside it, no requests.

The page is a list of ``SECTIONS``: each reads what other stages wrote, and what it needs of the images and their true boxes.
It is written into the instance's folder and, to be found easily, to ``RUN/report.html``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from pipelines.engine.product import Facts, Product
from pipelines.engine.stage import Job, Stage, WhenStopped
from pipelines.page.render import Frame, render_page
from pipelines.page.section import in_order
from pipelines.page.shown_run import ShownRun, shown_instances
from pipelines.products.detections import DetectionTable
from pipelines.products.index import Index
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.keys import Input
from pipelines.recipe.model import Recipe
from pipelines.report import SECTIONS
from pipelines.report.options import ReportOptions
from pipelines.store.files import write_bytes
from pipelines.training.trained import Trained
from weaksam.io.files import join
from weaksam.structures import IMAGE_LABELS, MASKS

PAGE_FILE = "report.html"


class Page(Product[Facts]):
    """The product of ``report``."""


class ReportStage(Stage[ReportOptions]):
    """See the module."""

    verb = "report"
    help = "Write the page to look at: pictures, tables, curves, dropped images."
    product = Page
    when_stopped = WhenStopped.SHOW

    def options(self, recipe: Recipe, name: str) -> ReportOptions:  # noqa: ARG002
        """Show what the recipe makes."""
        return ReportOptions(
            shown=tuple(Input(name) for name in shown_instances(recipe)),
            report=recipe.report,
            title=recipe.name,
            description=recipe.description,
            data=recipe.data,
            sections=tuple(SECTIONS),
            recipe=recipe,
        )

    def measures_by_true_boxes(self, recipe: Recipe) -> bool:  # noqa: ARG002
        """True: they are drawn."""
        return True

    def run(self, job: Job[ReportOptions]) -> Facts:
        """Write the page."""
        page = page_of(shown_run(job)).encode()
        for uri in (job.instance.file(PAGE_FILE), join(job.instance.run_uri, PAGE_FILE)):
            write_bytes(uri, page)
        return Facts(text=f"{join(job.instance.run_uri, PAGE_FILE)} ({len(page) / 2**20:.1f} MiB)")


def shown_run(job: Job[ReportOptions]) -> ShownRun:
    """Return what the sections see of the run."""
    from weaksam.datasets import open_dataset

    dataset = open_dataset(job.options.data)
    return ShownRun(
        recipe=job.options.recipe,
        uri=job.instance.run_uri,
        products=job.inputs,
        ground_truth=cache(dataset.ground_truth),
        true_masks=cache(partial(dataset.ground_truth, masks=True)),
        true_label_maps=cache(dataset.true_label_maps),
        read_image=job.input(job.options.index, Index).image_reader(),
    )


def page_of(run: ShownRun) -> str:
    """Return the page of a run."""
    found, measures = [], []
    if run.of_kind(ProposalTable):
        found, measures = ["proposals"], ["recall"]
    if run.of_kind(DetectionTable):
        found, measures = [*found, "detections"], [*measures, "average precision", "CorLoc"]
    heading = run.recipe.report.title or run.recipe.name
    frame = Frame(
        title=f"{heading} · {_and(found)}" if found else heading,
        heading=heading,
        description=run.recipe.description,
        footer=_footer(run, found, measures),
    )
    return render_page(frame, in_order(SECTIONS.values()), run)


def _footer(run: ShownRun, found: Sequence[str], measures: Sequence[str]) -> str:
    """Say what the results are computed from, and what they are measured against."""
    if not measures:
        return ""
    measured = f"{_and(measures)} {'are' if len(measures) > 1 else 'is'} measured against true boxes"
    trained = {name: model.facts.supervision for name, model in run.of_kind(Trained).items()}
    found_by = {f"the detector of {n}": table.facts.supervision for n, table in run.of_kind(DetectionTable).items()}
    supervision = {name: by for name, by in trained.items() if by != IMAGE_LABELS}
    supervision = supervision or {name: by for name, by in found_by.items() if by != IMAGE_LABELS}  # trained elsewhere
    if supervision:
        what = " of objects whose masks" if MASKS in supervision.values() else ", which"
        return f"{measured[0].upper()}{measured[1:]}{what} {_and(list(supervision))} learnt from."
    source = f"Object {_and(found)}" if "proposals" in found else _and(found).capitalize()
    untouched = "which nothing before this page and its figures has read"
    return f"{source} from image-level labels. {measured[0].upper()}{measured[1:]}, {untouched}."


def _and(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


STAGE = ReportStage()
