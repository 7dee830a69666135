import pytest
import torch
from segment_anything import SamPredictor

from tests.support.sams import lively_sam, noise
from tests.support.tolerances import assert_near, roundings_in
from weaksam.sam.encode import encode_image, resize_image


@pytest.mark.parametrize("size_hw", [(75, 100), (100, 75), (64, 64), (31, 200), (200, 150), (1, 1), (1, 40)], ids=str)
def test_an_image_is_encoded_as_the_stock_predictor_does(size_hw):
    sam, image = lively_sam(), noise(*size_hw)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    encoded = encode_image(sam, image)
    assert_near(encoded.features, predictor.features, length=roundings_in(sam.image_encoder))
    assert (encoded.input_hw, encoded.size_hw) == (tuple(predictor.input_size), size_hw)


def test_an_image_too_thin_for_the_stock_predictor_keeps_one_pixel():
    assert encode_image(lively_sam(), noise(1, 400)).input_hw == (1, 128)


def test_an_image_that_was_resized_before_is_encoded_the_same():
    sam, image = lively_sam(), noise(75, 100)
    resized = resize_image(sam, image)
    assert (tuple(resized.pixels.shape), resized.size_hw) == ((96, 128, 3), (75, 100))
    before, at_once = encode_image(sam, resized), encode_image(sam, image)
    assert torch.equal(before.features, at_once.features)
    assert (before.input_hw, before.size_hw) == (at_once.input_hw, at_once.size_hw)
