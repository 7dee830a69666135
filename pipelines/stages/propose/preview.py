"""What a whole run would take, from what its preview (``--limit``) took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.engine.product import Product
from pipelines.products.index import Index
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.model import Recipe
from weaksam.io.files import open_fs


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Proposals of a preview, and what those of the whole data set would take on the same machines."""

    done: int  # images of the preview
    images_per_s: float
    images: int  # of the whole
    seconds: float
    gigabytes: float  # of the whole run folder


def estimate(recipe: Recipe, run_uri: str, products: Mapping[str, Product[Any]]) -> Preview | None:
    """Scale a preview up; None for a run that is none, or that timed no proposals.

    Args:
        recipe: of the preview.
        run_uri: its folder, which is as large as it has become.
        products: of its instances by name. Of several that made proposals, one is done after the other.
    """
    made = {name: table.facts for name, table in products.items() if isinstance(table, ProposalTable)}
    rates = {name: f.throughput.images_per_s for name, f in made.items() if f.throughput and f.throughput.images_per_s}
    done = max((proof.done for name in rates if (proof := made[name].images)), default=0)
    index = next((product for product in products.values() if isinstance(product, Index)), None)
    if not recipe.data.limit or not done or index is None:
        return None
    available = index.facts.available
    images = {name: sum(available[split] for split in recipe.of(name).propose.splits or available) for name in rates}
    seconds = sum(images[name] / rate for name, rate in rates.items())
    fs, path = open_fs(run_uri)
    whole = max(images.values())
    return Preview(
        done=done,
        images_per_s=sum(images.values()) / seconds if seconds else 0.0,
        images=whole,
        seconds=seconds,
        gigabytes=fs.du(path) / done * whole / 1e9,
    )
