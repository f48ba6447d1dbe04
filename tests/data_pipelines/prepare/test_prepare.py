import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from data_pipelines import catalog
from data_pipelines.builders.formats import image_folder
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.prepare import build
from data_pipelines.prepare.folder import FolderConfig
from data_pipelines.stream import pipeline, records
from tests.data_pipelines.clips import write_clip


def _run(*arguments):
    prepare.main([*map(str, arguments), "--workers=1"])


@pytest.fixture
def clips(tmp_path):
    """Two classes, in groups; one file of each split is no video."""
    source = tmp_path / "clips"
    for name in ("run/v_g01", "run/v_g02", "run/v_g03", "sit/v_g01", "sit/v_g02"):
        write_clip(source / f"{name}.mp4", level=0, step=8, num_frames=12 if name.startswith("run") else 24, rate=30)
    (source / "sit" / "v_g03.mp4").write_text("not a video")
    return source


@pytest.fixture
def pictures(tmp_path):
    for split, class_name, level in (("train", "dark", 10), ("train", "light", 240), ("test", "light", 230)):
        folder = tmp_path / "pictures" / split / class_name
        folder.mkdir(parents=True)
        Image.fromarray(np.full((12, 20, 3), level, np.uint8)).save(folder / "a.png")
    return tmp_path / "pictures"


def test_a_folder_of_clips_becomes_a_dataset(tmp_path, clips, dataset, capsys):
    command = (
        "video_folder",
        "--name=mine",
        f"--source={clips}",
        "--validation_pattern=_g01",
        f"--data_dir={tmp_path}",
    )
    _run(*command)
    printed = capsys.readouterr().out
    assert "video_folder/mine: train 3, validation 2; 2 classes" in printed
    assert "1 files were refused" in printed and "train sit/v_g03.mp4: InvalidDataError" in printed
    assert printed.endswith("\n  2 classes: run, sit\n") and "have no" not in printed
    split = records.open_split("video_folder/mine", "train", str(tmp_path))
    assert split.class_names == ("run", "sit") and split.modality == "video"
    dataset.canvas_px, dataset.sample_fps, dataset.num_frames = (32, 48), 10.0, 4
    with pipeline.eval_stream(split, dataset) as stream:
        batch = next(stream)
    assert sorted(batch["label"][batch["weight"] == 1]) == [0, 0, 1]
    assert batch["size_px"][0].tolist() == [32, 48]
    run = batch["frames"][(batch["label"] == 0) & (batch["weight"] == 1)][0]
    assert np.abs(run[:, 16, 24, 0].astype(int) - [0, 24, 48, 72]).max() <= 3  # every third of 12 frames

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    _run(*command)
    assert "video_folder/mine: train 3, validation 2" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_disk_that_is_full_at_the_end_is_named_and_what_was_read_is_kept(tmp_path, pictures, capsys, monkeypatch):
    def fail(builder, **kwargs):
        path = builder.data_path / "x.tfrecord-00000-of-00001"
        raise RuntimeError(
            f"ResourceExhaustedError: Failed to finalize writing of split: {path}; No space left on device"
        )

    monkeypatch.setattr(image_folder.Builder, "download_and_prepare", fail)
    command = ("image_folder", "--name=mine", f"--source={pictures}", "--validation_folder=test")
    with pytest.raises(SystemExit) as ended:
        _run(*command, f"--data_dir={tmp_path}")
    assert ended.value.code == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path) in message and message.endswith(
        "No space left on device. Make space; the same command continues with what was read so far"
    )


def test_another_source_under_the_same_name_is_refused(tmp_path, pictures):
    command = ("image_folder", "--name=mine", "--validation_folder=test", f"--data_dir={tmp_path}")
    _run(*command, f"--source={pictures}")
    for other, named in (("other", "'other'"), ("copy/pictures", "'pictures' in another folder")):
        with pytest.raises(SystemExit, match=f"mine was prepared with source 'pictures', not {named}.*--name"):
            _run(*command, f"--source={tmp_path / other}")
    with pytest.raises(SystemExit, match="was prepared with short_side_px 512, not 8"):
        _run(*command, f"--source={pictures}", "--short_side_px=8")


def test_data_of_version_0_1_0_is_compared_by_the_whole_path_of_its_source(tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(pathlib.Path(__file__).parents[2] / "golden" / "run" / "data", data_dir)
    for source, is_same in (("/golden/source/stills", True), ("/other/source/stills", False)):
        config = FolderConfig(name="stills", source=source)
        made = image_folder.Builder(config=config, data_dir=str(data_dir))
        if is_same:
            build._check_origin(made)
        else:
            with pytest.raises(ValueError, match="with source 'stills', not 'stills' in another folder"):
                build._check_origin(made)


def test_what_was_taken_is_told(tmp_path, pictures, capsys):
    for i in range(10):
        folder = pictures / "test" / f"more{i}"
        folder.mkdir()
        Image.fromarray(np.full((4, 4, 3), 20 * i, np.uint8)).save(folder / "a.png")
    (pictures / "train" / "dark" / "notes.txt").write_text("none")
    (pictures / "names.txt").write_text(
        "".join(f"{name}\n" for name in ("dark", "light", *(f"more{i}" for i in range(10))))
    )
    _run("image_folder", "--name=told", f"--source={pictures}", "--validation_folder=test", "--class_names=names.txt",
         f"--data_dir={tmp_path}")  # fmt: skip
    printed = capsys.readouterr()
    assert not re.search("download|custom|dataset_info|WARNING", printed.out + printed.err), "what libraries say"
    first, *lines = printed.out.splitlines()
    assert first.startswith("image_folder/told: train 2, validation 11; 12 classes; in ")
    tens = ", ".join(f"more{i}" for i in range(10))
    assert lines == [
        "  1 files are neither videos nor images: train/dark/notes.txt",
        f"  10 of 12 classes have no train example, so they cannot be learnt: {tens}",
        "  1 of 12 classes have no validation example, so their accuracy cannot be measured: dark",
        "  12 classes: dark, light, more0, more1, more2, more3, more4, more5, more6, more7, ... and 2 more",
    ]


def test_a_folder_of_images_becomes_a_dataset(tmp_path, pictures, dataset):
    _run("image_folder", "--name=mine", f"--source={pictures}", "--validation_folder=test", f"--data_dir={tmp_path}")
    split = records.open_split("image_folder/mine", "train", str(tmp_path))
    assert split.class_names == ("dark", "light") and split.modality == "image"
    dataset.canvas_px, dataset.num_frames, dataset.eval_batch_size = (12, 20), 1, 2
    with pipeline.eval_stream(split, dataset) as stream:
        batch = next(stream)
    levels = dict(zip(batch["label"].tolist(), batch["frames"][:, 0, 5, 5, 0].tolist(), strict=True))
    assert levels == {0: 10, 1: 240}


def test_files_that_cannot_be_used_at_all_are_an_error(tmp_path):
    source = tmp_path / "clips"
    (source / "run").mkdir(parents=True)
    for i in (1, 2):
        (source / "run" / f"v_g0{i}.mp4").write_text("not a video")
    (source / "names.txt").write_text("run\n")
    message = r"none of the 1 files of the train split can be used \(run/v_g02\.mp4: InvalidDataError"
    with pytest.raises(SystemExit, match=message):
        _run(
            "video_folder",
            "--name=mine",
            f"--source={source}",
            "--validation_pattern=g01",
            "--class_names=names.txt",
            f"--data_dir={tmp_path}",
        )
    assert not catalog.is_prepared("video_folder/mine", str(tmp_path))


@pytest.mark.parametrize("name", ["mine/2", "a,b", "v1.0", ""])
def test_a_name_that_paths_and_configs_cannot_hold_is_refused(name, tmp_path, capsys):
    with pytest.raises(SystemExit):
        _run("video_folder", f"--name={name}", f"--source={tmp_path}", f"--data_dir={tmp_path / 'data'}")
    assert f"error: --name: {name!r}: only letters, digits, _ and -" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_preparation_that_is_killed_leaves_no_dataset(tmp_path):
    command = [sys.executable, "-m", "data_pipelines.prepare", "digits", f"--data_dir={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300  # importing TensorFlow alone may take minutes on a busy machine
    while process.poll() is None and not list(tmp_path.glob("digits/appearance/*/*train*")):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    began = process.poll() is None and time.monotonic() < deadline
    process.kill()
    process.wait()
    assert began, "it never began to write"
    assert not catalog.is_prepared("digits/appearance", str(tmp_path))
    with pytest.raises(catalog.DatasetNotPreparedError):
        records.open_split("digits/appearance", "train", str(tmp_path))


def test_a_dataset_that_needs_files_is_not_prepared_unasked(tmp_path):
    build.prepare_if_self_contained("video_folder/mine", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_self_contained_datasets_are_not_made_twice(digits_dir):
    before = sorted(pathlib.Path(digits_dir).rglob("*"))
    build.prepare_if_self_contained("digits/motion", digits_dir)
    assert sorted(pathlib.Path(digits_dir).rglob("*")) == before


def _link(target, link):
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def test_real_clips_by_pattern(real_data, tmp_path, capsys):
    for path in sorted((real_data / "ucf101").glob("*/*_g0[6-9]_c01.mp4")):
        _link(path, tmp_path / "ucf" / path.parent.name / path.name)
    prepare.main(
        ["video_folder", "--name=ucf", f"--source={tmp_path / 'ucf'}", "--validation_pattern=_g0[1-7]_",
         f"--data_dir={tmp_path}"]
    )  # fmt: skip
    assert "video_folder/ucf: train 10, validation 10; 5 classes" in capsys.readouterr().out


def test_real_clips_by_list(real_data, tmp_path, capsys):
    for folder in ("train", "validate"):
        _link(real_data / "arid" / folder, tmp_path / "arid" / folder)
        lines = (real_data / "arid" / f"{folder}.txt").read_text().splitlines(keepends=True)
        (tmp_path / "arid" / f"{folder}.txt").write_text("".join(lines[::12]))
    _link(real_data / "arid" / "mapping_table_24.txt", tmp_path / "arid" / "names.txt")
    prepare.main(
        ["video_folder", "--name=arid", f"--source={tmp_path / 'arid'}", "--validation_folder=validate",
         "--train_list=train.txt", "--validation_list=validate.txt", "--list_columns=index,label,path",
         "--class_names=names.txt", f"--data_dir={tmp_path}"]
    )  # fmt: skip
    assert "video_folder/arid: train 13, validation 8; 6 classes" in capsys.readouterr().out
    split = records.open_split("video_folder/arid", "train", str(tmp_path))
    assert split.class_names == ("Jump", "Run", "Sit", "Stand", "Turn", "Walk")


def test_real_images_by_folder(real_data, tmp_path, dataset, capsys):
    for split in ("train", "test"):
        for path in sorted((real_data / "cifar10" / split).glob("*/000[0-3].jpg")):
            _link(path, tmp_path / "cifar" / split / path.parent.name / path.name)
    prepare.main(
        ["image_folder", "--name=cifar", f"--source={tmp_path / 'cifar'}", "--validation_folder=test",
         f"--data_dir={tmp_path}"]
    )  # fmt: skip
    assert "image_folder/cifar: train 40, validation 40; 10 classes" in capsys.readouterr().out
    dataset.num_frames, dataset.canvas_px = 1, (32, 32)
    split = records.open_split("image_folder/cifar", "validation", str(tmp_path))
    batches = list(pipeline.eval_stream(split, dataset))
    assert np.bincount(np.concatenate([batch["label"] for batch in batches])).tolist() == [4] * 10
