"""Lay drawn objects over photographs: ``python -m tools.paste_shapes --backgrounds photos/ --out pasted/``.

Writes a data set in COCO's layout, between drawings and photographs: objects whose boxes and masks are exact, before grounds
that are real. Objects, their blobs and their seeds are those of ``shapes:``; each picture's ground is a random square of a
photograph, and no photograph is the ground of two splits. What the photographs show is nowhere said: take some without
objects of one's own interest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam.datasets.shapes import CLASS_NAMES, SPLITS, Drawing, data_set_seed, draw
from weaksam.errors import DataError, ImageError, WeaksamError
from weaksam.io.images import IMAGE_SUFFIXES, decode_image
from weaksam.masks_np import encode_rle, rle_as_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data set; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backgrounds", type=Path, required=True, help="a folder of photographs, folders in it included"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--size", type=int, default=320, help="pixels, width and height of a picture")
    parser.add_argument("--seed", type=int, default=0, help="0..999, of the drawings")
    for split, count in zip(SPLITS, (200, 0, 60), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, metavar="IMAGES", help=f"default {count}")
    args = parser.parse_args(arguments)
    counts = {split: getattr(args, split) for split in SPLITS if getattr(args, split)}
    try:
        paste_shapes(args.backgrounds, args.out, counts, size=args.size, seed=args.seed)
    except WeaksamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {', '.join(f'{split} {count:,}' for split, count in counts.items())}")
    return 0


def paste_shapes(backgrounds: Path, out: Path, counts: Mapping[str, int], *, size: int, seed: int) -> None:
    """Write the data set.

    Args:
        backgrounds: folder of photographs; those that cannot be read are left out.
        out: folder, which must not be there.
        counts: images of each of some of ``SPLITS``.
        size: pixels, width and height of a picture.
        seed: 0..999, of the drawings.

    Raises:
        DataError: ``out`` is there, there are fewer photographs than splits, or no drawing has the seed.
    """
    if not counts:
        raise DataError("expected an image or more in a split, got none; give --train, --val or --test")
    for split, count in counts.items():
        data_set_seed(seed, split, count - 1)  # before anything is made
    if out.exists():
        raise DataError(f"--out {out}: expected a folder that is not there yet; name another, or remove it")
    photographs = read_photographs(backgrounds)
    if len(photographs) < len(counts):
        raise DataError(
            f"--backgrounds {backgrounds}: expected a photograph or more for each of {len(counts)} splits, got "
            f"{len(photographs)} that can be read"
        )
    for number, (split, count) in enumerate(counts.items()):
        own = photographs[number :: len(counts)]
        (out / split).mkdir(parents=True)
        document: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": n, "name": name} for n, name in enumerate(CLASS_NAMES, start=1)],
        }
        for index in range(count):
            drawing_seed = data_set_seed(seed, split, index)
            drawing, image_id = draw(drawing_seed, size), drawing_seed + 1
            rng = np.random.Generator(np.random.PCG64([drawing_seed, 2]))  # apart from those of the drawing
            ground = random_square(own[rng.integers(len(own))], size, rng)
            on_top = (drawing.instance_map > 0) | (drawing.distractor_map > 0)
            name = f"{index:05d}.png"
            Image.fromarray(np.where(on_top[..., None], drawing.image, ground)).save(out / split / name)
            document["images"].append({"id": image_id, "file_name": name, "width": size, "height": size})
            first = len(document["annotations"]) + 1
            document["annotations"] += _annotations(drawing, image_id, first)
        (out / "annotations").mkdir(exist_ok=True)
        (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def read_photographs(folder: Path) -> list[NDArray[np.uint8]]:
    """The pictures of a folder and those below it, ``[H, W, 3]`` each; what cannot be read is left out and said."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    found = []
    for path in files:
        try:
            found.append(decode_image(path.read_bytes()))
        except ImageError as error:
            print(f"{path}: left out: {error}", file=sys.stderr)
    return found


def random_square(photograph: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a random square of a photograph, of half its shorter side or more, ``[size, size, 3]``."""
    height, width = photograph.shape[:2]
    side = max(1, int(min(height, width) * rng.uniform(0.5, 1)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def _annotations(drawing: Drawing, image_id: int, first: int) -> list[dict[str, Any]]:
    found = []
    for n, (class_index, (x1, y1, x2, y2)) in enumerate(
        zip(drawing.class_index.tolist(), drawing.boxes_xyxy.tolist(), strict=True)
    ):
        mask = drawing.instance_map == n + 1
        found.append(
            {
                "id": first + n,
                "image_id": image_id,
                "category_id": class_index + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.sum()),
                "segmentation": rle_as_json(encode_rle(mask)),
                "iscrowd": 0,
            }
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
