"""Label maps for new pictures: PNGs with VOC's palette, and pictures with the maps drawn over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.exchange.file_names import safe_name, suffixed
from pipelines.exchange.files import recorded_export
from pipelines.exchange.pictures import pictures_of
from pipelines.exchange.voc_masks import palette_png, voc_palette
from pipelines.predict.pictures import FOLDER, Drawn, draw_some, fitted, split_folder
from pipelines.products.index import Index
from pipelines.products.label_maps import EncodedMaps, LabelMapTable
from pipelines.store.files import write_bytes
from pipelines.store.instances import Instance
from weaksam.drawing import draw_captions, draw_masks
from weaksam.io.files import join
from weaksam.label_maps import BACKGROUND, IGNORED, decode_label_map
from weaksam.masks_np import tight_box

_MAPS = "label_maps"  # folder of a run of predictions; one of each split lies in it
_CLASSES = "classes.txt"  # in the folder of a split: the name of each number


def write_label_maps(index: Instance, predicted: Instance, *, pictures: int) -> Iterator[str]:
    """Write what was predicted beside the tables of its run, as PNGs and as pictures with the maps drawn over.

    Args:
        index: finished, of the run of predictions.
        predicted: finished, of ``predict-maps``; what an earlier call wrote of it is replaced, unless it was changed since.
        pictures: at most so many of a split are drawn, a sample that does not depend on their names; 0 = none.

    Yields:
        lines for people, of one split after the other.

    Raises:
        DataError: files of somebody else are in the way.
    """
    table = LabelMapTable(predicted)
    maps, class_names = EncodedMaps(table.table), table.class_names
    for split in Index(index).facts.splits:
        of_split = pictures_of(index, split)
        names, found = of_split.names, [image_id for image_id in of_split.names if image_id in maps]
        out, files = join(index.run_uri, _MAPS, safe_name(split)), suffixed([names[i] for i in found], [".png"])
        with recorded_export(out, [*files, _CLASSES], to=_MAPS, split=safe_name(split), overwrite=True):
            numbered = enumerate(("background", *class_names))
            write_bytes(join(out, _CLASSES), "".join(f"{n} {name}\n" for n, name in numbered).encode())
            for image_id, file in zip(found, files, strict=True):
                write_bytes(join(out, file), palette_png(_decoded(maps, image_id)))
        missing = f" ({len(names) - len(found):,} dropped)" if len(found) < len(names) else ""
        yield f"{out}: images {len(found):,}{missing} · PNGs of class numbers, named in {_CLASSES}"
        if pictures:
            drawn = [
                Drawn(
                    image_id, names[image_id], partial(_with_map, of_split.uris[image_id], maps, image_id, class_names)
                )
                for image_id in found
            ]
            yield draw_some(drawn, split_folder(index, FOLDER, split), split, pictures, what="their label maps")


def _decoded(maps: EncodedMaps, image_id: str) -> NDArray[np.uint8]:
    return decode_label_map(maps[image_id], f"image {image_id}")


def _with_map(uri: str, maps: EncodedMaps, image_id: str, class_names: Sequence[str]) -> Image.Image:
    """Return a picture with its label map drawn over it in VOC's colours, each class named once."""
    picture, scale = fitted(uri)
    label_map = _decoded(maps, image_id)
    numbers = [n for n in np.unique(label_map).tolist() if n not in (BACKGROUND, IGNORED)]
    palette = voc_palette()
    colours = [f"#{bytes(palette[3 * n : 3 * n + 3]).hex()}" for n in numbers]
    picture = draw_masks(picture, (label_map == n for n in numbers), colours)
    corners = np.array([tight_box(label_map == n) for n in numbers], np.float32).reshape(-1, 4)
    captions = [class_names[n - 1] for n in numbers]
    return draw_captions(picture, corners, captions, ["#ffffff"] * len(numbers), scale=scale)
