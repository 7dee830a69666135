"""``weaksam export`` and ``weaksam import``: files of other projects."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli import terminal
from pipelines.cli.console import console
from pipelines.cli.options import RunArgument
from weaksam.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("export")(export_)
    app.command("import")(import_)


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


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{option}: expected one of {', '.join(allowed)}, got {value!r}")
