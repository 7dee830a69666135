"""What was run on what, and the whole recipe."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipelines.engine.ray_session import usable_cpus
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, of_several, shown_instances
from pipelines.recipe.model import render
from weaksam.datasets.passed_over import PassedOver

Facts = list[tuple[str, str]]  # (name, value)


def view(run: ShownRun) -> View | None:
    """Return the facts and the recipe as YAML."""
    return {"facts": _facts(run), "recipe": render(run.recipe)} if run.instances else None


def _facts(run: ShownRun) -> Facts:
    recipe, index = run.recipe, run.manifest("index")
    not_run = [name for name in shown_instances(recipe) if not run.manifest(name)]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "ray"))
    return [
        ("data", f"{recipe.data.uri} ({index.get('kind', recipe.data.kind)})"),
        ("found", index.get("text", "")),
        *([("passed over", passed_over(index))] if index.get("passed_over") else []),
        ("run", run.uri),
        *([("not finished", ", ".join(not_run))] if not_run else []),
        *(fact for name in run.of_verb("propose") for fact in _facts_of_proposals(run, name)),
        ("this machine", f"{platform.machine()}, {usable_cpus()} CPUs, {platform.system()}"),
        ("software", ", ".join((f"Python {platform.python_version()}", *versions))),
        ("made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def passed_over(index: Mapping[str, Any]) -> str:
    """Return what the index stage has passed over, of its manifest."""
    return "; ".join(str(PassedOver(**one)) for one in index["passed_over"])


def _facts_of_proposals(run: ShownRun, name: str) -> Facts:
    """Return what an instance's proposals were made with."""
    recipe, instance = run.recipe.of(name), run.instances[name]
    weights = (instance.plan() or {}).get("parts", {}).get("fingerprints", {})
    sam = f"{recipe.sam.name}, SHA-256 {weights['sam'][:12]}…" if "sam" in weights else recipe.sam.name
    clues = recipe.clues.name + (f", {recipe.clues.weights}" if recipe.clues.weights else "")
    marked = f", {one}" if (one := of_several(run.of_verb("propose"), name)) else ""
    return [
        (f"proposals{marked}", f"{name} {instance.key}"),
        (f"SAM{marked}", sam),
        (f"clues{marked}", clues),
        (f"actors{marked}", str(run.manifest(name).get("actors", "not recorded"))),
    ]


SECTION: Section[ShownRun] = Section(id="run", title="Run", view=view, template=beside(__name__))
