"""Videos of all kinds: the first table of data_pipelines/media/README.md."""

import io
import os
import pathlib
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from av.sidedata import sidedata
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorTrc
from PIL import Image

from data_pipelines.media import media_file, opening, picture, shown_frames, source_file, video
from data_pipelines.media.source_file import MediaError
from tests.data_pipelines import media_clips as clips

CODECS = [
    ("libx264", "mp4"), ("libx264", "mov"), ("libx264", "mkv"), ("libx264", "flv"), ("libx264", "ts"),
    ("libx264", "avi"), ("libx265", "mp4"), ("libvpx", "webm"), ("libvpx", "ogv"), ("libvpx-vp9", "webm"),
    ("libsvtav1", "mp4"), ("mpeg4", "mp4"), ("mpeg4", "avi"), ("msmpeg4", "avi"), ("mpeg1video", "mpg"),
    ("mpeg2video", "mpg"), ("mpeg2video", "ts"), ("mpeg2video", "vob"), ("wmv2", "wmv"), ("flv", "flv"),
    ("ffv1", "mkv"),
]  # fmt: skip
OTHER_FORMATS = [
    ("h263", "3gp", "yuv420p", (96, 128)), ("mjpeg", "avi", "yuvj420p", None), ("mjpeg", "mov", "yuvj420p", None),
    ("png", "mov", "rgb24", None), ("apng", "apng", "rgb24", None), ("prores_ks", "mov", "yuv422p10le", None),
    ("gif", "gif", "rgb8", None), ("rawvideo", "avi", "yuv420p", None),
]  # fmt: skip


def _read(path, fps=30.0, short_side_px=256):
    return media_file.read_video(str(path), short_side_px, fps)


def _close(picture, colour, tolerance=6):
    return np.abs(picture.astype(int) - colour).max() <= tolerance


@pytest.mark.parametrize(("codec", "container"), CODECS)
def test_codecs_and_containers(tmp_path, codec, container):
    read = _read(clips.write(tmp_path / f"a.{container}", codec))
    assert clips.numbers(read) == list(range(30))
    # FFmpeg's AVI begins with a pause where there are frames that refer to later ones.
    assert read.fps == pytest.approx(30, rel=0.04)
    assert _close(clips.pictures(read)[7][56, 20], (200, 0, 0), 25)


@pytest.mark.parametrize(("codec", "container", "pix_fmt", "size"), OTHER_FORMATS)
def test_codecs_of_single_pictures(tmp_path, codec, container, pix_fmt, size):
    read = _read(clips.write(tmp_path / f"a.{container}", codec, pix_fmt, size=size or clips.SIZE_PX))
    assert clips.numbers(read) == list(range(30))


@pytest.mark.parametrize(
    ("ending", "codec", "rate"),
    [("h264", "libx264", 24), ("hevc", "libx265", 24), ("m1v", "mpeg1video", 24), ("mjpeg", "mjpeg", 25)],
)
def test_streams_without_time_stamps_have_their_nominal_rate(tmp_path, ending, codec, rate):
    path = clips.write(tmp_path / f"a.{ending}", codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", rate=rate)
    read = _read(path)
    assert clips.numbers(read) == list(range(30))
    assert read.fps == rate


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("libx264", "yuv420p10le"), ("libx265", "yuv444p12le"), ("ffv1", "yuv422p16le"), ("ffv1", "gray"),
     ("ffv1", "gray10le"), ("libx264rgb", "rgb24"), ("libsvtav1", "yuv420p10le")],
)  # fmt: skip
def test_more_bits_other_subsampling_and_grey(tmp_path, codec, pix_fmt):
    read = _read(clips.write(tmp_path / "a.mkv", codec, pix_fmt, numbers=range(6)))
    assert clips.numbers(read) == list(range(6))
    below = clips.pictures(read)[0][56]
    assert _close(below[20], below[20].mean() if "gray" in pix_fmt else (200, 0, 0), 12)


@pytest.mark.parametrize("size", [(63, 97), (2, 2), (1, 33), (16, 2000)])
def test_odd_sizes(tmp_path, size):
    path = clips.write(tmp_path / "a.mkv", "ffv1", "yuv444p", numbers=range(3), size=size)
    assert {frame.shape[:2] for frame in clips.pictures(_read(path))} == {size}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotation_is_applied(tmp_path, degrees, mirrored):
    path = clips.write(
        tmp_path / "a.mp4", "libx264", numbers=[5], setup=lambda s: s.set_display_rotation(degrees, hflip=mirrored)
    )
    expected = np.rot90(clips.draw(5), degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    (shown,) = clips.pictures(_read(path))
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 12


@pytest.mark.parametrize(
    ("aspect", "expected"), [("2/1", (32, 96)), ("1/2", (64, 48)), ("16/11", (44, 96)), ("200/1", (64, 96))]
)
def test_pixels_that_are_not_square(tmp_path, aspect, expected):
    def set_aspect(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)

    read = _read(clips.write(tmp_path / "a.mkv", "mpeg4", numbers=range(3), setup=set_aspect))
    assert clips.pictures(read)[0].shape[:2] == expected


def test_size_that_changes_on_the_way(tmp_path):
    parts = [
        clips.write(tmp_path / "large.webm", "libvpx", numbers=range(10)),
        clips.write(tmp_path / "small.webm", "libvpx", numbers=range(10, 20), size=(32, 48)),
    ]
    path = tmp_path / "a.webm"
    with av.open(parts[0]) as first, av.open(parts[1]) as second, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(first.streams.video[0])
        for offset_ms, source in ((0, first), (334, second)):
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + offset_ms, packet.dts + offset_ms, stream
                    container.mux(packet)
    read = _read(path)
    assert clips.numbers(read) == list(range(20))
    assert {frame.shape for frame in clips.pictures(read)} == {(*clips.SIZE_PX, 3)}


GREY_203_NITS = 573  # of 1023, in the limited range: 58 % of the signal (ITU-R BT.2408, table 1)


@pytest.mark.parametrize(
    ("curve", "code", "expected"),
    [(ColorTrc.SMPTE2084, GREY_203_NITS, 254), (ColorTrc.ARIB_STD_B67, 721, 254), (ColorTrc.BT709, 721, 191)],
)
def test_hdr_white_becomes_white(curve, code, expected):
    frame = av.VideoFrame(16, 16, "yuv420p10le")
    for plane, level in zip(frame.planes, (code, 512, 512), strict=True):
        np.frombuffer(plane, np.uint16)[:] = level
    frame.colorspace, frame.color_range = 9, 1
    frame.color_trc, frame.color_primaries = curve, ColorPrimaries.BT2020
    assert _close(picture.Converter().to_rgb(frame, 8, 8), expected, 2)


def _hlg_light(signal):
    """cd/m2 on a display of 1000 cd/m2, [..., 3], of an HLG signal: ITU-R BT.2100, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ [0.2627, 0.6780, 0.0593]
    return 1000 * luminance[..., None] ** 0.2 * scene


def _pq_light(signal):
    """cd/m2 of a PQ signal: ITU-R BT.2100, table 4."""
    power = signal ** (32 / 2523)
    ratio = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
    return 10000 * ratio ** (16384 / 2610)


BT2020_TO_BT709 = np.array(  # ITU-R BT.2087, section 4.1.3
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


@pytest.mark.parametrize(("curve", "light"), [(ColorTrc.ARIB_STD_B67, _hlg_light), (ColorTrc.SMPTE2084, _pq_light)])
def test_hdr_against_the_formulas_of_bt2100(curve, light):
    """Greys, white and beyond too: at most 1.5 levels off. Colours that BT.709 can show: half a level on average.

    swscale's tables have 65 steps a side: a few colours beside those that cannot be shown are up to 20 levels off.
    """
    signals = np.random.default_rng(0).uniform(0, 0.75, (64, 256, 3))
    signals[0] = np.linspace(0, 1, 256)[:, None]
    signals[1:32] = signals[1:32].mean(-1, keepdims=True) + (signals[1:32] - 0.375) / 8  # hardly saturated
    levels = np.round(np.clip(signals, 0, 1) * 65535)
    shown = picture._to_bt709(levels.astype(np.uint16), curve, ColorPrimaries.BT2020)
    linear = light(levels / 65535) @ BT2020_TO_BT709.T / 203
    expected = 255 * np.clip(linear, 0, 1) ** (1 / 2.4)  # the display's curve: ITU-R BT.1886
    can_be_shown = ((linear >= 0) & (linear <= 1)).all(-1)
    assert can_be_shown.mean() > 0.3
    errors = np.abs(shown - expected)
    assert errors[0].max() < 1.5
    assert errors[can_be_shown].mean() < 0.6 and np.percentile(errors[can_be_shown], 99) < 2.5


def test_hdr_does_not_depend_on_the_display_that_it_was_made_on(tmp_path):
    """HDR10 files name it; white is white in each."""
    # Without B-frames: with them, x265 stamps a single frame at random, and the container refuses one in ten.
    colours = "log-level=none:bframes=0:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    display = ":hdr10=1:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,500)"
    paint = lambda _: np.full((*clips.SIZE_PX, 3), 148, np.uint8)  # noqa: E731 - 58 % of the signal: 203 cd/m2
    for x265 in (colours, colours + display):
        path = clips.write(
            tmp_path / "a.mp4", "libx265", "yuv420p10le", [0], paint=paint, encoder={"x265-params": x265}
        )
        (shown,) = clips.pictures(_read(path))
        assert _close(shown, 254, 3)


def test_tables_of_hdr_are_made_once_a_process(monkeypatch):
    """They take seconds; a file's share must not. In CPU time of this thread, which no other work reaches."""
    monkeypatch.setattr(picture, "_mappers", {})
    frames = []
    for width in (16, 300, 640):
        frame = av.VideoFrame(width, 16, "yuv420p10le")
        frame.colorspace, frame.color_range = 9, 1
        frame.color_trc, frame.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
        frames.append(frame)

    def convert_s(frame) -> float:
        began = time.thread_time()
        picture.Converter().to_rgb(frame, 16, frame.width)
        return time.thread_time() - began

    with_tables_s = convert_s(frames[0])
    before = dict(picture._mappers)
    assert len(before) == 1
    assert sum(map(convert_s, frames * 2)) < with_tables_s / 10
    assert picture._mappers == before


def _solid(path, colour_rgb, matrix, stored_matrix, full_range=False, size=(16, 16)):
    """A lossless clip of one colour, converted to YUV by one matrix and marked with another."""

    def edit(frame):
        converted = frame.reformat(
            format="yuv444p", dst_colorspace=matrix, dst_color_range="JPEG" if full_range else "MPEG"
        )
        converted.colorspace = stored_matrix
        return converted

    def setup(stream):
        stream.codec_context.colorspace = stored_matrix
        stream.codec_context.color_range = 2 if full_range else 1

    paint = lambda _: np.full((*size, 3), colour_rgb, np.uint8)  # noqa: E731
    return clips.write(path, "ffv1", "yuv444p", [0], size=size, setup=setup, edit=edit, paint=paint)


@pytest.mark.parametrize(
    ("matrix", "stored_matrix", "full_range", "size"),
    [("ITU709", 1, False, (16, 16)), ("ITU709", 1, True, (16, 16)), ("ITU601", 6, False, (16, 16)),
     ("ITU601", 5, True, (16, 16)), ("BT2020", 9, False, (16, 16)), ("ITU601", 2, False, (16, 16)),
     ("ITU709", 2, False, (720, 1280))],
)  # fmt: skip
def test_colour_matrix_and_range(tmp_path, matrix, stored_matrix, full_range, size):
    colour = (210, 60, 90)
    path = _solid(tmp_path / "a.mkv", colour, matrix, stored_matrix, full_range, size)
    assert _close(clips.pictures(_read(path))[0], colour, 4)


def test_colours_that_cannot_be_converted_are_refused(tmp_path):
    path = _solid(tmp_path / "a.mkv", (10, 20, 30), "ITU709", 8)
    with pytest.raises(MediaError, match="matrix 8 of ITU-T H.273, cannot be converted"):
        _read(path)


@pytest.mark.parametrize(
    ("codec", "container", "pix_fmt"),
    [("libvpx", "webm", "yuva420p"), ("libvpx-vp9", "webm", "yuva420p"), ("png", "mov", "rgba"),
     ("prores_ks", "mov", "yuva444p10le"), ("qtrle", "mov", "argb")],
)  # fmt: skip
def test_alpha_is_laid_over_white(tmp_path, codec, container, pix_fmt):
    def paint(number):
        rgba = np.concatenate([clips.draw(number), np.full((*clips.SIZE_PX, 1), 255, np.uint8)], -1)
        rgba[32:, 48:, 3] = 0  # what was blue
        return rgba

    def setup(stream):
        if container == "webm":
            stream.metadata["alpha_mode"] = "1"

    encoder = {"auto-alt-ref": "0"} if container == "webm" else None
    path = clips.write(tmp_path / f"a.{container}", codec, pix_fmt, range(5), paint=paint, setup=setup, encoder=encoder)
    read = _read(path)
    assert clips.numbers(read) == list(range(5))
    assert _close(clips.pictures(read)[2][56, 80], 255) and _close(clips.pictures(read)[2][56, 20], (200, 0, 0), 25)


def test_transparency_of_a_gif_is_laid_over_white(tmp_path):
    indices = np.zeros((16, 16), np.uint8)
    indices[:, 8:] = 1
    image = Image.frombytes("P", (16, 16), indices.tobytes())
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.gif", transparency=1)
    (shown,) = clips.pictures(_read(tmp_path / "a.gif"))
    assert _close(shown[8, 2], (200, 0, 0)) and _close(shown[8, 13], 255)


def test_variable_rate_is_sampled_by_time(tmp_path):
    """20 frames a second, then 40, then a pause, then 20: 10 a second throughout, and none twice in the pause."""
    stamps_ms = [*range(0, 500, 50), *range(500, 1000, 25), *range(2000, 2500, 50)]
    path = clips.write(tmp_path / "a.mkv", "ffv1", numbers=range(40), stamps_ms=stamps_ms)
    read = _read(path, fps=10.0)
    kept_ms = [stamps_ms[number] for number in clips.numbers(read)]
    assert kept_ms == [*range(0, 1000, 100), *range(2000, 2500, 100)]
    assert read.fps == pytest.approx(14 / 2.4)


@pytest.mark.parametrize(("rate", "fps"), [("30000/1001", 30.0), ("24000/1001", 24.0), ("30000/1001", 25.0)])
def test_rates_of_television_repeat_nothing(tmp_path, rate, fps):
    stamps_ms = [round(1000 * i / Fraction(rate)) for i in range(60)]  # rounded, as WebM stores them
    path = clips.write(tmp_path / "a.mkv", "ffv1", numbers=range(60), stamps_ms=stamps_ms)
    kept = clips.numbers(_read(path, fps=fps))
    assert len(set(kept)) == len(kept) == min(60, round(60 * fps / Fraction(rate)))


def test_delays_of_a_gif_are_its_time(tmp_path):
    frames = [Image.fromarray(clips.draw(i)) for i in range(6)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[50, 50, 100, 100, 400, 100])
    read = _read(tmp_path / "a.gif", fps=10.0)
    assert clips.numbers(read) == [0, 2, 3, 4, 5]  # at 0, 100, 200, 300 and 700 ms
    assert read.fps == pytest.approx(4 / 0.7)


def _with_delays(path, delays) -> None:
    """Sets the delays of a GIF's frames, in hundredths of a second: Pillow would not write all of them."""
    with clips.edited(path) as content:
        place = 0
        for delay in delays:
            place = content.index(b"!\xf9\x04", place) + 4
            content[place : place + 2] = delay.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("delays", "shown_ms"),
    [([1] * 6, [0, 100, 200, 300, 400, 500]), ([0] * 6, [0, 100, 200, 300, 400, 500]),
     ([2] * 6, [0, 20, 40, 60, 80, 100]), ([1, 2, 1, 5, 0, 10], [0, 100, 120, 220, 270, 370])],
)  # fmt: skip
def test_short_delays_of_a_gif_last_as_in_a_browser(tmp_path, delays, shown_ms):
    frames = [Image.fromarray(clips.draw(i)) for i in range(6)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    _with_delays(tmp_path / "a.gif", delays)
    with video.open_video(str(tmp_path / "a.gif")) as clip:
        assert [1000 * time for time, _ in clip.frames()] == shown_ms
    assert _read(tmp_path / "a.gif", fps=100.0).fps == pytest.approx(5000 / shown_ms[-1])


@pytest.mark.parametrize(
    ("delays_ms", "shown_ms"),
    [([0] * 6, [0, 100, 200, 300, 400, 500]), ([5, 10, 15, 20, 50, 100], [0, 100, 200, 215, 235, 285])],
)
def test_short_delays_of_an_animated_png_last_as_in_a_browser(tmp_path, delays_ms, shown_ms):
    frames = [Image.fromarray(clips.draw(i)) for i in range(6)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=delays_ms)
    with video.open_video(str(tmp_path / "a.png")) as clip:
        assert [1000 * time for time, _ in clip.frames()] == shown_ms


IVF_LENGTH = slice(24, 28)  # in the header


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9", "libsvtav1"])
@pytest.mark.parametrize("rate", [30, "30000/1001"])
def test_ivf_with_its_length_in_frames_or_in_units_of_time(tmp_path, codec, rate):
    """Encoders write how many frames there are; FFmpeg, where it copies a stream, how long they last."""
    path = clips.write(tmp_path / "a.ivf", codec, rate=Fraction(rate))
    stamps = list(range(0, 30 * 33, 33))
    in_ms = (1000).to_bytes(4, "little") + (1).to_bytes(4, "little")
    for length in (30, 30 * 33, 29 * 33 + 40, 0, 0xFFFFFFFF):
        with clips.edited(path) as content:
            content[16:24], content[IVF_LENGTH] = in_ms, length.to_bytes(4, "little")
            place = 32
            for stamp in stamps:
                content[place + 4 : place + 12] = stamp.to_bytes(8, "little")
                place += 12 + int.from_bytes(content[place : place + 4], "little")
            assert place == len(content)
        read = _read(path, fps=100.0)
        assert clips.numbers(read) == list(range(30)) and read.fps == pytest.approx(1000 / 33)


@pytest.mark.parametrize("length", [30, 30 * 33])
@pytest.mark.parametrize("num_left", [29, 20, 2, 1])
def test_ivf_cut_between_frames_is_refused(tmp_path, length, num_left):
    test_ivf_with_its_length_in_frames_or_in_units_of_time(tmp_path, "libvpx", 30)
    with clips.edited(tmp_path / "a.ivf") as content:
        content[IVF_LENGTH] = length.to_bytes(4, "little")
        place = 32
        for _ in range(num_left):
            place += 12 + int.from_bytes(content[place : place + 4], "little")
        del content[place:]
    with pytest.raises(MediaError, match=f"it stops after {num_left} frames"):
        _read(tmp_path / "a.ivf")


def test_stamps_that_repeat_or_start_anew_lose_no_frame(tmp_path):
    doubled = clips.write(
        tmp_path / "a.mkv", "ffv1", numbers=range(10), stamps_ms=[0, 100, 200, 200, 400, 500, 600, 700, 800, 900]
    )
    assert _read(doubled).num_source_frames == 10
    joined = tmp_path / "joined.mpg"
    parts = [clips.write(tmp_path / f"{i}.mpg", "mpeg1video", numbers=range(i, i + 15)) for i in (0, 15)]
    joined.write_bytes(b"".join(pathlib.Path(part).read_bytes() for part in parts))
    assert clips.numbers(_read(joined)) == list(range(30))


def test_negative_stamps(tmp_path):
    path = clips.write(tmp_path / "a.nut", "mpeg4", numbers=range(10), stamps_ms=list(range(-300, 700, 100)))
    assert clips.numbers(_read(path, fps=10.0)) == list(range(10))


def test_edit_lists_hide_what_they_leave_out(tmp_path):
    stamps_ms = [100 * i - 1000 for i in range(30)]  # FFmpeg's mp4 leaves out what is before 0 by an edit list
    path = clips.write(tmp_path / "a.mp4", "libx264", stamps_ms=stamps_ms, encoder={"g": "30"})
    assert clips.numbers(_read(path)) == list(range(10, 30))


@pytest.mark.parametrize(("codec", "container"), [("libvpx-vp9", {"live": "1"}), ("libvpx", {"live": "1"})])
def test_no_duration(tmp_path, codec, container):
    path = clips.write(tmp_path / "a.webm", codec, container=container)
    with av.open(path) as opened:
        assert opened.duration is None
    assert clips.numbers(_read(path)) == list(range(30))


def test_hidden_frames_are_not_missed(tmp_path):
    """Encoders of vp8 hide frames that others refer to; here the mark is set by hand."""
    path = clips.write(tmp_path / "a.webm", "libvpx")
    with av.open(path) as container:
        hidden = bytes([packet for packet in container.demux(video=0) if packet.size][7])
    with clips.edited(path) as content:
        content[content.index(hidden)] &= ~shown_frames.VP8_SHOWN
    assert clips.numbers(_read(path)) == [number for number in range(30) if number != 7]


# The video parameter set of a multi-view HEVC file (androidx/media, mvhevc_5_frames.mov): two layers, two views.
TWO_VIEWS = bytes.fromhex(
    "40010c11ffff016000000300b0000003000003009c15c15b0020002824c197060200000300bf8000000300009c8d07900870a01af14afd20"
)


def test_multi_view_hevc_is_read_as_its_base_view(tmp_path):
    """The decoder marks each frame with its view: side data of a kind that PyAV does not name."""
    path = clips.write(tmp_path / "a.hevc", "libx265", encoder={"x265-params": "log-level=none"})
    with clips.edited(path) as content:
        end = content.index(b"\0\0\0\x01", 4)
        content[4:end] = TWO_VIEWS
    assert clips.numbers(_read(path)) == list(range(30))


def test_side_data_without_a_name_refuses_nothing(tmp_path):
    """Motion JPEG whose pictures have EXIF data, which FFmpeg gives along with each frame, and its orientation."""
    exif, jpeg = Image.Exif(), io.BytesIO()
    exif[media_file.EXIF_ORIENTATION] = 3  # upside down
    Image.fromarray(clips.draw(5)[::-1, ::-1]).save(jpeg, "JPEG", exif=exif)
    (tmp_path / "a.mjpeg").write_bytes(jpeg.getvalue() * 3)
    assert clips.numbers(_read(tmp_path / "a.mjpeg")) == [5, 5, 5]
    for kind in range(64):
        assert sidedata.Type(kind).value == kind


def test_fragments(tmp_path):
    path = clips.write(
        tmp_path / "a.mp4", "libx264", container={"movflags": "frag_keyframe+empty_moov"}, encoder={"g": "8"}
    )
    assert clips.numbers(_read(path)) == list(range(30))


@pytest.mark.parametrize(
    ("codec", "encoder"),
    [("mpeg2video", {"g": "10", "bf": "2"}),
     ("libx265", {"x265-params": "log-level=none:open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0:b-adapt=0"})],
)  # fmt: skip
def test_a_cut_at_a_key_frame_needs_nothing_before_it(tmp_path, codec, encoder):
    path = clips.write(tmp_path / "whole.mkv", codec, encoder=encoder)
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    first = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
    num_leading = sum(packet.pts < packets[first].pts for packet in packets[first:])
    cut = clips.copy(path, tmp_path / "cut.mkv", lambda place: place >= first)
    assert num_leading > 0
    assert clips.numbers(_read(cut)) == list(range(first + num_leading, 30))


def test_interlaced_frames_stay_woven(tmp_path):
    path = clips.write(tmp_path / "a.mpg", "mpeg2video", encoder={"flags": "+ildct+ilme"})
    assert clips.numbers(_read(path)) == list(range(30))


def _two_streams(path, sizes, dispositions):
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4" if size == clips.SIZE_PX else "mjpeg", rate=10) for size in sizes]
        for stream, size, disposition in zip(streams, sizes, dispositions, strict=True):
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p" if size == clips.SIZE_PX else "yuvj420p"
            stream.disposition = disposition
        for number in range(10):
            for stream in streams:
                if number == 0 or not stream.disposition & Disposition.attached_pic:
                    frame = av.VideoFrame.from_ndarray(clips.draw(number, stream.height, stream.width))
                    frame.pts = number
                    container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return _read(path)


def test_the_default_of_several_streams_is_taken(tmp_path):
    sizes = [(16, 24), clips.SIZE_PX]
    read = _two_streams(tmp_path / "a.mkv", sizes, [Disposition(0), Disposition.default])
    assert clips.numbers(read) == list(range(10))
    assert clips.pictures(read)[0].shape[:2] == clips.SIZE_PX


def test_cover_pictures_are_not_taken_for_the_video(tmp_path):
    sizes = [(600, 800), clips.SIZE_PX]
    read = _two_streams(tmp_path / "a.mp4", sizes, [Disposition.attached_pic, Disposition(0)])
    assert clips.numbers(read) == list(range(10))
    assert clips.pictures(read)[0].shape[:2] == clips.SIZE_PX


@pytest.mark.parametrize("name", ["a:b.mp4", "%03d.mp4", "*?.mp4", "é 漢 \U0001f600.mp4", "-i.mp4", "noending"])
def test_any_file_name(tmp_path, name):
    clips.write(tmp_path / "plain.mp4", "mpeg4", numbers=range(3))
    os.rename(tmp_path / "plain.mp4", tmp_path / name)
    assert clips.numbers(_read(tmp_path / name)) == [0, 1, 2]


def test_names_that_look_like_addresses(tmp_path, monkeypatch):
    clips.write(tmp_path / "plain.mp4", "mpeg4", numbers=range(3))
    monkeypatch.chdir(tmp_path)
    os.rename("plain.mp4", "concat:b.mp4")
    assert clips.numbers(_read("concat:b.mp4")) == [0, 1, 2]


def test_links_are_followed(tmp_path):
    clips.write(tmp_path / "plain.mp4", "mpeg4", numbers=range(3))
    (tmp_path / "link.mp4").symlink_to("plain.mp4")
    assert clips.numbers(_read(tmp_path / "link.mp4")) == [0, 1, 2]


def test_titles_in_any_encoding(tmp_path):
    path = clips.write(tmp_path / "a.mkv", "mpeg4", numbers=range(3))
    clips.copy(path, tmp_path / "b.mkv", title="caf_ _")
    with clips.edited(tmp_path / "b.mkv") as content:
        start = content.index(b"caf_ _")
        content[start : start + 6] = "café é".encode("latin-1")
    assert clips.numbers(_read(tmp_path / "b.mkv")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("side_px", "message"),
    [(9000, "9000 x 9000 pixels, more than 67108864|exceeds"), (20000, "20000x20000 is invalid")],
)
def test_too_large_pictures_are_refused(tmp_path, side_px, message):
    path = clips.write(tmp_path / "a.gif", "gif", "rgb8", numbers=range(3))
    with clips.edited(path) as content:
        content[6:10] = side_px.to_bytes(2, "little") * 2
    with pytest.raises((MediaError, av.error.FFmpegError), match=message):
        _read(path)


def test_pictures_that_become_too_large_are_refused(tmp_path, monkeypatch):
    path = clips.write(tmp_path / "a.webm", "libvpx", numbers=range(3))
    monkeypatch.setattr(source_file, "MAX_PIXELS", clips.SIZE_PX[0] * clips.SIZE_PX[1] - 1)
    monkeypatch.setattr(source_file, "check_pixels", lambda *size_px: None)
    with pytest.raises((MediaError, av.error.FFmpegError), match="exceeds specified max pixel count"):
        _read(path)


def test_videos_that_take_too_long_are_refused(tmp_path, monkeypatch):
    path = clips.write(tmp_path / "a.mp4", "mpeg4")
    with video.open_video(path) as clip:
        clip._deadline = opening.Deadline(0)
        with pytest.raises(MediaError, match="its first 0 frames took longer than 0 s to decode"):
            list(clip.frames())
    monkeypatch.setattr(opening, "MAX_DECODE_S", 0)
    with pytest.raises(MediaError, match="it took longer than 0 s to decode"):
        _read(path)


def test_too_long_videos_are_refused(tmp_path, monkeypatch):
    path = clips.write(tmp_path / "a.mp4", "mpeg4")
    monkeypatch.setattr(media_file, "MAX_STORED_BYTES", 5000)
    with pytest.raises(MediaError, match="its first 0 s take more than 5000 bytes: cut it into clips"):
        _read(path)


def test_files_can_be_read_in_several_threads(tmp_path):
    path = clips.write(tmp_path / "a.mp4", "libx264")
    clips.write(tmp_path / "cut.webm", "libvpx")
    with clips.edited(tmp_path / "cut.webm") as content:
        del content[-900:]
    found = []

    def read_both():
        found.append(clips.numbers(_read(path)) == list(range(30)))
        with pytest.raises(MediaError, match="File ended prematurely"):
            _read(tmp_path / "cut.webm")
        found.append(True)

    threads = [threading.Thread(target=read_both) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert av.logging.get_level() is None
