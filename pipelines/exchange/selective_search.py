"""Selective Search as distributed with Fast R-CNN: a MATLAB file with the cells ``boxes`` and ``images``."""

from __future__ import annotations

import numpy as np

from pipelines.exchange.boxes import Boxes, add_image, in_order, to_array
from pipelines.exchange.image_ids import KnownImages, shown
from weaksam.errors import DataError
from weaksam.io.matlab import MatlabError, read_variables


def read_selective_search(data: bytes, where: str, known: KnownImages) -> dict[str, Boxes]:
    """Read a MATLAB file up to version 7: ``boxes``, a cell of (y1 x1 y2 x2), inclusive and from 1, and ``images``, names."""
    try:
        held = read_variables(data, ("boxes", "images"))
    except NotImplementedError as error:
        raise DataError(f"{where}: a MATLAB 7.3 file; save it with -v7 (or read and export it with h5py)") from error
    except MatlabError as error:
        raise DataError(f"{where}: not a readable MATLAB file ({error}); write it again") from error
    if "boxes" not in held or "images" not in held:
        raise DataError(
            f"{where}: expected the variables boxes and images, got "
            f"{', '.join(sorted(map(shown, held))[:8]) or 'none'}; rename them"
        )
    cells, names = held["boxes"], held["images"]
    for variable, value in (("boxes", cells), ("images", names)):
        if not isinstance(value, list):
            raise DataError(f"{where}: {variable}: expected a cell array with one cell per image, got {shown(value)}")
    if len(cells) != len(names):
        raise DataError(
            f"{where}: expected as many boxes as images, got {len(cells):,} and {len(names):,}; write the file again"
        )
    found: dict[str, Boxes] = {}
    for n, (name, cell) in enumerate(zip(names, cells, strict=True)):
        place = f"{where}: boxes{{{n + 1}}}"
        yxyx = to_array(cell, place)[:, :4]
        if yxyx.size and yxyx.min() < 1:
            raise DataError(
                f"{place}: expected coordinates that count from 1, got {yxyx.min():g}; add 1 to those that count from 0"
            )
        if not isinstance(name, str):
            raise DataError(f"{where}: images: expected names, got {shown(name)}")
        xyxy = (yxyx[:, (1, 0, 3, 2)] - (1, 1, 0, 0)).astype(np.float32)
        add_image(found, known.find(name, where), in_order(xyxy, place), where)
    return found
