"""The outcome for each of the real files of `codecs`: the last table of data_pipelines/media/README.md, row by row."""

import os
import pathlib
import re

import av
import pytest

from data_pipelines.media import media_file
from data_pipelines.media.source_file import MediaError
from tests.data_pipelines import media_clips as clips

GUIDE = pathlib.Path(media_file.__file__).parent / "README.md"
ROW = re.compile(r"^\| `([\w.-]+\.\w+)` \| ([^|]+) \|", re.MULTILINE)
STORED = re.compile(r"(\d+) of (\d+) frames, (\d+) x (\d+)")
OUTCOMES = dict(ROW.findall(GUIDE.read_text()))


def test_every_real_file_has_its_row(real_data):
    assert sorted(OUTCOMES) == sorted(os.listdir(real_data / "codecs"))


@pytest.mark.parametrize("name", OUTCOMES)
def test_real_file(real_data, name):
    path, stored = str(real_data / "codecs" / name), STORED.fullmatch(OUTCOMES[name].strip())
    if stored is None:
        reason = OUTCOMES[name].strip().removeprefix("refused: ")
        with pytest.raises((MediaError, av.error.FFmpegError), match=re.escape(reason)):
            media_file.read_video(path, 256, 10.0)
        return
    read = media_file.read_video(path, 256, 10.0)
    height, width, _ = clips.pictures(read)[0].shape
    assert (len(read.frames), read.num_source_frames, width, height) == tuple(map(int, stored.groups()))


def test_every_test_in_the_tables_exists():
    named = set(re.findall(r"`(test_\w+)`", GUIDE.read_text()))
    defined = set()
    for path in pathlib.Path(__file__).parent.glob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert named and not named - defined
