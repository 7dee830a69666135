"""Verbs that look: the shipped recipes, what a run did and dropped, what in it nobody needs, and this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from pipelines.bringing import too_many_dropped
from pipelines.cli import terminal
from pipelines.cli.console import console, voice
from pipelines.cli.doctor import run_doctor
from pipelines.cli.options import MaxDroppedOption, RunArgument
from pipelines.engine.clean import plan_cleaning
from pipelines.engine.status import (
    InstanceStatus,
    State,
    instances_in_order,
    run_dropped,
    run_status,
    status_json,
    unfinished_of_recipe,
)
from pipelines.engine.voice import Kind, TextTable, Tone, Toned
from pipelines.recipe.model import load_recipe, shipped_recipes
from pipelines.store.dropped import to_json, to_lines


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (recipes, status, dropped, clean, doctor):
        app.command()(verb)


def recipes() -> None:
    """List the shipped recipes.

    Example:

        weaksam recipes
    """
    table = TextTable()
    table.add_columns(Kind.NAME, "recipe")
    table.add_columns(Kind.TEXT, "what it is")
    for name in shipped_recipes():
        if "/" not in name:
            table.add_row(name, load_recipe(name)[0].description)
    voice.table(table)


def status(
    run_folder: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Every instance as a JSON list, for programs.")] = False,
    max_dropped: MaxDroppedOption = "",
) -> None:
    """Show what a run has done, what is running, what was interrupted, and why images were dropped. Changes nothing in it.

    With --max-dropped it ends as the run would have ended, which a scheduler may ask in the morning.

    Examples:

        weaksam status runs/voc07

        weaksam status runs/voc07 --json | jq '.[] | select(.state == "running")'

        weaksam status s3://bucket/runs/nightly --json --max-dropped 1%
    """
    lines = run_status(run_folder)
    if as_json:
        console.out(status_json(lines), highlight=False)
    else:
        _show(lines, run_folder)
    for instance in instances_in_order(run_folder) if max_dropped else ():
        if error := too_many_dropped(instance, instance.manifest() or {}, max_dropped):
            raise error


def _show(lines: Sequence[InstanceStatus], run_folder: str) -> None:
    """Lay out the state of a run for people."""
    tones = {State.FINISHED: Tone.GOOD, State.RUNNING: Tone.BUSY, State.INTERRUPTED: Tone.NOTICE}
    table = TextTable()
    table.add_columns(Kind.NAME, "instance", "key", "state")
    table.add_columns(Kind.FIGURE, "seconds")
    table.add_columns(Kind.TEXT, "detail")
    for line in lines:
        seconds = "" if line.seconds is None else f"{line.seconds:,.1f}"
        table.add_row(line.name, line.key, Toned(line.state, tones[line.state]), seconds, line.detail)
    voice.table(table)
    unfinished, begun = unfinished_of_recipe(run_folder, lines), {line.name for line in lines}
    if waiting := [name for name in unfinished if name not in begun]:
        console.out(f"not begun: {', '.join(waiting)}", highlight=False)
    if unfinished and not any(line.state is State.RUNNING for line in lines):
        console.out(f"`weaksam run {run_folder}` goes on", highlight=False)
    reasons = [reason for line in lines for reason in line.dropped]
    for reason in reasons:
        console.out(f"{reason.instance} dropped: {reason}", highlight=False)
    if reasons:
        console.out(f"`weaksam dropped {run_folder}` tells more", highlight=False)


def dropped(
    run_folder: RunArgument,
    every: Annotated[bool, typer.Option("--all", help="Every image, with its path and particulars.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every image as a JSON list, for programs.")] = False,
) -> None:
    """List the images that the stages of a run could not use, by stage and reason. Reads files only, of unfinished runs too.

    Examples:

        weaksam dropped runs/voc07

        weaksam dropped runs/voc07 --json | jq -r '.[].uri'
    """
    found = run_dropped(run_folder)
    for line in [to_json(found)] if as_json else to_lines(found, every=every):
        console.out(line, highlight=False)


def clean(
    run_folder: RunArgument,
    keep_days: Annotated[
        float,
        typer.Option("--keep-days", min=0, help="Keep what was finished within so many days, whatever replaced it."),
    ] = 0.0,
    previews: Annotated[bool, typer.Option("--previews", help="Also remove the previews made with --limit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what nothing in a run needs any more, and put its many small files together.

    Results of earlier settings and of images that are other ones now are removed; rows of images that were taken out of the
    data set or replaced are taken out of their tables. Readers may be at work meanwhile, stages may not: files that others
    have replaced are deleted an hour later, by the next run that adds rows, or `clean`.

    Examples:

        weaksam clean runs/voc07 --dry-run

        weaksam clean s3://bucket/runs/nightly --keep-days 14 --yes
    """
    found = plan_cleaning(run_folder, previews=previews, keep_days=keep_days)
    for leftover in found.leftovers:
        voice.say(f"{leftover.uri}  {leftover.what}, {leftover.size_bytes / 1e6:,.1f} MB")
    for table in found.tables:
        voice.say(str(table))
    if not (found.leftovers or found.tables):
        voice.say("nothing to remove")
    elif not dry_run and (yes or typer.confirm(f"Clean these {len(found.leftovers) + len(found.tables)}?")):
        terminal.go_on_unread()
        if waiting := found.carry_out():
            voice.say(f"{waiting:,} replaced files stay for an hour, for whoever reads them")


def doctor(
    uri: Annotated[str, typer.Argument(help="Also try to read and to write in this data or run folder.")] = "",
) -> None:
    """Look at this machine: versions, cores, memory, GPUs, disks, S3, Ray. Exit code 1 if something will not work.

    Example:

        weaksam doctor s3://bucket/coco
    """
    tones = {"ok": Tone.GOOD, "warn": Tone.WARNING, "fail": Tone.ERROR}
    checks = run_doctor(uri)
    table = TextTable()
    table.add_columns(Kind.NAME, "check", "state")
    table.add_columns(Kind.TEXT, "found", "what to do")
    for check in checks:
        table.add_row(check.name, Toned(check.state, tones[check.state]), check.detail, check.remedy)
    voice.table(table)
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)
