"""Damaged shards, offset indices and media: what cannot be read weighs nothing or is refused; all else is as it was."""

import pathlib

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="pip install -e '.[test]'")

from etils import epath  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from data_pipelines.media import (
    frames_of_video,  # noqa: E402
    media_file,  # noqa: E402
)
from data_pipelines.stream import pipeline, records  # noqa: E402
from tests.data_pipelines import media_clips  # noqa: E402
from tests.data_pipelines.conftest import NUM_RECORDS  # noqa: E402
from tests.data_pipelines.stream import test_pipeline  # noqa: E402
from tests.helpers import fuzz  # noqa: E402

pytestmark = pytest.mark.slow


def read_all(split, dataset) -> dict[str, np.ndarray]:
    """Every example of a split, in order."""
    with fuzz.no_hang(), pipeline.eval_stream(split, dataset, pipeline.ReadOptions(threads=1)) as stream:
        batches = list(stream)
    return {key: np.concatenate([batch[key] for batch in batches])[:NUM_RECORDS] for key in batches[0]}


def test_damaged_shards(make_numbered, dataset, monkeypatch):
    """Exactly the examples whose bytes changed weigh nothing; every other one is bit for bit as before."""
    monkeypatch.setattr(pipeline, "RETRY_WAITS_S", ())
    data_dir, dataset.eval_batch_size = make_numbered(num_shards=1), NUM_RECORDS
    split = records.open_split("numbered", "train", data_dir)
    shard = pathlib.Path(split.paths[0])
    index_path = shard.with_name(shard.name + records.INDEX_SUFFIX)
    whole, index, before = shard.read_bytes(), index_path.read_bytes(), read_all(split, dataset)
    ends = np.append(split.offsets[1:], len(whole))

    @fuzz.seeded(60)
    @given(fuzz.damage(len(whole)))
    def check(damage):
        damaged = damage(whole)
        shard.write_bytes(damaged)
        if len(damaged) == len(whole):
            index_path.write_bytes(index)
            changed = np.array([whole[a:b] != damaged[a:b] for a, b in zip(split.offsets, ends, strict=True)])
            now = read_all(records.open_split("numbered", "train", data_dir), dataset)
            np.testing.assert_array_equal(now["weight"], np.where(changed, 0, 1))
            assert not now["frames"][changed].any()
            for key in before:
                if key != "weight":
                    same = np.ones(NUM_RECORDS, bool) if key == "index" else ~changed
                    np.testing.assert_array_equal(now[key][same], before[key][same], err_msg=key)
        else:
            index_path.unlink(missing_ok=True)
            with pytest.raises(OSError, match=f"shard {shard} (is cut off|has \\d+ records|is corrupt)"):
                records.open_split("numbered", "train", data_dir)

    check()


def test_damaged_offset_indices(make_numbered):
    """A damaged one is made again: whatever is changed in it, the offsets are those of the records."""
    data_dir = make_numbered(num_shards=1)
    split = records.open_split("numbered", "train", data_dir)
    index_path = pathlib.Path(split.paths[0] + records.INDEX_SUFFIX)
    whole = index_path.read_bytes()

    @fuzz.seeded(300)
    @given(fuzz.damage(len(whole)))
    def check(damage):
        index_path.write_bytes(damage(whole))
        with fuzz.no_hang():
            opened = records.open_split("numbered", "train", data_dir)
        np.testing.assert_array_equal(opened.offsets, split.offsets)

    check()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("media")
    clip = media_clips.write(folder / "clip.mp4", "libx264", numbers=range(12), encoder={"g": "6"})
    webm = media_clips.write(folder / "clip.webm", "libvpx", numbers=range(6))
    return {
        ".mp4": pathlib.Path(clip).read_bytes(),
        ".webm": pathlib.Path(webm).read_bytes(),
        ".jpg": media_file.encode_jpeg(media_clips.draw(5)),
    }


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".jpg"])
def test_damaged_media_that_are_prepared(files, ending, tmp_path):
    """Refused by an exception, which preparation writes down, or stored; no hang and no crash."""
    path = tmp_path / f"media{ending}"

    @fuzz.seeded(150)
    @given(fuzz.damage(len(files[ending])))
    def check(damage):
        path.write_bytes(damage(files[ending]))
        with fuzz.no_hang():
            try:
                read = (
                    media_file.read_image(str(path), 32)
                    if ending == ".jpg"
                    else media_file.read_video(str(path), 32, 10.0)
                )
            except Exception as error:
                assert str(error) or type(error).__name__
            else:
                assert read.frames and all(read.frames)

    check()


@fuzz.seeded(100)
@given(st.data(), st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_damaged_videos_that_are_trained_on(files, data, indices):
    damaged = data.draw(fuzz.damage(len(files[".mp4"])))(files[".mp4"])
    with fuzz.no_hang():
        try:
            frames = frames_of_video.frames_at(damaged, indices)
        except Exception as error:
            assert str(error) or type(error).__name__
        else:
            assert frames.dtype == np.uint8 and len(frames) == len(indices)


def test_damaged_jpegs_inside_sound_records(files, dataset, tmp_path):
    """What checksums cannot know: its own example weighs nothing or has other pixels, and the neighbours are sound."""
    jpeg, path = files[".jpg"], str(tmp_path / "bad.tfrecord-00000-of-00001")
    dataset.canvas_px, dataset.eval_batch_size = media_clips.SIZE_PX, 9

    @fuzz.seeded(25)
    @given(st.lists(fuzz.damage(len(jpeg)), min_size=4, max_size=4))
    def check(damages):
        clips = [[jpeg] * 4]
        for damage in damages:
            clips += [[jpeg, damage(jpeg), jpeg, jpeg], [jpeg] * 4]
        split = written(path, clips)
        with fuzz.no_hang(), pipeline.eval_stream(split, dataset, pipeline.ReadOptions(threads=2)) as stream:
            (batch,) = list(stream)
        assert batch["weight"][::2].all() and (batch["frames"][::2] == batch["frames"][0]).all()
        lost = batch["weight"] == 0
        assert not batch["frames"][lost].any() and batch["index"].tolist() == list(range(9))

    check()


def written(path: str, clips: list[list[bytes]]) -> records.Split:
    """A split of one shard with these clips."""
    with test_pipeline.tf.io.TFRecordWriter(path) as writer:
        for label, jpegs in enumerate(clips):
            writer.write(test_pipeline._serialized(jpegs, label))
    shards, offsets = np.zeros(len(clips), np.int32), records.scan(epath.Path(path)).offsets[:-1]
    return records.Split("bad", "train", (path,), shards, offsets, (), ("frames", "label"), "video", "")
