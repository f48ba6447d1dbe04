"""Folders whose classes are not where they should be: what was found is said, and the flag or folder that is right."""

import pytest

from data_pipelines.prepare.listing import Layout, find

SHARE = {"validation_share": 0.5}


def make(root, *folders, names=("a.mp4", "b.mp4")):
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / folder / name).touch()
    return str(root)


@pytest.mark.parametrize(
    ("folders", "layout", "message"),
    [
        # splits in place of classes
        (
            ["train/A", "train/B", "val/A"], SHARE,
            r"are train, val: these look like splits.*--train_folder=train --validation_folder=val",
        ),
        (["Training/A", "Testing/A"], SHARE, r"--train_folder=Training --validation_folder=Testing"),
        (["k400_train/A", "k400_val/A"], SHARE, r"--train_folder=k400_train --validation_folder=k400_val"),
        (["train/A", "val/A", "other/A"], SHARE, r"these look like splits"),
        (["train/A", "train/B"], SHARE, r"are train: these look like splits.*--validation_folder=''"),
        (
            ["part1/A", "part2/B"], SHARE,
            r"are part1, part2: these look like splits.*move their classes into one folder",
        ),
        (["train/A", "val/A"], {"validation_pattern": "a"}, r"these look like splits"),
        # one class alone, or one level too high
        (
            ["all/A", "all/B"], SHARE,
            r"are all: one class alone. The classes seem to be those in .*/all: A, B. Give .*--source",
        ),
        (["x/y/A", "x/y/B"], SHARE, r"seem to be those in .*/x/y: A, B"),
        (
            ["x/train/A", "x/val/A"], SHARE,
            r"In .*/x are train, val, like splits. Give --source=.*/x --train_folder=train",
        ),
        (["A"], SHARE, r"are A: one class alone. If .* is a class itself, give the folder above it by --source"),
        (
            ["train/all/A", "train/all/B", "validation/all/A"], {},
            r"seem to be those in .*train/all: A, B.*--train_folder",
        ),
        # one level too low, or beside
        (
            ["."], SHARE,
            r"has no files of the form CLASS/FILE: 2 files, such as a\.mp4, stand in it directly. .*folder above it",
        ),
        (
            ["train", "val"], {"validation_folder": "val"},
            r"train has no files of the form CLASS/FILE: 2 files.*--train_list",
        ),
        (["A", "B"], {}, r"there is no folder .*/train for the train split.* There is A, B"),
        (["train/A", "train/B", "val/A"], {}, r"for the validation split.* There is val: --validation_folder=val"),
        (["train/A", "train/B", "test/A"], {}, r"There is test: --validation_folder=test"),
        (["k_train/A", "k_val/A"], {}, r"There is k_train: --train_folder=k_train"),
        (["x/train/A", "x/validation/A"], {}, r"There is x/train: --source=.*/x"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_what_would_be_right(tmp_path, folders, layout, message):
    source = make(tmp_path / "set", *folders)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find(source, Layout(**layout))


def test_the_split_in_place_of_the_source(tmp_path):
    make(tmp_path / "set", "train/A", "train/B", "val/A")
    with pytest.raises(FileNotFoundError, match=r"looks like the split itself: --source=.*set"):
        find(str(tmp_path / "set" / "train"), Layout())


def test_a_folder_of_lists_beside_the_classes(tmp_path):
    source = make(tmp_path, "A", "B")
    make(tmp_path, "lists", names=("train.csv", "README.txt"))
    with pytest.raises(ValueError, match=r"'lists' has no video or image, but \.csv, \.txt. Move it out of"):
        find(source, Layout(**SHARE))


@pytest.mark.parametrize(
    "folders",
    [
        ["train", "bus", "car"],
        ["freight_train", "passenger_train"],
        ["A/x", "B/x", "B/y"],
        ["part1", "whole"],
        ["test", "rest"],
    ],
)
def test_classes_that_only_sound_like_splits_are_taken(tmp_path, folders):
    assert len(find(make(tmp_path, *folders), Layout(**SHARE)).class_names) == len({f.split("/")[0] for f in folders})


@pytest.mark.parametrize("folders", [["train", "val"], ["all"]])
def test_a_file_of_class_names_settles_it(tmp_path, folders):
    source = make(tmp_path, *folders)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in folders))
    assert find(source, Layout(class_names="names.txt", **SHARE)).class_names == tuple(folders)
