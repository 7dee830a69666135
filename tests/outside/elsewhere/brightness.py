"""A stage with a table of its own: how bright the images are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.engine.product import Facts, Product
from pipelines.engine.stage import Job, Stage
from pipelines.products.index import Index
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.store.instances import prove
from pipelines.store.schemas import IMAGE_ID


@dataclass(frozen=True, kw_only=True)
class BrightnessConfig:
    """What a recipe says under ``brightness``."""

    scale: float = 1.0


class BrightnessTable(Product[Facts]):
    """One row an image."""

    schema = pa.schema([IMAGE_ID, pa.field("brightness", pa.float64())])

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

    def run(self, job: Job[BrightnessOptions]) -> Facts:
        """Write the table."""
        index = job.input(job.options.index, Index)
        read_image, scale = index.image_reader(), job.options.brightness.scale
        ids = list(index.uris())
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "brightness": float(read_image(image_id).mean()) * scale} for image_id in ids
        ]
        table = BrightnessTable(job.instance).table
        table.write_rows(rows, "part-0")
        proof = prove(ids, table, job.instance.dropped)
        return Facts(text=f"{proof} · mean {BrightnessTable(job.instance).mean():.1f}", images=proof)


STAGE = BrightnessStage()
