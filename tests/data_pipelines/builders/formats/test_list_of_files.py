"""A list of files as a source, by the command and by the first start of a run: equal records, honest refusals."""

import pytest

from cover_jax.errors import ConfigError
from cover_jax.training import inputs
from data_pipelines import catalog
from data_pipelines.builders.formats.list_of_files import Layout, find
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import pipeline, records
from tests.data_pipelines.records_of import labels_and_levels_of
from tests.helpers import tiny_config

LIST = "path,label,split\nclips/0.mp4,run,train\nclips/1.mp4,sit,train\nclips/2.mp4,run,val\nclips/3.mp4,sit,val\n"


@pytest.fixture
def mine(tmp_path, clip):
    folder = tmp_path / "mine"
    (folder / "clips").mkdir(parents=True)
    for i in range(4):
        (folder / "clips" / f"{i}.mp4").write_bytes(clip(40 + 60 * i))
    (folder / "mine.csv").write_text(LIST)
    return folder / "mine.csv"


def config_of(path, data_dir):
    config = tiny_config.get_config()
    (name, *others) = config.datasets
    for other in others:
        del config.datasets[other]
    dataset = config.datasets[name]
    dataset.builder, dataset.list_of_files, dataset.num_classes = "list_of_files/mine", str(path), 0
    config.data_dir = str(data_dir)
    return config, name


def test_a_list_with_splits(mine):
    root, found = find(str(mine), Layout())
    assert str(root) == str(mine.parent) and found.class_names == ("run", "sit")
    assert {split: [item.path for item in items] for split, items in found.splits.items()} == {
        "train": ["clips/0.mp4", "clips/1.mp4"],
        "validation": ["clips/2.mp4", "clips/3.mp4"],
    }


def test_a_list_without_splits_is_divided(mine):
    mine.write_text("".join(f"clips/{i}.mp4,{'run' if i < 2 else 'sit'}\n" for i in range(4)))
    _, found = find(str(mine), Layout())
    assert [item.path for item in found.splits["validation"]] == ["clips/1.mp4", "clips/3.mp4"]
    assert list(find(str(mine), Layout(validation_share=0.0))[1].splits) == ["train"]


@pytest.mark.parametrize(
    "text, message",
    [
        (LIST.replace("1.mp4,sit,train", "1.mp4,sit,tarin"), "line 3: split 'tarin' must be one of train, validation"),
        (LIST.replace("1.mp4", "0.mp4"), r"line 3: clips/0.mp4 is listed twice \(first in line 2\)"),
        (LIST.replace(",train", ",val"), "no file has the split train, but validation"),
        (LIST.replace("clips/", "gone/"), "line 2: there is no file"),
        (LIST.replace("3.mp4,sit", "3.mp4,fly"), "clips/3.mp4: class 'fly' is not one of the 2 known: run, sit"),
    ],
)
def test_a_faulty_list_is_refused_with_its_line(mine, text, message):
    mine.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find(str(mine), Layout())


def test_the_first_start_of_a_run_makes_the_records_of_the_command(tmp_path, mine, dataset):
    config, name = config_of(mine, tmp_path / "run")
    train, evaluated = inputs.open_splits(config)
    prepare.main(["list_of_files", "--name=mine", f"--source={mine}", f"--data_dir={tmp_path / 'hand'}", "--workers=1"])
    by_hand = records.open_split("list_of_files/mine", "train", str(tmp_path / "hand"))
    assert train[name].fingerprint == by_hand.fingerprint and train[name].content == by_hand.content
    assert labels_and_levels_of("list_of_files/mine", "validation", tmp_path / "run").keys() == {
        "clips/2.mp4", "clips/3.mp4"
    }  # fmt: skip
    dataset.canvas_px, dataset.batch_size, dataset.eval_batch_size = (32, 48), 2, 2
    batches = []
    for split in (train[name], by_hand):
        with pipeline.eval_stream(split, dataset) as stream:
            batches.append(next(stream))
    assert all((batches[0][key] == batches[1][key]).all() for key in batches[0])
    before = (tmp_path / "run" / "list_of_files" / "mine" / "1.0.0" / "features.json").stat().st_mtime_ns
    again, _ = inputs.open_splits(config)
    assert again[name].fingerprint == by_hand.fingerprint
    assert (tmp_path / "run" / "list_of_files" / "mine" / "1.0.0" / "features.json").stat().st_mtime_ns == before
    mine.write_text(LIST.replace("0.mp4,run", "0.mp4,sit"))
    with pytest.raises(ConfigError, match="prepared from another list, or the list has changed since. Choose another"):
        inputs.open_splits(config)
    assert catalog.is_prepared("list_of_files/mine", config.data_dir)


def test_a_faulty_list_ends_the_start_of_a_run(tmp_path, mine):
    config, name = config_of(tmp_path / "none.csv", tmp_path)
    with pytest.raises(ConfigError, match=f"datasets.{name}.list_of_files=.*none.csv: there is no file"):
        inputs.open_splits(config)
