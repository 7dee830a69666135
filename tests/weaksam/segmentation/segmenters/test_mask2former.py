"""What Mask2Former is to find in a label map."""

from __future__ import annotations

import torch

from weaksam.label_maps import IGNORED
from weaksam.segmentation.segmenters.mask2former import class_masks


def test_each_class_is_one_thing_to_find_and_has_its_share_of_each_cell() -> None:
    label_map = torch.zeros(4, 8, dtype=torch.uint8)
    label_map[:, 2:4], label_map[:2, 4:], label_map[2:, 4:] = 3, IGNORED, 1
    found = class_masks(label_map)
    assert found.class_index.tolist() == [0, 1, 3]
    assert found.masks.tolist() == [
        [[0.5, 0]],
        [[0, 1]],
        [[0.5, 0]],
    ]  # of a cell that is half ignored, all that is decided
    assert found.decided is not None
    assert found.decided.tolist() == [[1, 0.5]]


def test_of_a_map_without_a_decided_pixel_there_is_nothing_to_find() -> None:
    found = class_masks(torch.full((4, 8), IGNORED, dtype=torch.uint8))
    assert len(found.class_index) == 0
    assert found.masks.shape == (0, 1, 2)
    assert found.decided is not None
    assert not found.decided.any()
