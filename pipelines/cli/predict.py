"""``weaksam predict``: boxes, masks or label maps for new pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from pipelines.bringing import dropped_allowed, too_many_dropped
from pipelines.cli import terminal, without_effect
from pipelines.cli.console import set_up_logging, voice
from pipelines.cli.options import Request, RetryOption, RunArgument, WaitOption, spread
from pipelines.engine.stage import Options
from pipelines.predict.boxes import FORMATS, write_boxes
from pipelines.predict.label_maps import write_label_maps
from pipelines.predict.predictor import predictor_of, require_own_folder
from pipelines.products.label_maps import LabelMapTable
from pipelines.recipe.keys import INDEX
from pipelines.recipe.model import Recipe
from pipelines.recipe.yaml_text import render
from pipelines.registry import stage_of
from pipelines.runner import Run
from pipelines.store.explain import in_the_way
from pipelines.store.files import write_bytes
from pipelines.store.lock import WAIT_S
from weaksam.errors import ConfigError
from weaksam.io.files import absolute, join


@dataclass(frozen=True, kw_only=True)
class PredictRequest(Request):
    """What ``predict`` is asked for."""

    run_folder: RunArgument
    data: Annotated[str, typer.Option("--data", help="Where the new pictures are: a folder or data set, or s3://….")]
    out: Annotated[str, typer.Option("--out", help="A folder for what comes out, local or s3://….")] = (
        "runs/predictions"
    )
    to: Annotated[str, typer.Option("--as", metavar="FORMAT", help=f"Of the annotations: {', '.join(FORMATS)}.")] = (
        "coco"
    )
    score: Annotated[
        float, typer.Option("--score", min=0, help="Boxes that score less are left out; the tables of OUT have all.")
    ] = 0.3
    of: Annotated[
        str,
        typer.Option(
            "--of",
            metavar="INSTANCE",
            help="Whose detector or segmenter: detect.NAME or predict-maps; default: the last that the run's recipe lists.",
        ),
    ] = ""
    pictures: Annotated[
        int, typer.Option("--pictures", min=0, metavar="N", help="Draw the boxes of at most N pictures of a split.")
    ] = 200
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Copy the pictures beside the annotations of voc, yolo and labelme; else links."),
    ] = False
    retry_dropped: RetryOption = False
    wait: WaitOption = WAIT_S

    @property
    def options(self) -> Options:
        """See ``Request``."""
        return replace(super().options, retry_dropped=self.retry_dropped, wait_s=self.wait)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(spread(predict))


def predict(request: PredictRequest) -> None:
    """Find objects in new pictures with the detector that a finished run has trained, and write boxes and pictures.

    The pictures need no labels; what a data set says of them is not read. OUT is a run folder like any other: the same command
    continues after it was stopped, and looks at new pictures only when there are more. In it are the annotations, `pictures/`
    with the boxes drawn, as the last --score says, and `_dropped/` rows of pictures that cannot be read.

    --as: coco and coco-polygons (of masks) are one JSON for pycocotools and most trainers, voc and yolo folders to train
    on, and labelme a folder to correct boxes by hand in. Files that were changed since are never replaced.

    Of a run that ends in a segmenter (`predict-maps`), they are `label_maps/`, PNGs whose pixels are class numbers, and
    `pictures/` with the maps drawn over; --as, --score and --copy do not matter.

    Examples:

        weaksam predict runs/cards --data new_photos/ --out new_boxes

        weaksam predict runs/cards --data new_photos/ --out for_training --as yolo --score 0.5

        weaksam predict s3://bucket/runs/voc07 --data s3://bucket/new --out s3://bucket/boxes --as voc --address auto
    """
    set_up_logging(request.verbose)
    if request.to not in FORMATS:
        raise ConfigError(f"--as: expected one of {', '.join(FORMATS)}, got {request.to!r}")
    dropped_allowed(request.max_dropped, 0)  # a mistake in it is told before anything is done
    if not request.data:
        raise ConfigError(
            "--data: expected a folder, a data set or s3://…, got nothing; say where the new pictures are"
        )
    run_uri, out = absolute(request.run_folder), absolute(request.out)
    if found := in_the_way(out):
        raise ConfigError(f"--out: {found}; name a folder")
    require_own_folder(out, run_uri)
    values = request.overrides or []

    def asked(kept: Sequence[str]) -> Iterator[tuple[Recipe, list[str]]]:
        of_kept = predictor_of(run_uri, request.data, request.of, kept)
        yield of_kept.recipe, Run(of_kept.recipe, out).needed_for(of_kept.instance)

    recipe, name = predictor_of(run_uri, request.data, request.of, values)
    without_effect.warn(voice, values, values, asked)
    run = Run(recipe, out)
    if not request.dry_run:
        terminal.go_on_unread()
        write_bytes(join(out, "recipe.yaml"), render(recipe).encode())
    # What was found in the others is written however many were dropped.
    manifests = run.bring([name], replace(request.options, max_dropped="100%"), voice)
    if request.dry_run:
        return
    made = run.instance(INDEX), run.instance(name)
    if issubclass(stage_of(name).product, LabelMapTable):
        lines = write_label_maps(*made, pictures=request.pictures)
    else:
        lines = write_boxes(*made, request.to, least_score=request.score, pictures=request.pictures, copy=request.copy)
    for line in lines:
        voice.say(line)
    for stage, manifest in manifests.items():
        if too_many := too_many_dropped(run.instance(stage), manifest, request.max_dropped):
            voice.say("what was found in all other pictures is written")
            raise too_many
