"""What a whole run would take, from what its preview (``--limit``) took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.recipe.model import Recipe, verb_of
from weaksam.io.files import open_fs


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Proposals of a preview, and what those of the whole data set would take on the same machines."""

    done: int  # images of the preview
    images_per_s: float
    images: int  # of the whole
    seconds: float
    gigabytes: float  # of the whole run folder


def estimate(recipe: Recipe, run_uri: str, manifests: Mapping[str, Mapping[str, Any]]) -> Preview | None:
    """Scale a preview up; None for a run that is none, or that timed no proposals.

    Args:
        recipe: of the preview.
        run_uri: its folder, which is as large as it has become.
        manifests: of its instances by name. Of several of ``propose``, one is done after the other.
    """
    timed = {
        name: manifest
        for name, manifest in manifests.items()
        if verb_of(name) == "propose" and manifest.get("throughput", {}).get("images_per_s")
    }
    done = max((manifest.get("images", {}).get("done", 0) for manifest in timed.values()), default=0)
    if not recipe.data.limit or not done:
        return None
    available = manifests["index"]["available"]
    images = {name: sum(available[split] for split in recipe.of(name).propose.splits or available) for name in timed}
    seconds = sum(images[name] / manifest["throughput"]["images_per_s"] for name, manifest in timed.items())
    fs, path = open_fs(run_uri)
    whole = max(images.values())
    return Preview(
        done=done,
        images_per_s=sum(images.values()) / seconds if seconds else 0.0,
        images=whole,
        seconds=seconds,
        gigabytes=fs.du(path) / done * whole / 1e9,
    )
