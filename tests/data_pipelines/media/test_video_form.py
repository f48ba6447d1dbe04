"""Datasets of video files: a source is kept as it is where it can be, and read, examined and compared like others."""

import json
import pathlib

import numpy as np
import pytest

from data_pipelines.doctor import __main__ as doctor
from data_pipelines.doctor import manifest
from data_pipelines.leaks import facts, search
from data_pipelines.media import frames_of_video, media_file
from data_pipelines.media.source_file import MediaError
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import pipeline, records
from tests.data_pipelines import media_clips
from tests.data_pipelines.records_of import info_of

SHORT_SIDE_PX = media_clips.SIZE_PX[0]


def read(path, short_side_px=SHORT_SIDE_PX, fps=10.0) -> media_file.Media:
    return media_file.read_video(str(path), short_side_px, fps, "video")


def numbers(stored: media_file.Media) -> list[int]:
    """The numbers of the stored frames, as training reads them."""
    return [
        media_clips.number(frame)
        for frame in frames_of_video.frames_at(stored.frames[0], range(stored.num_source_frames))
    ]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_that_can_be_is_kept_as_it_is(tmp_path, name):
    path = media_clips.write(tmp_path / name, "libx264", rate=30)
    stored = read(path)
    assert stored.frames == (pathlib.Path(path).read_bytes(),)
    assert (stored.fps, stored.num_source_frames, stored.form) == (pytest.approx(30, rel=1e-3), 30, "video")
    assert numbers(stored) == list(range(30))


def test_larger_frames_are_encoded_anew(tmp_path):
    path = media_clips.write(tmp_path / "a.mp4", "libx264", rate=30)
    stored = read(path, short_side_px=33)
    frames = frames_of_video.frames_at(stored.frames[0], range(10))
    assert frames.shape == (10, 32, 50, 3)  # H.264 takes even sizes
    assert (stored.fps, stored.num_source_frames) == (10.0, 10)
    assert numbers(stored) == list(range(0, 30, 3))
    assert stored.sha256 == read(path).sha256


def test_frames_at_an_unsteady_rate_are_encoded_anew_by_time(tmp_path):
    """Ten frames of 40 ms, then ten of 200 ms: at 5 frames a second every fifth, then every one."""
    stamps_ms = [*range(0, 400, 40), *range(400, 2400, 200)]
    path = media_clips.write(tmp_path / "a.mkv", "libx264", numbers=range(20), stamps_ms=stamps_ms)
    stored = read(path, fps=5.0)
    assert stored.fps == 5.0
    assert numbers(stored) == [0, 5, *range(10, 20)]


def test_damage_refuses_the_file(tmp_path):
    path = pathlib.Path(media_clips.write(tmp_path / "a.mp4", "libx264", container={"movflags": "faststart"}))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(MediaError):
        read(path)


def test_an_unknown_form_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="form='mpeg': must be one of frames, video"):
        prepare.main(["video_folder", "--name=a", f"--source={tmp_path}", f"--data_dir={tmp_path}", "--form=mpeg"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> str:
    """A data_dir with `one` and `two`: a clip of `one`'s validation split is one of `two`'s training set, smaller."""
    folder = tmp_path_factory.mktemp("video_form")
    rng = np.random.default_rng(0)
    for number in range(4):  # noise that moves: every clip looks different
        noise = np.kron(rng.integers(0, 256, (12, 24, 3)), np.ones((16, 16, 1))).astype(np.uint8)

        def paint(i, noise=noise):
            return np.ascontiguousarray(noise[i : i + 128, 2 * i : 2 * i + 192])

        target = folder / "one" / ("validation" if number < 2 else "train") / "ab"[number % 2]
        target.mkdir(parents=True)
        media_clips.write(target / f"{number}.mp4", "libx264", size=(128, 192), rate=10, paint=paint)
    for label in "ab":
        (folder / "two" / "train" / label).mkdir(parents=True)
        (folder / "two" / "validation" / label).mkdir(parents=True)
    for place, source in (("train/a", "validation/a/0"), ("train/b", "train/b/3"), ("validation/a", "train/a/2"),
                          ("validation/b", "train/b/3")):  # fmt: skip
        media_clips.copy(folder / "one" / f"{source}.mp4", folder / "two" / place / "c.mp4", title=place)
    for name, short_side_px in (("one", 128), ("two", 96)):
        prepare.main(["video_folder", f"--name={name}", f"--source={folder / name}", f"--data_dir={folder}",
                      "--form=video", f"--short_side_px={short_side_px}", "--workers=1"])  # fmt: skip
    return str(folder)


def test_records_are_read_like_those_of_frames(prepared, dataset):
    assert set(info_of("video_folder/one", prepared).features) >= {"video", "num_source_frames", "fps"}
    split = records.open_split("video_folder/one", "train", prepared)
    dataset.canvas_px, dataset.eval_batch_size, dataset.sample_fps = (128, 192), 2, 2.0
    with pipeline.eval_stream(split, dataset, pipeline.ReadOptions(threads=1)) as stream:
        batch = next(stream)
    assert batch["frames"].shape == (2, 4, 128, 192, 3)
    assert sorted(batch["label"]) == [0, 1] and batch["weight"].tolist() == [1.0, 1.0]
    source = pathlib.Path(prepared) / "one/train/a/2.mp4"
    first = list(batch["label"]).index(0)
    np.testing.assert_array_equal(
        batch["frames"][first], frames_of_video.frames_at(source.read_bytes(), [7, 12, 17, 22])
    )


def test_their_facts_and_leaks_are_found(prepared):
    one, two = (
        {split: records.open_split(f"video_folder/{name}", split, prepared) for split in ("train", "validation")}
        for name in ("one", "two")
    )
    assert len(list(pathlib.Path(prepared).glob("video_folder/two/1.0.0/facts/*.npz"))) == 2  # measured when prepared
    known = facts.load_facts(two["train"])
    assert known.columns["num_frames"].tolist() == [30, 30]
    assert known.columns["height_px"].tolist() == [96, 96] and not any(known.columns["reason"])
    frames_features = dict.fromkeys(("one", "two"), "frames")
    found = search.find_leaks({"two": two["train"]}, {"one": one["validation"]}, frames_features, facts.load_facts)
    assert [leak.summary()["training_examples"] for leak in found] == [1]


def test_the_doctor_examines_them(prepared, tmp_path):
    doctor.main(["video_folder/one", f"--data_dir={prepared}", f"--output={tmp_path / 'prepared'}"])
    doctor.main(["--raw", "video_folder", "--name=one", f"--source={prepared}/one", "--form=video",
                 f"--output={tmp_path / 'raw'}"])  # fmt: skip
    for where in ("prepared", "raw"):
        (found,) = (tmp_path / where).rglob(manifest.FILE)
        train = json.loads(found.read_text())["splits"]["train"]
        assert train["classes"] == {"a": [1, 1], "b": [1, 1]}
        assert train["frames"]["median"] == 30 and train["height_px"]["median"] == 128
