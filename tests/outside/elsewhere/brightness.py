"""A stage with a table of its own: how bright the images are. Rows of images that were there before are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.dataflow.rows import planned_images
from pipelines.engine.product import Facts, Product
from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.index import Index
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.store.dropped import write_dropped
from pipelines.store.identities import identities
from pipelines.store.planned import CONTENT, without
from pipelines.store.proof import prove
from pipelines.store.schemas import IMAGE_ID, INPUT
from pipelines.store.tables import part_name
from weaksam.errors import ImageError
from weaksam.io.files import read_bytes
from weaksam.io.images import decode_image


@dataclass(frozen=True, kw_only=True)
class BrightnessConfig:
    """What a recipe says under ``brightness``."""

    scale: float = 1.0


class BrightnessTable(Product[Facts]):
    """One row an image."""

    schema = pa.schema([IMAGE_ID, INPUT, pa.field("brightness", pa.float64())])

    def mean(self) -> float:
        """The mean over all images."""
        found = [row["brightness"] for row in self.table.iter_rows()]
        return sum(found) / len(found)


@dataclass(frozen=True, kw_only=True)
class BrightnessOptions:
    """What an instance depends on."""

    index: Input = INDEX
    brightness: BrightnessConfig


class BrightnessStage(Stage[BrightnessOptions]):
    """See the module."""

    verb = "brightness"
    help = "Measure how bright the images are."
    product = BrightnessTable
    section = BrightnessConfig

    def options(self, recipe: Recipe, name: str) -> BrightnessOptions:
        """Take the section of this verb."""
        return BrightnessOptions(brightness=recipe.section_of(name))

    def images(self, options: BrightnessOptions) -> ImagesRead:  # noqa: ARG002
        """Return all of them; nothing but their pixels matters."""
        return ImagesRead(columns=(CONTENT,))

    def makes_rows(self, options: BrightnessOptions) -> bool:  # noqa: ARG002
        """True: no image depends on another."""
        return True

    def knows_classes(self, options: BrightnessOptions) -> bool:  # noqa: ARG002
        """False: brightness is of no class."""
        return False

    def run(self, job: Job[BrightnessOptions]) -> Facts:
        """Write the rows that are not there yet."""
        index, scale = job.input(job.options.index, Index), job.options.brightness.scale
        planned, table = job.instance.planned_rows(), job.instance.table(BrightnessTable.schema)
        left = without(planned, identities(table))
        rows: list[dict[str, Any]] = []
        unusable: list[dict[str, Any]] = []
        for image in planned_images(left, index.read()).to_pylist():
            try:
                brightness = float(decode_image(read_bytes(image["uri"])).mean()) * scale
            except ImageError as error:
                unusable.append({**image, "reason": error.reason, "detail": error.detail})
            else:
                rows.append({"image_id": image["image_id"], "input": image["input"], "brightness": brightness})
        if rows:
            part = pa.Table.from_pylist(rows, schema=table.schema)
            table.write_part(part, part_name(part, job.lock.token))
        write_dropped(job.instance, unusable)
        proof = prove(planned, table, job.instance.dropped, before=planned.num_rows - left.num_rows)
        return Facts(text=f"{proof} · mean {BrightnessTable(job.instance).mean():.1f}", images=proof)


STAGE = BrightnessStage()
