"""Images of all kinds: the table of images of data_pipelines/media/README.md."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines.media import media_file
from data_pipelines.media.source_file import MediaError
from tests.data_pipelines import media_clips as clips


def _read(path):
    (shown,) = clips.pictures(media_file.read_image(str(path), 256))
    return shown


def _close(picture, colour, tolerance=3):
    return np.abs(picture.astype(int) - colour).max() <= tolerance


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp", "tif", "gif", "avif", "jp2", "ppm"])
def test_formats(tmp_path, ending):
    Image.fromarray(clips.draw(13)).save(tmp_path / f"a.{ending}")
    shown = _read(tmp_path / f"a.{ending}")
    assert clips.number(shown) == 13 and _close(shown[56, 20], (200, 0, 0), 12)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_moving_pictures_the_first_is_taken(tmp_path, ending):
    frames = [Image.fromarray(clips.draw(i)) for i in (9, 1, 2)]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    assert clips.number(_read(tmp_path / f"a.{ending}")) == 9


def test_cmyk(tmp_path):
    Image.fromarray(clips.draw(13)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    shown = _read(tmp_path / "a.jpg")
    assert clips.number(shown) == 13 and _close(shown[56, 20], (200, 0, 0), 12)


def test_16_bits(tmp_path):
    levels = np.tile(np.array([0, 257 * 100, 65535], np.uint16).repeat(8), (16, 1))
    Image.fromarray(levels).save(tmp_path / "a.png")
    shown = _read(tmp_path / "a.png")
    assert [int(level) for level in shown[8, [4, 12, 20], 0]] == [0, 100, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_black_and_white_and_palettes(tmp_path, mode):
    Image.fromarray(clips.draw(13)).convert(mode).save(tmp_path / "a.png")
    shown = _read(tmp_path / "a.png")
    assert shown.shape == (*clips.SIZE_PX, 3) and clips.number(shown) == 13


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_alpha_is_laid_over_white(tmp_path, mode):
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:, :8] = (80, 80, 80, 255)
    image = Image.fromarray(rgba)
    if mode == "P":
        image = Image.frombytes("P", (16, 16), np.tile(np.array([0, 1], np.uint8).repeat(8), (16, 1)).tobytes())
        image.putpalette([80, 80, 80, 0, 0, 0])
        image.save(tmp_path / "a.png", transparency=1)
    else:
        image.convert("LA" if mode == "LA" else "RGBA").save(
            tmp_path / ("a.png" if mode != "PA" else "a.webp"), lossless=True
        )
    (path,) = tmp_path.iterdir()
    shown = _read(path)
    assert _close(shown[8, 3], 80) and _close(shown[8, 12], 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    upright = clips.draw(13)
    stored = {  # how a picture is stored that a viewer turns back: EXIF 2.3, tag 274
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[media_file.EXIF_ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shown = _read(tmp_path / "a.jpg")
    assert shown.shape == upright.shape and np.abs(shown.astype(int) - upright).mean() < 8


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "avif"])
def test_cut_images_are_refused(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{ending}")
    with clips.edited(tmp_path / f"a.{ending}") as content:
        del content[len(content) * 2 // 3 :]
    with pytest.raises((OSError, SyntaxError, ValueError)):
        _read(tmp_path / f"a.{ending}")


def test_flipped_bits_of_a_png_are_refused(tmp_path):
    Image.fromarray(clips.draw(3)).save(tmp_path / "a.png")
    with clips.edited(tmp_path / "a.png") as content:
        content[content.index(b"IDAT") + 20] ^= 4
    with pytest.raises((OSError, SyntaxError)):
        _read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", MediaError, "it is empty"),
        (b"no image at all", OSError, "cannot identify image file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), OSError, "cannot identify image file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", OSError, "cannot identify image file"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, content, error, message):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(error, match=message):
        _read(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("side_px", "message"),
    [(9000, "9000 x 9000 pixels, more than 67108864"), (10000, "decompression bomb"), (20000, "decompression bomb")],
)
def test_too_large_images_are_refused(tmp_path, side_px, message):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises((MediaError, Image.DecompressionBombError, Image.DecompressionBombWarning), match=message):
        _read(tmp_path / "a.png")
