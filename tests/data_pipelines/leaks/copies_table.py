"""Measures the table of found copies in data_pipelines/leaks/README.md, and writes it between its markers:

    COVER_TEST_DATA=DIR python -m tests.data_pipelines.leaks.copies_table

15 of 125 real clips of each dataset are changed in each way and looked up among the 125.
"""

import argparse
import io
import os
import pathlib
import re
import tempfile
from collections.abc import Callable

import numpy as np
from PIL import Image

PAGE = pathlib.Path(__file__).parents[3] / "data_pipelines" / "leaks" / "README.md"
BEGIN = "<!-- table, made by python -m tests.data_pipelines.leaks.copies_table -->\n"
END = "<!-- end of table -->\n"
DATASETS = {"UCF101": "ucf101", "ARID": "arid"}  # title -> folder in COVER_TEST_DATA
NUM_CLIPS, NUM_COPIED = 125, 15
SHRUNK, QUALITY = 0.8, 50  # of every copy
ENDINGS = (".mp4", ".avi", ".webm")


def _padded(frames: np.ndarray, axis: int) -> np.ndarray:
    """Black bars of an eighth of a side at both its ends."""
    width = [(0, 0)] * 4
    width[axis] = (frames.shape[axis] // 8,) * 2
    return np.pad(frames, width)


def _cropped(frames: np.ndarray) -> np.ndarray:
    """Without a tenth on each side."""
    top, left = (side_px // 10 for side_px in frames.shape[1:3])
    return frames[:, top:-top, left:-left]


def _with_logo(frames: np.ndarray, height: float, width: float, lower: bool) -> np.ndarray:
    """With a bright rectangle that has a dark bar, near a right corner."""
    frames, (rows, columns) = frames.copy(), frames.shape[1:3]
    size_y, size_x = round(height * rows), round(width * columns)
    top = rows - size_y - rows // 20 if lower else rows // 20
    logo = frames[:, top : top + size_y, columns - size_x - columns // 20 : columns - columns // 20]
    logo[:] = 230
    logo[:, size_y // 3 : 2 * size_y // 3, size_x // 5 : -size_x // 5] = 20
    return frames


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "re-encoded only": lambda frames: frames,
    "mirrored": lambda frames: frames[:, :, ::-1],
    "letterboxed (an eighth of the height, above and below)": lambda frames: _padded(frames, 1),
    "pillarboxed (an eighth of the width, left and right)": lambda frames: _padded(frames, 2),
    "cropped by a tenth on each side": _cropped,
    "a bright logo of 13 % x 11 % in a lower corner": lambda frames: _with_logo(frames, 0.11, 0.13, True),
    "a bright logo of 20 % x 17 % in an upper corner": lambda frames: _with_logo(frames, 0.17, 0.20, False),
    "at double speed": lambda frames: frames[::2],
}


def written(page: str, rows: dict[str, list[str]]) -> str:
    """The page with a table of these rows between its markers: name -> cells."""
    head = ["", *DATASETS, "wrong matches"]
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    table = "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |") for cells in lines)
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    if len(re.findall(pattern, page, re.DOTALL)) != 1:
        raise ValueError(f"the page needs one pair of markers {BEGIN.strip()} {END.strip()}")
    return re.sub(pattern, lambda _: f"{BEGIN}\n{table}\n{END}", page, flags=re.DOTALL)


def rows_of(page: str) -> dict[str, list[str]]:
    """The rows between the markers of a page: name -> cells."""
    lines = [line for line in page.partition(BEGIN)[2].partition(END)[0].splitlines() if line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {first: rest for first, *rest in cells}


def _spread(items: list, count: int) -> list:
    """`count` of the items, at equal distances."""
    return [items[i * len(items) // count] for i in range(count)]


def _copy(jpegs: list[bytes], change: Callable[[np.ndarray], np.ndarray], to_jpeg: Callable) -> list[bytes]:
    changed = change(np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs]))
    size_px = round(changed.shape[2] * SHRUNK), round(changed.shape[1] * SHRUNK)
    small = (Image.fromarray(frame).resize(size_px, Image.Resampling.BICUBIC) for frame in changed)
    return [to_jpeg(np.asarray(frame), QUALITY) for frame in small]


def measure(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Change -> how many of NUM_COPIED copies were found, and how many wrong pairs, for the clips in a folder."""
    from data_pipelines.media import media_file
    from tests.data_pipelines.leaks import test_leaks as leaks  # imports TensorFlow

    paths = _spread(sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS), NUM_CLIPS)
    clips = [media_file.read_video(str(path), 512, 10.0) for path in paths]
    copied = _spread(list(range(NUM_CLIPS)), NUM_COPIED)
    copies = [(_copy(list(clips[i].frames), change, leaks.jpeg), {"fps": clips[i].fps})
              for change in CHANGES.values() for i in copied]  # fmt: skip
    with tempfile.TemporaryDirectory() as made:
        stored = [(list(clip.frames), {"fps": clip.fps}) for clip in clips]
        train = leaks.make(pathlib.Path(made) / "t", stored)["train"]
        val = leaks.make(pathlib.Path(made) / "v", copies)["train"]
        found = leaks.pairs_of(leaks.found_between(val, train), "content", val, train)
    result = {}
    for at, name in enumerate(CHANGES):
        of_change = [(number - at * NUM_COPIED, clip) for number, clip in found if number // NUM_COPIED == at]
        right = {number for number, clip in of_change if copied[number] == clip}
        result[name] = len(right), sum(copied[number] != clip for number, clip in of_change)
    return result


def main() -> None:
    """Writes the table anew."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    root = pathlib.Path(os.environ["COVER_TEST_DATA"])
    measured = {title: measure(root / folder) for title, folder in DATASETS.items()}
    rows = {}
    for name in CHANGES:
        found = [f"{measured[title][name][0]} of {NUM_COPIED}" for title in DATASETS]
        rows[name] = [*found, str(sum(measured[title][name][1] for title in DATASETS))]
        print(name, rows[name], flush=True)
    PAGE.write_text(written(PAGE.read_text(), rows))


if __name__ == "__main__":
    main()
