"""Measures what three tables of data_pipelines/media/README.md say, and writes what is no longer true:

    COVER_TEST_DATA=DIR python -m tests.data_pipelines.media_tables

The tests of `media` read the same tables. A reason may be a part of the one that was given, so that it can be short.
"""

import argparse
import os
import pathlib
import re
import tempfile

import av
import numpy as np

from data_pipelines.media import media_file, picture, video
from data_pipelines.media.source_file import MediaError
from tests.data_pipelines import media_clips as clips

GUIDE = pathlib.Path(media_file.__file__).parent / "README.md"
REFUSED = "refused: "
SECTION = r"^## {}$(.*?)(?=^## |\Z)"
COLOUR_FRAME = 2  # the third frame of each file is compared, or the last one
SAME = 0.05  # mean difference in levels of 255 up to which colours are the same
CAUSES = {  # of a difference to FFmpeg's conversion -> what it is given to agree
    "the file states no matrix: BT.709 by its size, where FFmpeg takes BT.601": {"matrix"},
    "each pixel of the result is the mean of its area, where FFmpeg interpolates": {"area"},
    "no matrix stated, and means of areas: both of the above": {"matrix", "area"},
}
MAPPED = "HDR is mapped to BT.709, which FFmpeg's conversion leaves out"


def section(heading: str) -> str:
    """The lines of the page below a heading, up to the next one of its level."""
    return re.search(SECTION.format(re.escape(heading)), GUIDE.read_text(), re.MULTILINE | re.DOTALL)[1]


def rows(heading: str) -> dict[str, list[str]]:
    """First cell -> the other cells of each row of a section's table, without its head."""
    lines = [line.strip("|").split("|") for line in section(heading).splitlines() if line.startswith("|")]
    return {first.strip().strip("`"): [cell.strip() for cell in rest] for first, *rest in lines[2:]}


def outcome(path: str) -> str:
    """What becomes of a real file, as its row says it."""
    try:
        read = media_file.read_video(path, 256, 10.0)
    except (MediaError, av.error.FFmpegError) as error:
        return f"{REFUSED}{error}"
    height, width, _ = clips.pictures(read)[0].shape
    return f"{len(read.frames)} of {read.num_source_frames} frames, {width} x {height}"


def structure_outcome(path: str) -> str:
    """What becomes of a file of 30 numbered frames with a damaged part."""
    try:
        numbers = clips.numbers(media_file.read_video(path, 256, 30.0))
    except (MediaError, av.error.FFmpegError) as error:
        return f"{REFUSED}{error}"
    return "stored whole" if numbers == list(range(30)) else f"wrong frames: {numbers}"


def holds(stated: str, measured: str) -> bool:
    """Whether a row is still true."""
    if stated.startswith(REFUSED) and measured.startswith(REFUSED):
        return stated.removeprefix(REFUSED) in measured
    return stated == measured


def colour_difference(path: str) -> tuple[float, str]:
    """Mean difference to FFmpeg's own conversion to RGB, in levels of 255, and its cause; NaN if it is no video."""
    try:
        with video.open_video(path) as clip:
            frames = [frame for _, (_, frame) in zip(range(COLOUR_FRAME + 1), clip.frames(), strict=False)]
        size_px = picture.displayed_size(frames[-1], clip.pixel_aspect)
    except (MediaError, av.error.FFmpegError):
        return float("nan"), ""
    frame = frames[-1]
    ours = picture.Converter().to_rgb(frame, *size_px)
    difference = _difference(ours, frame, set())
    if difference <= SAME:
        return difference, ""
    if frame.color_trc in picture.HDR_CURVES:
        return difference, MAPPED
    causes = [cause for cause, given in CAUSES.items() if _difference(ours, frame, given) <= SAME]
    return difference, (causes or ["unknown"])[0]


def _difference(ours_HWC: np.ndarray, frame: av.VideoFrame, given: set[str]) -> float:
    """Mean difference to FFmpeg's conversion, which is given our matrix, our way of shrinking, or neither."""
    transposed, mirrored_y, mirrored_x = picture._turn(frame)
    height_px, width_px = ours_HWC.shape[1::-1] if transposed else ours_HWC.shape[:2]
    matrix = picture._matrix(frame) if "matrix" in given else None
    theirs = frame.reformat(
        width_px, height_px, "rgb24", src_colorspace=matrix, interpolation="AREA" if "area" in given else "BICUBIC"
    ).to_ndarray()
    theirs = theirs.transpose(1, 0, 2) if transposed else theirs
    theirs = theirs[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1]
    return float(np.abs(ours_HWC.astype(int) - theirs).mean())


def colour_rows(folder: pathlib.Path) -> list[str]:
    """The rows of the files whose colours differ from FFmpeg's."""
    measured = {name: colour_difference(str(folder / name)) for name in sorted(os.listdir(folder))}
    return [f"| `{name}` | {value:.1f} | {cause} |" for name, (value, cause) in measured.items() if value > SAME]


def _with_outcomes(guide: str, heading: str, measured: dict[str, str]) -> str:
    """The page with each row of a section whose outcome is no longer true set to the measured one."""
    for name, (stated, *_) in rows(heading).items():
        if name in measured and not holds(stated, measured[name]):
            pattern = rf"^(\| `?{re.escape(name)}`? \| ){re.escape(stated)}( \|)"
            guide = re.sub(pattern, lambda m, new=measured[name]: m[1] + new + m[2], guide, flags=re.MULTILINE)
    return guide


def _with_colours(guide: str, lines: list[str]) -> str:
    """The page with these rows in its table of colours."""
    head = "| file | mean difference | cause |\n| --- | --- | --- |\n"
    return re.sub(rf"{re.escape(head)}(?:\|.*\n)*", lambda _: head + "".join(f"{line}\n" for line in lines), guide)


def _structure_outcomes() -> dict[str, str]:
    from tests.data_pipelines.media import test_media_structure as structure  # it reads this module's tables

    with tempfile.TemporaryDirectory() as folder:
        content = structure.clip_writer(pathlib.Path(folder))
        outcomes = {}
        for name, (ending, make) in structure.CASES.items():
            path = pathlib.Path(folder) / f"damaged.{ending}"
            path.write_bytes(make(content))
            outcomes[name] = structure_outcome(str(path))
    return outcomes


def main() -> None:
    """Writes the page anew."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = pathlib.Path(os.environ["COVER_TEST_DATA"]) / "codecs"
    guide = GUIDE.read_text()
    guide = _with_outcomes(guide, "Damaged structure", _structure_outcomes())
    guide = _with_outcomes(guide, "Real files", {name: outcome(str(folder / name)) for name in os.listdir(folder)})
    GUIDE.write_text(_with_colours(guide, colour_rows(folder)))


if __name__ == "__main__":
    main()
