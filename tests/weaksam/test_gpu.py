"""What a GPU must give: the CPU's peaks exactly, and the CPU's boxes within a pixel, image by image."""

import numpy as np
import pytest
import torch

from tests.support.sams import drawn_image, trained_sam
from tests.support.tolerances import assert_near
from weaksam.clues.cam import MultiScaleCam
from weaksam.clues.loading import build_classifier
from weaksam.config import CamConfig, PeaksConfig, PromptsConfig, SamConfig, WeakTrConfig
from weaksam.proposals.peaks import find_peaks
from weaksam.proposals.proposer import Proposer
from weaksam.sam.load import load_sam

pytestmark = pytest.mark.gpu


def test_peaks_of_the_gpu_are_those_of_the_cpu():
    maps = torch.rand(9, 70, 90, generator=torch.Generator().manual_seed(0))
    for kernel in (1, 17, 129):
        on_cpu = find_peaks(maps, PeaksConfig(), kernel=kernel)
        on_gpu = find_peaks(maps.cuda(), PeaksConfig(), kernel=kernel)
        for a, b in zip(on_cpu, on_gpu, strict=True):
            np.testing.assert_array_equal(a.points_xy, b.points_xy)


def test_boxes_of_the_gpu_lie_within_a_pixel_of_the_cpus():
    image, prompts = drawn_image(128, 128), PromptsConfig(sources=("grid",), points_per_side=8)
    on_cpu = Proposer(None, trained_sam(), prompts=prompts)(image)
    on_gpu = Proposer(None, load_sam(SamConfig(name="builtin"), "cuda"), prompts=prompts)(image)
    distance = np.abs(on_cpu.boxes_xyxy[:, None] - on_gpu.boxes_xyxy[None]).max(axis=2).min(axis=1)
    assert len(distance) > 0
    assert (distance <= 1).mean() >= 0.98  # a predicted IoU within rounding of a threshold may fall on either side


def test_maps_of_the_gpu_are_close_to_those_of_the_cpu():
    torch.manual_seed(0)
    small = WeakTrConfig(patch_size=8, dim=32, depth=2, heads=4, position_grid=8)
    network = build_classifier(small, 3)
    options = {
        "class_names": "abc",
        "class_slots": (0, 1, 2),
        "kinds": network.kinds,
        "config": CamConfig(cross_layers=()),
    }
    on_cpu = next(MultiScaleCam(network, **options).class_maps(drawn_image(64, 96), [1]))
    on_gpu = next(MultiScaleCam(network.cuda(), **options).class_maps(drawn_image(64, 96), [1]))
    for kind, maps in on_cpu.maps.items():
        assert_near(on_gpu.maps[kind], maps, dtype=torch.float16, magnitude=1.0)  # TF32 has as many digits
