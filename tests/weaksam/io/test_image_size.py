"""The size of an image from its header, which is that of the decoded image wherever there is one."""

import pytest

from tests.support.broken_files import broken_files, encode, picture, unusual_files
from weaksam.errors import ImageError
from weaksam.io.images import decode_image, image_size

KEPT = unusual_files()


@pytest.mark.parametrize("name", KEPT)
def test_the_size_is_that_of_the_decoded_image(name: str) -> None:
    data, size_hw = KEPT[name]
    assert image_size(data) == size_hw == decode_image(data).shape[:2]


def test_damage_behind_the_header_is_not_noticed_and_damage_of_it_has_the_usual_reasons() -> None:
    jpeg = encode(picture(), "JPEG")
    assert image_size(jpeg[:-3]) == picture().size[::-1]
    for name, reason in {
        "empty.jpg": "empty file",
        "text.jpg": "not an image",
        "cut in its header.jpg": "truncated",
    }.items():
        with pytest.raises(ImageError) as caught:
            image_size(broken_files()[name][0])
        assert caught.value.reason == reason


@pytest.mark.filterwarnings("error")
def test_damaged_metadata_cost_no_size(recwarn: pytest.WarningsRecorder) -> None:
    jpeg = encode(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 9)
    assert image_size(jpeg) == decode_image(jpeg).shape[:2] == picture().size[::-1]
