"""How exports put pictures where a format's readers look for them."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from pipelines.exchange.pictures import PictureMode, place_pictures, plan_pictures
from weaksam.errors import StorageError
from weaksam.io.images import decode_image

UPRIGHT_HW = (32, 48)


@pytest.fixture
def photographs(tmp_path):
    """One that is stored upright, and one whose EXIF orientation says that it is to be turned by a quarter."""
    colours = np.linspace(0, 255, UPRIGHT_HW[0] * UPRIGHT_HW[1]).astype(np.uint8).reshape(UPRIGHT_HW)
    Image.fromarray(colours).save(tmp_path / "upright.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(colours))).save(tmp_path / "turned.jpg", exif=exif)
    return [str(tmp_path / "upright.jpg"), str(tmp_path / "turned.jpg")]


@pytest.mark.parametrize("mode", [PictureMode.LINK, PictureMode.COPY])
def test_pictures_lie_upright_as_their_boxes_are(photographs, tmp_path, mode):
    folder = tmp_path / "out"
    place_pictures(plan_pictures(photographs, ["a/1.jpg", "2.jpg"], str(folder), mode), str(folder))
    one, two = folder / "a" / "1.jpg", folder / "2.jpg"
    assert one.is_symlink() == (mode == PictureMode.LINK)
    assert not two.is_symlink()
    for path, source in zip((one, two), photographs, strict=True):
        with Image.open(path) as stored:  # by a reader that turns nothing
            assert stored.size == UPRIGHT_HW[::-1]
        with open(source, "rb") as file:
            expected = decode_image(file.read()).astype(int)
        assert np.abs(decode_image(path.read_bytes()) - expected).max() <= 16
    with open(photographs[1], "rb") as file, Image.open(file) as untouched:
        assert untouched.size == UPRIGHT_HW


def test_where_there_are_no_links_copies_are_named(photographs, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    placement = plan_pictures(photographs[:1], ["1.jpg"], str(tmp_path / "out"), PictureMode.LINK)
    with pytest.raises(StorageError, match=r"out/1\.jpg: no link can be made there; ask for copies \(--pictures copy"):
        place_pictures(placement, str(tmp_path / "out"))
