"""A sweep as one page: the best, heat maps over pairs of knobs, every trial as a line, best so far, how objectives rank."""

from __future__ import annotations

from datetime import UTC, datetime

from pipelines.page.render import Frame, render_page
from pipelines.store.files import write_bytes
from tune.search import Outcome, sweep_folder
from tune.sections import best, failed, heat_maps, lines, ranking, trials
from tune.sweep import Trials
from weaksam.io.files import join

PAGE_FILE = "report.html"
SECTIONS = tuple(module.SECTION for module in (best, heat_maps, lines, ranking, trials, failed))


def write_report(outcome: Outcome, of_sweep: Trials) -> str:
    """Write the page; return where."""
    uri = join(sweep_folder(of_sweep), PAGE_FILE)
    write_bytes(uri, page_of(outcome).encode())
    return uri


def page_of(outcome: Outcome) -> str:
    """Return the page; every string that is not markup already is escaped."""
    title = f"Sweep {outcome.sweep.name}"
    made = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    frame = Frame(title=title, heading=title, description=outcome.sweep.description, footer=made)
    return render_page(frame, SECTIONS, outcome)
