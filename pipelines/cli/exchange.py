"""``weaksam export``, ``weaksam import`` and ``weaksam import-masks``: files of other projects."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import typer

from pipelines.cli import terminal
from pipelines.cli.console import voice
from pipelines.cli.options import RunArgument, spread
from pipelines.exchange.export import Missing, Product, exported_verbs, formats_of, refuse_others, run_export
from pipelines.exchange.import_masks import OwedTo, run_import_masks
from pipelines.exchange.imports import run_import
from pipelines.exchange.pictures import PictureMode
from pipelines.exchange.true_boxes import run_export_true_boxes
from weaksam.errors import ConfigError

_INTO_THE_RUN = "pseudo-labels"  # the format of true boxes: an instance of the run
_OF = f"What to write, an instance of {', '.join(exported_verbs())}; default propose."
_FORMATS = "; ".join(f"{product}: {', '.join(formats_of(product))}" for product in Product)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What ``export`` is asked for; None = not given."""

    run_folder: RunArgument
    to: Annotated[
        str,
        typer.Option(
            "--as", metavar="FORMAT", help=f"The format. Of {_FORMATS}. Of true boxes: {_INTO_THE_RUN}, in the run."
        ),
    ]
    split: Annotated[str | None, typer.Option("--split", help="Whose images.")] = None
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="The file to write, local or s3://…; for voc, yolo, labelme and cityscapes a folder."
        ),
    ] = None
    of: Annotated[str | None, typer.Option("--of", metavar="INSTANCE", help=_OF)] = None
    missing: Annotated[Missing | None, typer.Option("--missing", help="Images without a row; default error.")] = None
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="FILE",
            help="Detections, or label maps as coco, of these images alone: ids, or COCO instances.",
        ),
    ] = None
    pictures: Annotated[
        PictureMode | None,
        typer.Option("--pictures", help="Into the folder of pseudo labels as labelme, voc or yolo; default link."),
    ] = None
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Replace an earlier export.")] = None
    name: Annotated[
        str | None, typer.Option("--name", help="True boxes become the instance true-boxes.NAME of the run.")
    ] = None
    noise: Annotated[
        float | None, typer.Option("--noise", metavar="SHARE", help="Share of the true boxes made wrong; default 0.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Of the noise; default 0.")] = None

    @property
    def given(self) -> list[str]:
        """The options that were given, beside the run and the format."""
        names = (option.name for option in fields(self) if option.name not in ("run_folder", "to"))
        return [name for name in names if getattr(self, name) is not None]


_OF_TRUE_BOXES = ("name", "noise", "seed")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("export")(spread(export))
    app.command("import")(import_)
    app.command("import-masks")(import_masks)


def export(request: ExportRequest) -> None:
    """Write what a run found in another project's format, or true boxes as pseudo labels into the run.

    True boxes are for measuring what pseudo labels cost: a detector retrained on them (retrain.learn_from: true-boxes.NAME)
    is not weakly supervised any more, and everything made of it says `supervision: boxes`. mmdet trains on COCO files: write
    pseudo labels for it as coco.

    Examples:

        weaksam export runs/voc07 --as wetectron --split trainval --out voc07_trainval.pkl

        weaksam export runs/voc12 --of detect.mil --as voc --split test --out results/VOC2012/Main

        weaksam export runs/coco14 --of detect.mil --as coco --split val2014 --only instances_minival2014.json --out r.json

        weaksam export runs/voc07 --of label --as yolo --split trainval --out voc07-pseudo

        weaksam export runs/voc12 --of seeds --as voc --split trainaug --out voc12-seeds

        weaksam export runs/voc12 --of segment --as coco --split train --out voc12-masks.json

        weaksam export runs/voc07 --as pseudo-labels --name noisy --noise 0.3
    """
    terminal.go_on_unread()
    run_folder, to = request.run_folder, request.to
    if to == _INTO_THE_RUN:
        refuse_others(f"{to} of true boxes", request.given, _OF_TRUE_BOXES)
        if not request.name:
            raise ConfigError(f"--as {to}: expected --name, of the instance true-boxes.NAME that true boxes become")
        noise, seed = request.noise or 0.0, request.seed or 0
        run_export_true_boxes(run_folder, name=request.name, voice=voice, noise=noise, seed=seed)
        return
    takes = [option.name for option in fields(request) if option.name not in _OF_TRUE_BOXES]
    refuse_others(to, request.given, [name for name in takes if name not in ("run_folder", "to")])
    if not request.split or not request.out:
        raise ConfigError(f"--as {to}: expected --split, whose images, and --out, where to write them")
    done = run_export(
        run_folder,
        to=to,
        split=request.split,
        out=request.out,
        instance=request.of or "propose",
        missing=request.missing or Missing.ERROR,
        only=request.only,
        pictures=request.pictures,
        overwrite=bool(request.overwrite),
    )
    voice.say(done["text"])


def import_(
    run_folder: RunArgument,
    file: Annotated[
        str, typer.Argument(help="wetectron or mmdet pickle, COCO results JSON, or Selective Search .mat.")
    ],
    name: Annotated[str, typer.Option("--name", help="The instance becomes import.NAME.")],
    split: Annotated[str, typer.Option("--split", help="Whose images; lists in split order (mmdet) need it.")] = "",
    source: Annotated[str, typer.Option("--source", help="What the column `source` says of every box.")] = "imported",
    missing: Annotated[
        Missing, typer.Option("--missing", help="Images that the file does not know: error, or empty.")
    ] = Missing.ERROR,
) -> None:
    """Read proposals of another project into a run; pickles go through a reader that refuses code.

    Example:

        weaksam import runs/voc07 ss_voc_2007_trainval.mat --name ss --split trainval --source selective-search
    """
    terminal.go_on_unread()
    run_import(run_folder, file, name=name, voice=voice, split=split, source=source, missing=missing.value)


def import_masks(
    run_folder: RunArgument,
    file: Annotated[
        str,
        typer.Argument(help="COCO instances JSON, or a folder of VOC's PNGs, YOLO's polygons or Labelme's shapes."),
    ],
    name: Annotated[str, typer.Option("--name", help="The instance becomes import-masks.NAME.")],
    supervision: Annotated[
        OwedTo | None,
        typer.Option(
            "--supervision", help="What the masks are owed to, where the file does not say: what people drew."
        ),
    ] = None,
) -> None:
    """Read pseudo labels with masks of another project into a run, for the split that labels are granted to.

    What `export` writes of masks is read back. Boxes and areas are those of the masks. A detector learns from them with
    retrain.learn_from: import-masks.NAME, and everything made of them repeats what they are owed to.

    Examples:

        weaksam import-masks runs/voc12 voc12-masks.json --name mine

        weaksam import-masks runs/voc12 pseudo/ --name cam --supervision image-labels

        weaksam retrain voc12-masks --out runs/voc12 --label masks --set retrain.masks.learn_from=import-masks.cam
    """
    terminal.go_on_unread()
    run_import_masks(run_folder, file, name=name, supervision=supervision or "", voice=voice)
