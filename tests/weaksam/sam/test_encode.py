import pytest
from segment_anything import SamPredictor

from tests.support.sams import lively_sam, noise
from tests.support.tolerances import assert_near, roundings_in
from weaksam.sam.encode import encode_image


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
