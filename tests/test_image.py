"""Pictures in and out."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from fakes import png_header
from PIL import Image, ImageOps

from studio import image
from studio.errors import RequestError, SaveError


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_any_mode_becomes_rgb(mode):
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "I": "TIFF", "F": "TIFF"}.get(mode, "PNG")
    opened = image.open_image(encoded(Image.new(mode, (6, 4)), kind))
    assert opened.shape == (4, 6, 3)
    assert opened.dtype == np.uint8


def test_sixteen_bits_keep_their_greys():
    grey = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert image.open_image(encoded(grey))[0, :, 0].tolist() == [0, 128, 255]


def test_transparent_becomes_white():
    assert image.open_image(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))).min() == 255
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30])
    assert image.open_image(encoded(palette, "PNG", transparency=0)).min() == 255


def test_is_turned_as_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert image.open_image(encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)).shape == (6, 4, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_turn_is_pillows_own(turn, kind):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(NOISE.crop((0, 0, 48, 64)), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (image.open_image(data) == expected).all()


def test_an_odd_tag_beside_the_turn_does_no_harm():
    width = struct.pack("<HHI4s", 0x0100, 2, 4, b"odd\0")  # an ImageWidth in words
    turn = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width + turn + bytes(4)
    assert image.open_image(encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)).shape == (6, 4, 3)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    opened = image.open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert opened[0, 0].tolist() == [255, 0, 0]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a picture"),
        (b"just some text", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (encoded(NOISE)[:4000], "damaged"),
        (encoded(NOISE, "JPEG")[:600], "damaged"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "picture"),
        (png_header(30_000, 30_000), "too large"),
        (png_header(12_000, 12_000), "too large"),
        (png_header(0, 5), "picture"),
    ],
)
def test_bad_files_get_one_sentence(data, says, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(RequestError, match=says) as caught:
            image.open_image(source)
        assert caught.value.hint


def test_fit_cuts_the_middle_then_resizes():
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 255
    fitted = image.fit(wide, 64, 64)
    assert fitted.shape == (64, 64, 3)
    assert fitted.min() == 255
    assert image.fit(fitted, 64, 64) is fitted


def test_a_png_carries_its_text(tmp_path):
    pixels = np.asarray(NOISE)
    for text in ("plain", "שלום 🌊\nNegative prompt: x"):
        path = tmp_path / "sub" / "picture.png"
        image.write_png(path, pixels, text)
        assert image.read_text(path) == text
        assert np.array_equal(image.open_image(path), pixels)
        assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_reads_the_text_of_a_jpeg():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a sea\nSteps: 3".encode("utf-16-be")
    assert image.read_text(encoded(NOISE, "JPEG", exif=exif)) == "a sea\nSteps: 3"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a sea\nSteps: 3".encode("utf-16-le")
    assert image.read_text(encoded(NOISE, "JPEG", exif=exif)) == "a sea\nSteps: 3"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + bytes(44)  # a camera's empty remark
    assert not image.read_text(encoded(NOISE, "JPEG", exif=exif))
    assert image.read_text(encoded(NOISE, "JPEG")) is None


def test_a_picture_that_cannot_be_saved_is_said(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(SaveError, match="could not be saved"):
        image.write_png(blocked / "picture.png", np.asarray(NOISE))


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, where every write finds a full disk"
)
def test_a_full_disk_leaves_nothing_behind(tmp_path):
    (tmp_path / ".picture.png.part").symlink_to("/dev/full")
    with pytest.raises(SaveError, match="No space left"):
        image.write_png(tmp_path / "picture.png", np.asarray(NOISE))
    assert not any(tmp_path.iterdir())
