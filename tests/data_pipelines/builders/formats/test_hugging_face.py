"""Folders of Hugging Face's `datasets` as sources: tables made as the library makes them."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from etils import epath

from data_pipelines import cells
from data_pipelines.builders.formats.hugging_face import Layout, find, split_by_name
from data_pipelines.prepare import __main__ as prepare
from tests.data_pipelines.builders.formats.conftest import jpeg
from tests.data_pipelines.records_of import labels_and_levels_of, records_of

NAMES = ["run", "sit"]
MEDIUM = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def table(media, labels, kind="Video", names=NAMES, column="video"):
    """A table of media, each bytes or (bytes, path), as `Dataset` has it; names=None: labels without description."""
    rows = [one if isinstance(one, tuple) else (one, f"{i}.mp4") for i, one in enumerate(media)]
    structs = pyarrow.array([one and {"bytes": one[0], "path": one[1]} for one in rows], MEDIUM)
    described = {column: {"_type": kind}}
    if names:
        described["label"] = {"names": names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    return pyarrow.table({column: structs, "label": labels}).replace_schema_metadata(metadata)


def write_parquet(path, of, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(of, path, **options)
    return path


def write_arrow(folder, of):
    """As `save_to_disk`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "data-00000-of-00001.arrow"
    with pyarrow.ipc.new_stream(folder / name, of.schema) as stream:
        stream.write_table(of)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}], "_split": "train"}))


def labels(listing, split="train"):
    return {item.path: item.label for item in listing.splits[split]}


@pytest.mark.parametrize(
    "paths, splits",
    [
        (["data/train-00000-of-00002.parquet", "data/odd-00000-of-00001.parquet"], {"train": 0, "odd": 1}),
        (["x/training/0.parquet", "x/dev/0.parquet"], {"train": 0, "validation": 1}),
        (["my_train_0.parquet", "k-eval.parquet"], {"train": 0, "test": 1}),
        (["a.parquet"], {"train": 0}),
        (["trainer.parquet"], {"train": 0}),  # no word of its own: all are train
    ],
)
def test_splits_are_those_of_datasets(paths, splits):
    assert split_by_name(paths) == {split: [paths[i]] for split, i in splits.items()}


def test_files_of_no_split_are_named(capsys):
    assert split_by_name(["train/0.parquet", "more/1.parquet"]) == {"train": ["train/0.parquet"]}
    assert "WARNING: 1 files belong to no split: more/1.parquet" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"row_group_size": 3}, {"data_page_size": 100, "compression": "zstd"}])
def test_any_cell_can_be_read_in_any_order(tmp_path, options):
    of = table([bytes([i]) * 50 for i in range(40)], [0] * 40)
    path = epath.Path(write_parquet(tmp_path / "a.parquet", of, **options))
    write_arrow(tmp_path / "saved", of)
    for place in (path, epath.Path(tmp_path) / "saved" / "data-00000-of-00001.arrow"):
        for row in (0, 1, 5, 39, 4, 4, 17, 38):
            assert cells.read(place, "video", row) == bytes([row]) * 50
        with pytest.raises(cells.DamagedTableError, match="row 40: column video has no bytes"):
            cells.read(place, "video", 40)
        cells.close_kept()


def test_a_folder_of_parquet_becomes_a_dataset(tmp_path, clip, capsys):
    source = tmp_path / "hub"
    for split, levels in (("train", (40, 100, 160, 220)), ("test", (60, 200))):
        of = table([clip(level) for level in levels], [i % 2 for i in range(len(levels))])
        write_parquet(source / "data" / f"{split}-00000-of-00001.parquet", of, row_group_size=3)
    flags = ["hugging_face", "--name=hub", f"--source={source}", f"--data_dir={tmp_path}", "--workers=1"]
    with pytest.raises(SystemExit, match="--validation_split=validation: .* has the splits test, train; name one"):
        prepare.main(flags)
    prepare.main([*flags, "--validation_split=test"])
    assert "hugging_face/hub: train 4, validation 2; 2 classes" in capsys.readouterr().out
    found = labels_and_levels_of("hugging_face/hub", "train", tmp_path)
    place = "data/train-00000-of-00001.parquet"
    assert {source: name for source, (name, _) in found.items()} == {
        f"{place}/{i:07d}/{i}.mp4": NAMES[i % 2] for i in range(4)
    }
    assert all(abs(found[f"{place}/{i:07d}/{i}.mp4"][1] - level) < 4 for i, level in enumerate((40, 100, 160, 220)))


def test_what_save_to_disk_wrote(tmp_path):
    images = table([jpeg(20), jpeg(90), jpeg(160), jpeg(230)], ["b", "a", "b", "a"], "Image", None, "image")
    write_arrow(tmp_path / "saved" / "train", images)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    prepare.main(["hugging_face", "--name=s", f"--source={tmp_path / 'saved'}", f"--data_dir={tmp_path}",
                  "--modality=image", "--validation_share=0.5", "--workers=1"])  # fmt: skip
    record = records_of("hugging_face/s", "validation", tmp_path)["train/data-00000-of-00001.arrow/0000003/3.mp4"]
    assert record["frames"].tolist() == [jpeg(230)] and record["label"] == 0  # as they were
    write_arrow(tmp_path / "one", images)
    assert len(labels(find(epath.Path(tmp_path / "one"), Layout(modality="image", validation_split="")))) == 4


@pytest.mark.parametrize(
    "name, text",
    [
        ("metadata.csv", "file_name,label\na.mp4,run\nsub/b.mp4,sit\n"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "label": "run"}\n{"file_name": "sub/b.mp4", "label": "sit"}\n'),
    ],
)
def test_media_with_metadata(tmp_path, clip, name, text):
    for path in ("train/a.mp4", "train/sub/b.mp4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(clip(100))
    (tmp_path / "train" / name).write_text(text)
    found = find(epath.Path(tmp_path), Layout(validation_split=""))
    assert labels(found) == {"train/a.mp4": "run", "train/sub/b.mp4": "sit"}
    (tmp_path / "train" / "a.mp4").unlink()
    with pytest.raises(ValueError, match=f"1 samples name a file that is not there: .*{name}, line"):
        find(epath.Path(tmp_path), Layout(validation_split=""))


def test_media_beside_a_table(tmp_path, clip):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(clip(100))
    write_parquet(tmp_path / "train.parquet", table([(None, "clips/a.mp4"), (None, "gone.mp4")], [0, 1]))
    with pytest.raises(ValueError, match="1 samples have no bytes, and the file that they name is not there: train"):
        find(epath.Path(tmp_path), Layout(validation_split=""))
    found = find(epath.Path(tmp_path), Layout(validation_split="", incomplete="skip"))
    assert labels(found) == {"clips/a.mp4": "run"} and found.class_names == ("run", "sit")


BAD = {
    "have a label that is not 0 to 1: a.parquet/0000001/1.mp4": (table([b"a", b"b"], [0, -1]), {}),
    "have no label: a.parquet/0000001/1.mp4": (table([b"a", b"b"], ["x", None], names=None), {}),
    "no column of videos, but images in image: --modality=image": (table([b"a"], [0], "Image", column="image"), {}),
    "--label_column=sort: .*a.parquet has the columns video, label": (table([b"a"], [0]), {"label_column": "sort"}),
    "several columns of labels: name one of label, other": (
        table([b"a"], [0]).append_column("other", [[1]]).replace_schema_metadata({"huggingface": json.dumps(
            {"info": {"features": {name: {"_type": "ClassLabel", "names": NAMES} for name in ("label", "other")}}})}),
        {},
    ),
    "no column of videos, but columns label, text": (pyarrow.table({"label": [0], "text": ["x"]}), {}),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_used_is_refused_by_name(tmp_path, message):
    of, flags = BAD[message]
    write_parquet(tmp_path / "a.parquet", of)
    with pytest.raises(ValueError, match=message):
        find(epath.Path(tmp_path), Layout(validation_split="", **flags))


def test_tables_that_are_cut_off_or_of_two_datasets(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", table([b"a" * 500], [0]))
    other = write_parquet(tmp_path / "b.parquet", table([b"a"], [0], names=["x", "y"]))
    with pytest.raises(ValueError, match="b.parquet has other columns or classes than .*a.parquet"):
        find(epath.Path(tmp_path), Layout(validation_split=""))
    other.unlink()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(cells.DamagedTableError, match="a.parquet is cut off or damaged"):
        find(epath.Path(tmp_path), Layout(validation_split=""))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="has no Parquet files.*`video_folder` or `image_folder`"):
        find(epath.Path(tmp_path), Layout())
