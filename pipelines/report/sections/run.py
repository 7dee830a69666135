"""What was run on what, and the whole recipe."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime

from pipelines.engine.ray_session import usable_cpus
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, of_several, shown_instances
from pipelines.products.index import Index, IndexFacts
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.yaml_text import render

Facts = list[tuple[str, str]]  # (name, value)


def view(run: ShownRun) -> View | None:
    """Return the facts and the recipe as YAML."""
    return {"facts": _facts(run), "recipe": render(run.recipe)} if run.products else None


def _facts(run: ShownRun) -> Facts:
    recipe = run.recipe
    index = next((index.facts for index in run.of_kind(Index).values()), IndexFacts())
    not_run = [n for n in shown_instances(recipe) if n not in run.products or not run.products[n].is_finished]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "ray"))
    return [
        ("data", f"{recipe.data.uri} ({index.kind or recipe.data.kind})"),
        ("found", index.text),
        *([("passed over", "; ".join(map(str, index.passed_over)))] if index.passed_over else []),
        ("run", run.uri),
        *([("not finished", ", ".join(not_run))] if not_run else []),
        *(fact for table in run.of_kind(ProposalTable).values() for fact in _facts_of_proposals(run, table)),
        ("this machine", f"{platform.machine()}, {usable_cpus()} CPUs, {platform.system()}"),
        ("software", ", ".join((f"Python {platform.python_version()}", *versions))),
        ("made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def _facts_of_proposals(run: ShownRun, table: ProposalTable) -> Facts:
    """Return what an instance's proposals were made with: by SAM and clues, or by neither."""
    recipe, name = run.recipe.of(table.name), table.name
    marked = f", {one}" if (one := of_several(run.of_kind(ProposalTable), name)) else ""
    facts = {"proposals": f"{name} {table.instance.key}"}
    if (digest := table.fingerprints.get("sam")) is not None:
        facts["SAM"] = f"{recipe.sam.name}, SHA-256 {digest[:12]}…"
        if recipe.uses_clues:
            facts["clues"] = recipe.clues.source.name + (f", {recipe.clues.weights}" if recipe.clues.weights else "")
    facts["actors"] = table.facts.actors or "not recorded"
    return [(f"{fact}{marked}", told) for fact, told in facts.items()]


SECTION: Section[ShownRun] = Section(id="run", title="Run", view=view, template=beside(__name__))
