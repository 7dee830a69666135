"""The front door: `weaksam`. Verbs are thin; nothing heavy is imported before a verb needs it, so `--help` is instant."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text
from typer.core import TyperGroup

from pipelines.cli import terminal
from pipelines.engine import interrupts, ray_session
from pipelines.engine.stage import Options
from pipelines.engine.text_table import Kind, TextTable
from pipelines.recipe.model import Recipe, load_recipe, render, shipped_recipes
from pipelines.store.explain import explain, in_the_way
from weaksam.errors import ConfigError, StorageError
from weaksam.io.files import absolute, join, open_fs


class _Verbs(TyperGroup):
    """All verbs; what an interrupt means is the same for each, and typer would only say "Aborted"."""

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(interrupts.exit_code(error)) from error


class _Interrupted(Exception):  # noqa: N818
    """A verb was interrupted, and has unwound."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


app = typer.Typer(
    name="weaksam",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Weakly-supervised recognition on Ray: image-level labels in, object proposals and detectors out.\n\n"
    "Start with `weaksam demo`, or look at your own pictures: `weaksam propose grid --data photos/ --out runs/photos`.",
)
terminal.correct_width()
console = Console(soft_wrap=True)

_INTERRUPTED = "interrupted; the same command goes on where this one stopped"
_told: list[str] = []  # what this process ends with

RecipeArgument = Annotated[
    str,
    typer.Argument(help="A recipe file, a shipped recipe's name (`weaksam recipes`), or the folder of an earlier run."),
]
DataOption = Annotated[
    str, typer.Option("--data", help="Where the images are: a folder, s3://…, or shapes: for drawings.")
]
OutOption = Annotated[str, typer.Option("--out", help="The run folder, local or s3://…; default runs/RECIPE.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe; may be repeated.")
]
LimitOption = Annotated[
    int, typer.Option("--limit", min=0, help="Only the first N images per split in hash order, under OUT/preview-N.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what is done and what would run, and do nothing.")]
RetryOption = Annotated[bool, typer.Option("--retry-dropped", help="Try the images again that were dropped before.")]
MaxDroppedOption = Annotated[
    str, typer.Option("--max-dropped", help="More dropped images than this (a share or a count) end with exit code 3.")
]
AddressOption = Annotated[
    str, typer.Option("--address", help="Ray cluster to run on; default RAY_ADDRESS, else this machine.")
]
WaitOption = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", help="Wait this long for a run that another process holds.")
]
PrintRecipeOption = Annotated[
    bool, typer.Option("--print-recipe", help="Print the merged recipe with its sources, and stop.")
]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="-v: what each stage does; -vv: everything.")
]

_RUN_EXAMPLES = """

Examples:

    weaksam {verb} shapes --limit 16

    weaksam {verb} voc07 --data /data/VOCdevkit/VOC2007 --out runs/voc07

    weaksam {verb} coco14 --data s3://bucket/coco --out s3://bucket/runs/coco14 --address auto

    weaksam {verb} voc07 --data /data/VOC2007 --set prompts.points_per_side=16 --dry-run
"""


@app.command(
    help="Run a recipe's stages in order; whatever is finished already is recognised and skipped."
    + _RUN_EXAMPLES.format(verb="run")
)
def run(
    recipe: RecipeArgument,
    data: DataOption = "",
    out: OutOption = "",
    overrides: SetOption = None,
    first: Annotated[str, typer.Option("--from", metavar="INSTANCE", help="Start at this stage instance.")] = "",
    last: Annotated[str, typer.Option("--until", metavar="INSTANCE", help="Stop after this stage instance.")] = "",
    limit: LimitOption = 0,
    dry_run: DryRunOption = False,
    retry_dropped: RetryOption = False,
    max_dropped: MaxDroppedOption = "1%",
    address: AddressOption = "",
    wait: WaitOption = 0.0,
    print_recipe: PrintRecipeOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Run a recipe from first to last stage."""
    options = Options(
        dry_run=dry_run, retry_dropped=retry_dropped, max_dropped=max_dropped, address=address, wait_s=wait
    )
    _run(
        recipe,
        data,
        out,
        overrides,
        limit,
        options,
        print_recipe,
        verbose,
        lambda r: _between(r.active, first, last),
    )


LabelOption = Annotated[
    str,
    typer.Option(
        "--label",
        metavar="NAME",
        help="Which instance of this verb: VERB.NAME, as the recipe configures it; `analyse --label similarity` is Fig. 6. "
        "A new one says what it reads: `evaluate --label ss --set evaluate.ss.of=import.ss` measures import.ss.",
    ),
]


def _stage_command(instance: str, help_text: str) -> Callable[..., None]:
    """Return the command of one stage verb; all of them take the same options."""
    verb = instance.partition(".")[0]

    def command(
        recipe: RecipeArgument,
        data: DataOption = "",
        out: OutOption = "",
        overrides: SetOption = None,
        label: LabelOption = "",
        limit: LimitOption = 0,
        dry_run: DryRunOption = False,
        retry_dropped: RetryOption = False,
        max_dropped: MaxDroppedOption = "1%",
        address: AddressOption = "",
        wait: WaitOption = 0.0,
        print_recipe: PrintRecipeOption = False,
        verbose: VerboseOption = 0,
    ) -> None:
        options = Options(
            dry_run=dry_run, retry_dropped=retry_dropped, max_dropped=max_dropped, address=address, wait_s=wait
        )
        _run(
            recipe,
            data,
            out,
            overrides,
            limit,
            options,
            print_recipe,
            verbose,
            lambda _: [f"{verb}.{label}" if label else instance],
        )

    command.__doc__ = f"{help_text} What it reads is brought up to date first.{_RUN_EXAMPLES.format(verb=verb)}"
    return command


for _instance, _help in {
    "index": "List a data set's images and the labels that the recipe grants.",
    "train-classifier": "Train the classifier whose activation maps are the clues.",
    "propose": "Prompt SAM with grids and clues, and write object proposals.",
    "train-mil": "Train a weakly-supervised detector, MIST or OICR, on proposals and image-level labels.",
    "detect.mil": "Run the trained detector over images and their proposals; --label final: the retrained one, alone.",
    "label": "Turn the detections of the training images into pseudo ground truth.",
    "retrain": "Train Faster R-CNN or DINO on pseudo ground truth; losses that look like noise are dropped.",
    "evaluate.proposals": "Measure the proposals against the true boxes, source by source; --label mil or final: detections; "
    "--label label: the pseudo ground truth.",
    "analyse.prompts": "Table 4: each clue source beside random points and a denser grid; --label similarity: how alike the "
    "detector sees an image's proposals; --label noise: whether losses tell which pseudo labels are wrong.",
    "report": "Write the page to look at: tables, curves, dropped images and a gallery.",
}.items():
    app.command(_instance.partition(".")[0])(_stage_command(_instance, _help))


@app.command("table")
def table_(
    number: Annotated[int, typer.Argument(metavar="N", help="Of the paper: 1, 4, 6 or 10.")],
    recipe: Annotated[str, typer.Argument(help="A recipe file or a shipped recipe's name whose detector is MIST.")],
    data: DataOption = "",
    out: OutOption = "",
    overrides: SetOption = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="0,1,2", help="Train with each of these; default: the recipe's one.")
    ] = "",
    limit: LimitOption = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells and which are done, and do nothing.")
    ] = False,
    max_dropped: MaxDroppedOption = "1%",
    address: AddressOption = "",
    wait: WaitOption = 0.0,
    verbose: VerboseOption = 0,
) -> None:
    """Measure a table of the paper: detectors on Selective Search and on WeakSAM's proposals, beside what was published.

    1: average precision. 4: source by source. 6: boxes and time. 10: correct localisation.

    Its cells are variants of RECIPE in one run folder, made one after the other; whatever is finished already, by `weaksam run`
    too, is recognised. The table is printed and written to OUT/tables. A cell that fails is shown as failed, the others go on,
    and the exit code is 1. Rows that nothing here trains say so.

    The OICR rows come from the recipe RECIPE-oicr, beside RECIPE's file or shipped (voc07-oicr, shapes-oicr). Where there is
    none, they are RECIPE with mil.detector=oicr and how OICR's learning rates differ (refine_lr_factor, warm-up), all else as
    for MIST.

    Examples:

        weaksam table 1 voc07 --data /data/VOCdevkit/VOC2007 --out runs/voc07 --seeds 0,1,2

        weaksam table 4 shapes --dry-run

        weaksam table 10 mine.yaml --data cards/ --set mil.epochs=4     # OICR from mine-oicr.yaml if it is there
    """
    from pipelines.variants.run import Recipes, make_table, parse_seeds

    set_up_logging(verbose)
    if _is_run_folder(recipe):
        raise ConfigError(
            f"table: expected a recipe, got the run folder {recipe}; name its recipe and add --out {recipe}"
        )
    values = [*(overrides or []), *([f"data.limit={limit}"] if limit else [])]
    recipes = Recipes(name=recipe, overrides=tuple(values), data_uri=data)
    options = Options(dry_run=dry_run, max_dropped=max_dropped, address=address, wait_s=wait)
    run_uri = _run_uri(recipes.base(), out, limit)
    if not dry_run:
        terminal.go_on_unread()
    if make_table(number, recipes, run_uri, parse_seeds(seeds), options, console).get("errors"):
        raise typer.Exit(1)


@app.command()
def demo(out: OutOption = "runs/demo", verbose: VerboseOption = 0) -> None:
    """The main job on drawn images, from image labels to proposals, MIST, pseudo boxes, Faster R-CNN and a report, in minutes.

    Example:

        weaksam demo --out runs/demo
    """
    _run("shapes", "", out, None, 0, Options(), False, verbose, lambda r: list(r.active))


@app.command()
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
    console.print(table)


@app.command()
def status(run_folder: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Show what a run has done, what is running, what was interrupted, and why images were dropped. Changes nothing in it.

    Example:

        weaksam status runs/voc07
    """
    from pipelines.engine.status import run_status

    colours = {"finished": "green", "running": "cyan", "interrupted": "yellow"}
    table = TextTable()
    table.add_columns(Kind.NAME, "instance", "key", "state")
    table.add_columns(Kind.FIGURE, "seconds")
    table.add_columns(Kind.TEXT, "detail")
    lines = run_status(run_folder)
    for line in lines:
        seconds = "" if line.seconds is None else f"{line.seconds:,.1f}"
        table.add_row(line.name, line.key, Text(line.state, style=colours[line.state]), seconds, line.detail)
    console.print(table)
    reasons = [reason for line in lines for reason in line.dropped]
    for reason in reasons:
        console.out(f"{reason.instance} dropped: {reason}", highlight=False)
    if reasons:
        console.out(f"`weaksam dropped {run_folder}` tells more", highlight=False)


@app.command()
def dropped(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, local or s3://….")],
    every: Annotated[bool, typer.Option("--all", help="Every image, with its path and particulars.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every image as a JSON list, for programs.")] = False,
) -> None:
    """List the images that the stages of a run could not use, by stage and reason. Reads files only, of unfinished runs too.

    Examples:

        weaksam dropped runs/voc07

        weaksam dropped runs/voc07 --json | jq -r '.[].uri'
    """
    from pipelines.engine.status import run_dropped
    from pipelines.store.dropped import to_json, to_lines

    found = run_dropped(run_folder)
    for line in [to_json(found)] if as_json else to_lines(found, every=every):
        console.out(line, highlight=False)


@app.command()
def clean(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    previews: Annotated[bool, typer.Option("--previews", help="Also remove the previews made with --limit.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what no current instance of a run needs: the folders of earlier settings.

    Example:

        weaksam clean runs/voc07 --previews
    """
    from pipelines.engine.status import leftovers, remove

    found = leftovers(run_folder, previews=previews)
    for leftover in found:
        console.print(f"{leftover.uri}  {leftover.what}, {leftover.size_bytes / 1e6:,.1f} MB", markup=False)
    if not found:
        console.print("nothing to remove")
    elif yes or typer.confirm(f"Remove these {len(found)}?"):
        terminal.go_on_unread()
        for leftover in found:
            remove(leftover)


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, local or s3://….")]


@app.command("export")
def export_(
    run_folder: RunArgument,
    to: Annotated[
        str,
        typer.Option(
            "--as",
            help="Proposals: wetectron or mmdet (pickles), or coco (results JSON). Detections: voc or coco. Pseudo labels: "
            "coco (instances JSON), voc or yolo. True boxes: pseudo-labels.",
        ),
    ],
    split: Annotated[str, typer.Option("--split", help="Whose images.")] = "",
    out: Annotated[
        str, typer.Option("--out", help="The file to write, local or s3://…; for voc and yolo a folder.")
    ] = "",
    instance: Annotated[
        str,
        typer.Option("--of", metavar="INSTANCE", help="What to write: propose, import.NAME, detect.mil, label."),
    ] = "propose",
    missing: Annotated[str, typer.Option("--missing", help="Images without a row: error, or empty.")] = "error",
    only: Annotated[
        str, typer.Option("--only", metavar="FILE", help="Detections of these images alone: ids, or COCO instances.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="True boxes become the instance import.NAME of the run.")] = "",
    noise: Annotated[float, typer.Option("--noise", metavar="SHARE", help="Share of the true boxes made wrong.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise.")] = 0,
    pictures: Annotated[
        str, typer.Option("--pictures", help="For voc and yolo of pseudo labels: link, copy or none, into the folder.")
    ] = "link",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write proposals, detections or pseudo labels in another project's format, or true boxes as pseudo labels into the run.

    True boxes are for measuring what pseudo labels cost: a detector retrained on them (retrain.learn_from: import.NAME)
    is not weakly supervised any more, and everything made of it says `supervision: boxes`.

    Examples:

        weaksam export runs/voc07 --as wetectron --split trainval --out voc07_trainval.pkl

        weaksam export runs/voc12 --of detect.mil --as voc --split test --out results/VOC2012/Main

        weaksam export runs/coco14 --of detect.mil --as coco --split val2014 --only instances_minival2014.json --out r.json

        weaksam export runs/voc07 --of label --as yolo --split trainval --out voc07-pseudo

        weaksam export runs/voc07 --as pseudo-labels --name noisy --noise 0.3
    """
    terminal.go_on_unread()
    _one_of("--missing", missing, ("error", "empty"))
    _one_of("--pictures", pictures, ("link", "copy", "none"))
    if to == "pseudo-labels":
        if split or out or only or instance != "propose" or missing != "error":
            raise ConfigError(
                "--as pseudo-labels writes the labelled split's true boxes into the run: it takes --name, --noise and --seed "
                "alone"
            )
        from pipelines.exchange.export_true_boxes import run_export_true_boxes

        made = run_export_true_boxes(run_folder, name=name, noise=noise, seed=seed)
        console.print(f"import.{name}: {made['text']}", markup=False)
        return
    if name or noise or seed:
        raise ConfigError(f"--name, --noise and --seed belong to --as pseudo-labels, got --as {to}")
    if not split or not out:
        raise ConfigError(f"--as {to}: expected --split, whose images, and --out, where to write them")
    if instance.startswith("detect."):
        from pipelines.exchange.export_detections import run_export_detections

        _one_of("--as", to, ("voc", "coco"))
        found = run_export_detections(
            run_folder,
            to=to,  # type: ignore[arg-type]
            split=split,
            out=out,
            instance=instance,
            missing=missing,  # type: ignore[arg-type]
            only=only,
            overwrite=overwrite,
        )
        console.print(found["text"], markup=False)
        return
    from pipelines.exchange.export_proposals import finished_instance, run_export
    from pipelines.stages.label import holds_pseudo_labels

    if only:
        raise ConfigError("--only narrows detections; proposals and pseudo labels are exported by whole splits")
    if instance.startswith(("label", "import.")) and holds_pseudo_labels(finished_instance(run_folder, instance)):
        from pipelines.exchange.export_pseudo_labels import run_export_pseudo_labels

        _one_of("--as", to, ("coco", "voc", "yolo"))
        labels = run_export_pseudo_labels(
            run_folder,
            to=to,  # type: ignore[arg-type]
            split=split,
            out=out,
            instance=instance,
            missing=missing,  # type: ignore[arg-type]
            pictures=pictures,  # type: ignore[arg-type]
            overwrite=overwrite,
        )
        console.print(labels["text"], markup=False)
        return
    _one_of("--as", to, ("wetectron", "mmdet", "coco"))
    done = run_export(
        run_folder,
        to=to,  # type: ignore[arg-type]
        split=split,
        out=out,
        instance=instance,
        missing=missing,  # type: ignore[arg-type]
        overwrite=overwrite,
    )
    console.print(done["text"], markup=False)


@app.command("import")
def import_(
    run_folder: RunArgument,
    file: Annotated[
        str, typer.Argument(help="wetectron or mmdet pickle, COCO results JSON, or Selective Search .mat.")
    ],
    name: Annotated[str, typer.Option("--name", help="The instance becomes import.NAME.")],
    split: Annotated[str, typer.Option("--split", help="Whose images; lists in split order (mmdet) need it.")] = "",
    source: Annotated[str, typer.Option("--source", help="What the column `source` says of every box.")] = "imported",
    missing: Annotated[
        str, typer.Option("--missing", help="Images that the file does not know: error, or empty.")
    ] = "error",
) -> None:
    """Read proposals of another project into a run; pickles go through a reader that refuses code.

    Example:

        weaksam import runs/voc07 ss_voc_2007_trainval.mat --name ss --split trainval --source selective-search
    """
    from pipelines.exchange.import_proposals import run_import

    terminal.go_on_unread()
    _one_of("--missing", missing, ("error", "empty"))
    done = run_import(run_folder, file, name=name, split=split, source=source, missing=missing)  # type: ignore[arg-type]
    console.print(f"import.{name}: {done['text']}", markup=False)


@app.command()
def doctor(uri: Annotated[str, typer.Argument(help="Also check access to this data or run folder.")] = "") -> None:
    """Look at this machine: versions, cores, memory, GPUs, disks, S3, Ray. Exit code 1 if something will not work.

    Example:

        weaksam doctor s3://bucket/coco
    """
    from pipelines.cli.doctor import run_doctor

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    checks = run_doctor(uri)
    table = TextTable()
    table.add_columns(Kind.NAME, "check", "state")
    table.add_columns(Kind.TEXT, "found", "what to do")
    for check in checks:
        table.add_row(check.name, Text(check.state, style=colours[check.state]), check.detail, check.remedy)
    console.print(table)
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


weights_app = typer.Typer(
    no_args_is_help=True, help="The weights that recipes name: what there is, and fetching it ahead."
)
app.add_typer(weights_app, name="weights")


@weights_app.command("list")
def weights_list() -> None:
    """List built-in and published weights, and which of them are on this machine.

    Example:

        weaksam weights list
    """
    from pipelines.cli.weights import list_weights

    table = TextTable()
    table.add_columns(Kind.NAME, "name", "here")
    table.add_columns(Kind.FIGURE, "MB")
    table.add_columns(Kind.NAME, "SHA-256")
    table.add_columns(Kind.TEXT, "what")
    for row in list_weights():
        size = "" if row.size_bytes is None else f"{row.size_bytes / 1e6:,.1f}"
        what = Text.assemble(f"{row.note}\n", (row.uri, "dim"))
        table.add_row(row.name, "yes" if row.path else "no", size, row.sha256[:12], what)
    console.print(table)


@weights_app.command("pull")
def weights_pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME|URI", help="A name of the list, or any path, https:// or s3:// address.")
    ],
    sha256: Annotated[str, typer.Option("--sha256", help="The checksum that the file must have.")] = "",
) -> None:
    """Fetch weights into the cache ($WEAKSAM_CACHE or ~/.cache/weaksam), where runs find them.

    Example:

        weaksam weights pull vit_b
    """
    from pipelines.cli.weights import pull_weights

    terminal.go_on_unread()
    with console.status(f"fetching {name}"):
        file = pull_weights(name, sha256=sha256)
    console.print(f"{file.path}\nsha256 {file.sha256} ({'as expected' if file.known else 'nothing to compare with'})")


def main() -> None:
    """Run the command line; a mistake of the user's ends in one line of text, exit code 1 (3: too many images dropped)."""
    terminal.open_streams()
    interrupts.install(_end_now)
    with ray_session.left_at_the_end():
        try:
            _check_surroundings()
            for entry_point in _extensions():
                entry_point.load()(app)
            app(prog_name="weaksam")
        except _Interrupted as error:
            _end_now(error.code)
        except KeyboardInterrupt as error:  # while verbs are being imported
            _end_now(interrupts.exit_code(error))
        except Exception as error:
            told = explain(error)
            if told is None:
                raise
            _fail(str(told), told.exit_code)
        finally:
            interrupts.hold()


def _check_surroundings() -> None:
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"expected arguments in UTF-8, got {argument!a}; rename the file or folder") from None
    try:
        os.getcwd()
    except OSError as error:
        raise StorageError(f"the working directory is gone ({error.strerror}); change to another one") from error


def _run(
    recipe_name: str,
    data: str,
    out: str,
    overrides: list[str] | None,
    limit: int,
    options: Options,
    print_recipe: bool,
    verbose: int,
    choose: Callable[[Recipe], list[str]],
) -> None:
    from pipelines.runner import run_instances
    from pipelines.store.tables import write_bytes

    set_up_logging(verbose)
    if _is_run_folder(recipe_name):
        out = out or recipe_name
        recipe_name = join(recipe_name, "recipe.yaml")
    values = [*(overrides or []), *([f"data.limit={limit}"] if limit else [])]
    recipe, origins = load_recipe(recipe_name, values, data)
    if print_recipe:
        console.print(render(recipe, origins), markup=False, highlight=False)
        return
    run_uri = _run_uri(recipe, out, limit)
    names = choose(recipe)
    if not options.dry_run:
        terminal.go_on_unread()
        write_bytes(join(run_uri, "recipe.yaml"), render(recipe).encode())
    manifests = run_instances(recipe, run_uri, names, options, console)
    if limit and manifests:
        _print_estimate(recipe, run_uri, manifests)


def _run_uri(recipe: Recipe, out: str, limit: int) -> str:
    """Return the run folder, absolute: actors and training workers run in folders of their own."""
    if not recipe.data.uri:
        raise ConfigError(f"recipe {recipe.name} names no data; add --data FOLDER, s3://… or shapes:")
    out = absolute(out or join("runs", recipe.name))
    if found := in_the_way(out):
        raise ConfigError(f"--out: {found}; name a folder")
    return join(out, f"preview-{limit}") if limit else out


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{option}: expected one of {', '.join(allowed)}, got {value!r}")


def _is_run_folder(name: str) -> bool:
    if name in shipped_recipes() or name.endswith((".yaml", ".yml")):
        return False
    fs, path = open_fs(join(name, "recipe.yaml"))
    return bool(fs.exists(path))


def _between(stages: tuple[str, ...], first: str, last: str) -> list[str]:
    for name in (first, last):
        if name and name not in stages:
            raise ConfigError(f"--from/--until: expected one of {', '.join(stages)}, got {name!r}")
    begin = stages.index(first) if first else 0
    end = stages.index(last) + 1 if last else len(stages)
    if begin >= end:
        raise ConfigError(f"--from {first} comes after --until {last}; the order is {', '.join(stages)}")
    return list(stages[begin:end])


def _print_estimate(recipe: Recipe, run_uri: str, manifests: dict[str, dict[str, Any]]) -> None:
    """Say what the whole run would take, from what the preview took: time, disk, and cost if a price is set."""
    index, proposed = manifests.get("index", {}), manifests.get("propose", {})
    rate = proposed.get("throughput", {}).get("images_per_s", 0.0)
    done = proposed.get("images", {}).get("done", 0)
    if not rate or not done:
        return
    wanted = recipe.propose.splits or tuple(index["available"])
    total = sum(index["available"][split] for split in wanted)
    fs, path = open_fs(run_uri)
    gigabytes = fs.du(path) / done * total / 1e9
    hours = total / rate / 3600
    cost = f", about {hours * recipe.resources.price_per_hour:,.2f} at {recipe.resources.price_per_hour:g} an hour"
    console.print(
        f"preview: {done:,} images at {rate:.2f} img/s. All {total:,} would take about {hours:,.1f} h on this machine and "
        f"{gigabytes:,.2f} GB{cost if recipe.resources.price_per_hour else ''}."
    )


def set_up_logging(verbose: int) -> None:
    """Say what goes on to standard error: warnings; -v what each stage does; -vv everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    for name in ("weaksam", "pipelines"):
        logging.getLogger(name).setLevel(level)
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning)


def _extensions() -> list[Any]:
    """Return what registers more verbs: entry points of the group ``weaksam.commands``, each a function of the app."""
    from importlib.metadata import entry_points

    return list(entry_points(group="weaksam.commands"))


def _end_now(code: int) -> NoReturn:
    """End this process, which was asked to stop, with all that it started; its locks are released or known to be nobody's."""
    if not _told:
        _told.append(_INTERRUPTED)
        terminal.say(f"error: {_INTERRUPTED}")
    terminal.close_streams()
    ray_session.kill_processes()
    os._exit(code)


def _fail(message: str, code: int) -> NoReturn:
    _told.append(message)
    terminal.say(f"error: {message}")
    sys.exit(code)
