"""Automatic masks as readers get them: all, or the quasi-superpixels among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.products.superpixels import SuperpixelTable
from pipelines.store.schemas import SUPERPIXELS, automatic_masks_to_row
from tests.support.automatic_masks import automatic_masks
from tests.support.sets import FROM_NOTHING, instance_of, write_images
from weaksam.masks_np import decode_rle
from weaksam.segmentation.superpixels import superpixels_among
from weaksam.structures import PART, SUBPART, WHOLE


def test_superpixels_are_chosen_when_they_are_read(tmp_path: Path) -> None:
    halves = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
    corner = np.array([[0, 1, 1, 1], [0, 0, 0, 0]], bool)  # of which a third lies in the first half
    masks = automatic_masks([corner, halves, ~halves], size_hw=(2, 4), level=[SUBPART, WHOLE, PART])
    write_images(str(tmp_path), {"train": ["a", "none"], "val": ["b"]})
    instance = instance_of(str(tmp_path), "superpixels", splits=("train",))
    nothing = automatic_masks([], size_hw=(2, 4))
    rows = [automatic_masks_to_row(i, FROM_NOTHING, m) for i, m in (("a", masks), ("b", masks), ("none", nothing))]
    instance.table(SUPERPIXELS).write_rows(rows, "part-0")
    table = SuperpixelTable(instance)
    assert [(image.image_id, image.split, len(image.masks)) for image in table.images()] == [
        ("a", "train", 3), ("none", "train", 0),
    ]  # fmt: skip
    chosen = {image.image_id: superpixels_among(image.masks, 0.3) for image in table.images()}
    assert chosen["a"].level.tolist() == [WHOLE, PART]
    assert [decode_rle(rle).tolist() for rle in chosen["a"].mask_rle] == [halves.tolist(), (~halves).tolist()]
    assert len(chosen["none"]) == 0
    (of_train, _) = table.images()
    at_most_two_thirds = superpixels_among(of_train.masks, 0.7)  # two thirds of the corner lie in the other half
    assert at_most_two_thirds.level.tolist() == [SUBPART, WHOLE, PART]
