"""The small SAM for photographs: the installed trunk under it, and segment-anything's own decoder over it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from segment_anything import SamPredictor
from segment_anything.modeling import MaskDecoder

from tests.support.tolerances import assert_near, roundings_in
from weaksam.config import SamConfig, Weights
from weaksam.datasets.shapes import draw, reserved_seed
from weaksam.errors import CheckpointError
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.io.state_dicts import read_state_dict
from weaksam.networks.efficientnet_lite import LiteTrunk
from weaksam.sam.lite import IMAGE_SIZE, build_lite_sam, trunk_weights, with_trunk, without_trunk
from weaksam.sam.load import load_sam

FILE = BUILTIN_WEIGHTS["sam_lite"].path


@pytest.fixture(scope="module")
def sam():
    return load_sam(SamConfig(name="lite"))


def test_the_shipped_file_lacks_the_trunk_and_is_half_precision():
    assert FILE.stat().st_size < 2_000_000
    state = load_file(FILE)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert without_trunk(state) == state
    assert with_trunk(state).keys() == build_lite_sam().state_dict().keys()


def test_the_trunk_is_the_installed_one_and_rests(sam):
    trunk = LiteTrunk("efficientnet_lite0")
    trunk.init_from(read_state_dict(BUILTIN_WEIGHTS["efficientnet_lite0"].path).tensors, "here")
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        for own, expected in zip(
            sam.image_encoder.trunk.stage_features(images), trunk.stage_features(images), strict=True
        ):
            torch.testing.assert_close(own, expected, rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in build_lite_sam().image_encoder.trunk.parameters())
    assert type(sam.mask_decoder) is MaskDecoder


def test_features_of_all_strides_meet_at_one_of_eight(sam):
    """The embedding, from the layers by hand: each stride's features averaged or enlarged to those of stride 8."""
    encoder = sam.image_encoder
    images = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found = encoder(images)
        features = encoder.trunk.stage_features(images)[1:]
        assert [feature.shape[-1] for feature in features] == [48, 24, 12, 6]
        own = [norm(lateral(f)) for f, lateral, norm in zip(features, encoder.laterals, encoder.norms, strict=True)]
        fine = own[0].reshape(1, -1, 24, 2, 24, 2).mean((3, 5))
        coarse = [torch.nn.functional.interpolate(one, (24, 24), mode="bilinear") for one in own[2:]]
        expected = encoder.blocks(fine + own[1] + coarse[0] + coarse[1])
    assert found.shape == (1, 96, 24, 24)
    assert_near(found, expected, length=roundings_in(encoder))


def test_the_middle_of_a_drawn_object_gives_its_mask(sam):
    predictor, best = SamPredictor(sam), []
    for index in range(6):
        drawing = draw(reserved_seed("sam-test", index), IMAGE_SIZE)
        predictor.set_image(drawing.image)
        for k in np.flatnonzero(~drawing.difficult):
            truth = drawing.instance_map == k + 1
            rows, columns = np.nonzero(truth)
            near = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            point = np.array([[columns[near], rows[near]]], np.float32)
            masks, _, _ = predictor.predict(point, np.ones(1))
            best.append(max((mask & truth).sum() / (mask | truth).sum() for mask in masks))
    assert len(best) > 8
    assert np.mean(best) > 0.6  # 0.5 is what a mask of twice the area has


def test_weights_of_the_other_small_sam_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"as lite: .*image_encoder"):
        load_sam(SamConfig(name="lite", weights=Weights(str(BUILTIN_WEIGHTS["sam"].path))))
    short = dict(load_file(FILE))
    del short["image_encoder.laterals.0.weight"]
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match=r"image_encoder\.laterals\.0\.weight"):
        load_sam(SamConfig(name="lite", weights=Weights(str(tmp_path / "short.safetensors"))))


def test_the_trunks_weights_have_the_networks_names():
    assert trunk_weights().keys() == {
        name for name in build_lite_sam().state_dict() if name.startswith("image_encoder.trunk.")
    }
