"""Pictures with what was predicted drawn over them, to look at."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from pipelines.exchange.file_names import safe_name, suffixed
from pipelines.exchange.files import recorded_export
from pipelines.products.index import Index, in_hash_order
from pipelines.store.files import write_bytes
from pipelines.store.instances import Instance
from weaksam.drawing import fit
from weaksam.errors import ImageError
from weaksam.io.files import join, read_bytes
from weaksam.io.images import decode_image

FOLDER = "pictures"  # of a run of predictions
_LEAST_SIDE, _MOST_SIDE = 640, 1024  # pixels, longest side of a picture that is drawn on: room for captions
_SUFFIXES, _QUALITY = (".jpg", ".jpeg"), 90  # of JPEG, which pictures are drawn as
_DRAWERS = 4  # threads


class Drawn(NamedTuple):
    """A picture, and what draws over it."""

    image_id: str
    file_name: str  # its path under the folder of its split's pictures
    draw: Callable[[], Image.Image]  # may raise ImageError


def split_folder(index: Instance, name: str, split: str) -> str:
    """Return the folder of a run of predictions for what is made of a split: ``name``, of several splits one in it for each."""
    of_several = [safe_name(split)] if len(Index(index).facts.splits) > 1 else []
    return join(index.run_uri, name, *of_several)


def fitted(uri: str) -> tuple[Image.Image, float]:
    """Return a picture at a size to draw on, and the factor that scaled it; raise ImageError where it cannot be read."""
    pixels = decode_image(read_bytes(uri))
    return fit(pixels, min(max(_LEAST_SIDE, *pixels.shape[:2]), _MOST_SIDE))


def draw_some(images: Sequence[Drawn], folder: str, split: str, most: int, *, what: str) -> str:
    """Draw some images of a split into a folder, JPEGs; return what to say of it, ``what`` being what is drawn.

    What an earlier call drew is replaced, unless it was changed since; those that are drawn are a sample that does not depend
    on their names.
    """
    by_id = {image.image_id: image for image in images}
    file_of = dict(zip(by_id, suffixed([image.file_name for image in by_id.values()], _SUFFIXES), strict=True))
    chosen = [by_id[image_id] for image_id in in_hash_order(list(by_id))[:most]]
    files = [file_of[image.image_id] for image in chosen]

    def draw(image: Drawn, file: str) -> bool:
        try:
            picture = image.draw()
        except ImageError:
            return False
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=_QUALITY)
        write_bytes(join(folder, file), buffer.getvalue())
        return True

    with (
        recorded_export(folder, files, to=FOLDER, split=safe_name(split), overwrite=True),
        ThreadPoolExecutor(_DRAWERS) as threads,
    ):
        drawn = sum(threads.map(draw, chosen, files))
    lost = f", {len(chosen) - drawn:,} cannot be read any more" if drawn < len(chosen) else ""
    more = f" of {len(by_id):,}; --pictures {len(by_id)} draws all" if len(chosen) < len(by_id) else ""
    return f"{folder}: {drawn:,} pictures with {what}{lost}{more}"
