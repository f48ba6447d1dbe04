"""A decoded frame -> the picture that a player shows: upright, in its true shape, 8-bit RGB, shrunk if necessary.

# H, W, C height, width, channels.
"""

import threading
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata import sidedata
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, VideoReformatter
from einops import rearrange

from data_pipelines.media.source_file import MediaError

BACKGROUND = 255  # white behind transparent pixels, as on a web page
MAX_PIXEL_ASPECT = 4  # in either direction; only damaged headers state more, no camera or disc does

# Matrices of ITU-T H.273, table 4, whose number swscale does not know, or that the file does not state.
UNSPECIFIED_MATRIX = (2, 3)
MATRICES = {5: Colorspace.ITU601, 10: Colorspace.BT2020}  # 10 has constant luminance; it is treated as the usual kind
KNOWN_MATRICES = (0, 1, 4, 5, 6, 7, 9, 10)
SD_MAX_PX = (1279, 576)  # larger video without a stated matrix gets the one of HD, as in players
HDR_CURVES = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
BT709 = (ColorTrc.BT709, ColorPrimaries.BT709)
MAP_PX = 256  # side of the square pictures in which colours are mapped
WIDE_PRIMARIES = (ColorPrimaries.BT2020, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432)

_mappers: dict[tuple[int, int], VideoReformatter] = {}  # (curve, primaries) -> owner of the tables, for all files
_mappers_lock = threading.Lock()


def _unnamed_side_data(cls: type[sidedata.Type], value: int) -> sidedata.Type:
    """An enum member for a kind of side data that FFmpeg returns but PyAV does not know."""
    member = object.__new__(cls)
    member._name_ = f"UNNAMED_{value}"
    member._value_ = value  # type: ignore[assignment]  # PyAV's stub takes a value for a member
    return member


# PyAV reads either all side data of a frame or none. One kind that it does not know would make the file unreadable.
sidedata.Type._missing_ = classmethod(_unnamed_side_data)  # type: ignore[method-assign, assignment]  # no other way


def shrunk(height_px: int, width_px: int, short_side_px: int) -> tuple[int, int]:
    """Height and width of the same shape, shrunk so that the shorter side is at most `short_side_px`."""
    scale = min(1, short_side_px / min(height_px, width_px))
    return max(1, round(height_px * scale)), max(1, round(width_px * scale))


def displayed_size(frame: av.VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
    """Height and width in square pixels, upright. Pixels that are not square are shrunk along their longer side."""
    height_px, width_px = frame.height, frame.width
    if not Fraction(1, MAX_PIXEL_ASPECT) <= pixel_aspect <= MAX_PIXEL_ASPECT:
        pixel_aspect = Fraction(1)
    if pixel_aspect > 1:
        height_px = max(1, round(height_px / pixel_aspect))
    else:
        width_px = max(1, round(width_px * pixel_aspect))
    return (width_px, height_px) if _turn(frame)[0] else (height_px, width_px)


class Converter:
    """Converts frames of one video."""

    def __init__(self):
        self._scale = VideoReformatter()  # it caches the tables of the last conversion

    def to_rgb(self, frame: av.VideoFrame, height_px: int, width_px: int) -> np.ndarray:
        """The frame upright at the given size, uint8 [H, W, 3].

        Colours are converted with the matrix and the range that the file states. HDR and wide gamuts are mapped to
        BT.709: diffuse white (203 cd/m2, ITU-R BT.2408) becomes 255, and brighter or more saturated colours are
        clipped. The file's data about its mastering display are ignored.

        Raises:
            MediaError: swscale cannot convert this kind of colours.
        """
        transposed, mirrored_y, mirrored_x = _turn(frame)
        stored_px = (height_px, width_px) if transposed else (width_px, height_px)
        rgb_HWC = self._convert(_opaque(frame), *stored_px)
        if transposed:
            rgb_HWC = rearrange(rgb_HWC, "h w c -> w h c")
        return np.ascontiguousarray(rgb_HWC[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1])

    def _convert(self, frame: av.VideoFrame, width_px: int, height_px: int) -> np.ndarray:
        mapped = frame.color_trc in HDR_CURVES or frame.color_primaries in WIDE_PRIMARIES
        depth = "rgb48le" if mapped else "rgb24"  # 8 bits are too few before the HDR curve is removed
        rgb = self._scale.reformat(
            frame, width_px, height_px, depth, src_colorspace=_matrix(frame), interpolation="AREA", threads=1
        )
        rgb_HWC = rgb.to_ndarray()
        return _to_bt709(rgb_HWC, frame.color_trc, frame.color_primaries) if mapped else rgb_HWC


def _to_bt709(rgb_HWC: np.ndarray, curve: int, primaries: int) -> np.ndarray:
    """Maps colours, uint16 [H, W, 3], with a curve and primaries of ITU-T H.273, to BT.709: uint8 [H, W, 3].

    swscale computes tables for this, which takes seconds, once per picture size and mastering display. So all pixels
    are packed into pictures of one size that have no data about a display.
    """
    num_pixels = rgb_HWC.shape[0] * rgb_HWC.shape[1]
    tiles = np.zeros((-(-num_pixels // MAP_PX**2), MAP_PX, MAP_PX, 3), np.uint16)
    tiles.reshape(-1, 3)[:num_pixels] = rgb_HWC.reshape(-1, 3)
    with _mappers_lock:
        mapper = _mappers.setdefault((curve, primaries), VideoReformatter())
        mapped = [_map_tile(mapper, tile, curve, primaries) for tile in tiles]
    return np.concatenate(mapped).reshape(-1, 3)[:num_pixels].reshape(rgb_HWC.shape)


def _map_tile(mapper: VideoReformatter, tile_HWC: np.ndarray, curve: int, primaries: int) -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(tile_HWC, format="rgb48le")
    frame.color_trc, frame.color_primaries = curve, primaries
    mapped = mapper.reformat(frame, format="rgb24", dst_color_trc=BT709[0], dst_color_primaries=BT709[1], threads=1)
    return mapped.to_ndarray()


def over_background(rgba_HWC: np.ndarray) -> np.ndarray:
    """Blends a picture with alpha, uint8 [H, W, 4], over the background: uint8 [H, W, 3]."""
    alpha = rgba_HWC[..., 3:].astype(np.uint32)
    return ((rgba_HWC[..., :3] * alpha + BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to transpose the stored frame, then flip it vertically, then horizontally: the nearest such rotation."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # The rows are the directions of the stored x and y axes on the display (libavutil/display.h).
    (xx, xy), (yx, yy) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
    transposed = abs(xy) + abs(yx) > abs(xx) + abs(yy)
    to_x, to_y = (yx, xy) if transposed else (xx, yy)
    return transposed, to_y < 0, to_x < 0


def _opaque(frame: av.VideoFrame) -> av.VideoFrame:
    """Blends the frame over the background, before it is shrunk: hidden pixels must not mix with their neighbours."""
    if not any(component.is_alpha for component in frame.format.components):
        return frame
    rgba_HWC = frame.reformat(format="rgba", src_colorspace=_matrix(frame)).to_ndarray()
    return av.VideoFrame.from_ndarray(over_background(rgba_HWC), format="rgb24")


def _matrix(frame: av.VideoFrame) -> Colorspace | None:
    """The matrix to convert from; None: the frame's own."""
    if frame.format.is_rgb:
        return None
    if frame.colorspace in UNSPECIFIED_MATRIX:
        is_hd = frame.width > SD_MAX_PX[0] or frame.height > SD_MAX_PX[1]
        return Colorspace.ITU709 if is_hd else Colorspace.ITU601
    if frame.colorspace not in KNOWN_MATRICES:
        raise MediaError(f"its colours, of matrix {frame.colorspace} of ITU-T H.273, cannot be converted")
    return MATRICES.get(frame.colorspace)
