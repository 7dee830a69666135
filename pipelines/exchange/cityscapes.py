"""Label maps as Cityscapes' PNGs of ids, which trainers of semantic segmentation read.

    SPLIT/STEM_labelIds.png   grey, 8 bits: 0 background, the number of the class, 255 where nobody decides; STEM is the
                              picture's name without its suffix, and may hold folders as Cityscapes' cities are
    SPLIT/classes.txt         the names of the classes, one a line: line n is of the number n

The ids are the data set's own and not those of Cityscapes' classes.
"""

from __future__ import annotations

import posixpath

from pipelines.exchange.content import SplitLabelMaps
from pipelines.exchange.export import Export, Target
from pipelines.exchange.file_names import file_stem
from pipelines.exchange.files import recorded_export
from pipelines.store.files import write_bytes
from weaksam.errors import DataError
from weaksam.io.files import join
from weaksam.label_maps import encode_label_map


def write_label_maps(content: SplitLabelMaps, target: Target) -> str:
    """Write a PNG per image, and the names of the classes.

    Raises:
        DataError: two pictures would share one file, or ``recorded_export``'s.
    """
    split, files = file_stem(content.of.split), dict[str, str]()
    first: dict[str, str] = {}
    for image_id, name in content.file_names.items():
        files[image_id] = file = f"{split}/{posixpath.splitext(name)[0]}_labelIds.png"
        if first.setdefault(file, name) != name:
            raise DataError(
                f"images {first[file]!r} and {name!r} would share one file; rename one of them, or export as coco"
            )
    classes = f"{split}/classes.txt"
    to_write = [*files.values(), classes]
    with recorded_export(target.out, to_write, to="cityscapes", split=split, overwrite=target.overwrite) as replaced:
        for image_id, label_map in content.maps():
            write_bytes(join(target.out, files[image_id]), encode_label_map(label_map))
        write_bytes(join(target.out, classes), "".join(f"{name}\n" for name in content.class_names).encode())
    return f" · replaced {replaced:,} files of an earlier export" if replaced else ""


LABEL_MAPS = Export(write=write_label_maps)
