"""``weaksam run``, one verb per stage, and ``weaksam demo``: the stages of a recipe, brought up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from pipelines.cli import terminal, without_effect
from pipelines.cli.console import set_up_logging, voice
from pipelines.cli.options import OutOption, RunRequest, VerboseOption, spread
from pipelines.engine.product import Product
from pipelines.engine.stage import Stage
from pipelines.engine.voice import Tone, Toned
from pipelines.recipe.model import Recipe, load_recipe, read_recipe, verb_of
from pipelines.recipe.yaml_text import render
from pipelines.registry import STAGES, active, product_of
from pipelines.runner import Run
from pipelines.stages.propose.preview import estimate
from pipelines.store.files import write_bytes
from weaksam.errors import ConfigError
from weaksam.io.files import join

_EXAMPLES = """

Examples:

    weaksam {verb} shapes --limit 16

    weaksam {verb} voc07 --data /data/VOCdevkit/VOC2007 --out runs/voc07

    weaksam {verb} coco14 --data s3://bucket/coco --out s3://bucket/runs/coco14 --address auto

    weaksam {verb} voc07 --data /data/VOC2007 --set prompts.points_per_side=16 --dry-run
"""

LabelOption = Annotated[
    str,
    typer.Option(
        "--label",
        metavar="NAME",
        help="Which instance of this verb: VERB.NAME, as the recipe configures it; default: the first that the recipe lists. "
        "A new one says what it reads: `evaluate --label ss --set evaluate.ss.of=import.ss` measures import.ss.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    what = "Run a recipe's stages in order; whatever is finished already is recognised and skipped."
    app.command(help=what + _EXAMPLES.format(verb="run"))(spread(run))
    for verb, stage in STAGES.items():
        if verb in ("import", "import-masks"):
            continue  # have commands of their own, which take a file
        what = f"{stage.help}\n\nWhat it reads is brought up to date first."
        app.command(verb, help=what + _EXAMPLES.format(verb=verb))(_verb_of_stage(stage))
    app.command()(demo)


def run(
    request: RunRequest,
    first: Annotated[str, typer.Option("--from", metavar="INSTANCE", help="Start at this stage instance.")] = "",
    last: Annotated[str, typer.Option("--until", metavar="INSTANCE", help="Stop after this stage instance.")] = "",
) -> None:
    """Run a recipe from first to last stage."""
    _bring_up_to_date(request, lambda recipe: _between(active(recipe), first, last))


def _verb_of_stage(stage: Stage[Any]) -> Callable[..., None]:
    """Return the verb that brings one instance of a stage up to date."""

    @spread
    def verb(request: RunRequest, label: LabelOption = "") -> None:
        _bring_up_to_date(request, lambda recipe: [_instance(recipe, stage.verb, label)])

    return verb


class System(StrEnum):
    """What the demo shows."""

    WEAKSAM = "weaksam"
    FMA = "fma"


_DEMOS = {System.WEAKSAM: "demo", System.FMA: "demo-fma"}  # their recipes


def demo(
    out: OutOption = "runs/demo",
    system: Annotated[
        System, typer.Option("--system", help="weaksam: boxes and instance masks; fma: label maps with CLIP and SAM.")
    ] = System.WEAKSAM,
    verbose: VerboseOption = 0,
) -> None:
    """The main job on drawn images, from image labels to proposals, detectors, instance masks and a report, in minutes.

    Examples:

        weaksam demo --out runs/demo

        weaksam demo --system fma --out runs/demo-fma
    """
    _bring_up_to_date(RunRequest(recipe=_DEMOS[system], out=out, verbose=verbose), active)


def _bring_up_to_date(request: RunRequest, choose: Callable[[Recipe], Sequence[str]]) -> None:
    """Run the instances of the recipe that ``choose`` names, or print the recipe."""
    set_up_logging(request.verbose)
    request = request.of_run_folder()
    recipe, origins = load_recipe(request.recipe, request.values, request.data)
    if request.print_recipe:
        voice.say(Toned(render(recipe, origins), Tone.VERBATIM))
        return
    run_uri, names = request.run_uri(recipe), choose(recipe)
    if not request.dry_run:
        terminal.go_on_unread()
        write_bytes(join(run_uri, "recipe.yaml"), render(recipe).encode())
    whole = Run(recipe, run_uri, train_again=request.train_again)
    source = read_recipe(request.recipe)

    def asked(values: Sequence[str]) -> Iterator[tuple[Recipe, list[str]]]:
        of_values, _ = source.recipe(values, request.data)
        yield of_values, Run(of_values, run_uri).needed_for(*choose(of_values))

    without_effect.warn(voice, request.overrides or (), request.values, asked)
    made = whole.bring(names, request.options, voice)
    _print_estimate(recipe, run_uri, {name: product_of(whole.instance(name)) for name in made})


def _instance(recipe: Recipe, verb: str, label: str) -> str:
    """Return the instance of a verb that is meant: without a label the first that the recipe lists or else knows."""
    if label:
        return f"{verb}.{label}"
    return next((name for name in (*recipe.stages, *recipe.instances) if verb_of(name) == verb), verb)


def _between(stages: Sequence[str], first: str, last: str) -> Sequence[str]:
    for name in (first, last):
        if name and name not in stages:
            raise ConfigError(f"--from/--until: expected one of {', '.join(stages)}, got {name!r}")
    begin = stages.index(first) if first else 0
    end = stages.index(last) + 1 if last else len(stages)
    if begin >= end:
        raise ConfigError(f"--from {first} comes after --until {last}; the order is {', '.join(stages)}")
    return stages[begin:end]


def _print_estimate(recipe: Recipe, run_uri: str, made: Mapping[str, Product[Any]]) -> None:
    """Say what the whole run would take, from what the preview took: time, disk, and cost if a price is set."""
    whole = estimate(recipe, run_uri, made)
    if whole is None:
        return
    hours, price = whole.seconds / 3600, recipe.resources.price_per_hour
    cost = f", about {hours * price:,.2f} at {price:g} an hour" if price else ""
    voice.say(
        f"preview: {whole.done:,} images at {whole.images_per_s:.2f} img/s. All {whole.images:,} would take about "
        f"{hours:,.1f} h on the same machines and {whole.gigabytes:,.2f} GB{cost}."
    )
