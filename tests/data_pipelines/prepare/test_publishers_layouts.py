"""What is found in the folders that users have: mirrors' layouts, and lists that do not fit. The files are empty."""

import json

import pytest
from etils import epath

from data_pipelines.builders import imagenet21k, kinetics, moments_in_time, something_something, ucf101
from data_pipelines.prepare import publisher
from tests.data_pipelines import publishers

CLIP = "AbCdEfGhIjK"
HEADER = "label,youtube_id,time_start,time_end,split\n"


def _make(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return epath.Path(root)


def _kinetics(root, *paths, train=f"{HEADER}tai chi,{CLIP},10,20,train\n", **more):
    return _make(root, {"train.csv": train, **dict.fromkeys(paths, ""), **more})


def _found(source, split="train"):
    return [item.path for item in kinetics.find(source, (split,), 1).splits[split]]


@pytest.mark.parametrize(
    "path",
    [
        f"train/{CLIP}_000010_000020.mp4",  # CVDF
        f"train/tai chi/{CLIP}_000010_000020.mp4",  # the ActivityNet crawler
        f"k400/videos_train/tai_chi/{CLIP}_000010_000020.mkv",  # MMAction2
        f"{CLIP}_000010_000020.webm",  # flat
        f"compress/train_256/tai_chi/{CLIP}.mp4",  # without times
        f"train/{CLIP}_10_20.MP4",
    ],
)
def test_kinetics_clips_are_found_in_any_layout(tmp_path, path):
    assert _found(_kinetics(tmp_path, path)) == [path]


@pytest.mark.parametrize(
    "path",
    [f"train/{CLIP}_000010_000021.mp4", f"train/{CLIP}_000010_000020.txt", "train/other-clip0_000010_000020.mp4"],
)
def test_other_files_are_not_taken_for_the_clip(tmp_path, path):
    listing = kinetics.find(_kinetics(tmp_path, path), ("train",), 1)
    assert listing.splits["train"] == []
    assert [item.path for item in listing.missing["train"]] == [f"{CLIP}_000010_000020.mp4"]


def test_replacements_come_first_then_the_split_s_own_folder(tmp_path):
    name = f"{CLIP}_000010_000020.mp4"
    assert _found(_kinetics(tmp_path, f"a/{name}", f"val/{name}", f"train/{name}")) == [f"train/{name}"]
    assert _found(_kinetics(tmp_path, f"z/replacement_for_corrupted_k400/{name}"))[0].startswith("z/replacement")


def test_a_video_of_which_two_clips_were_cut_needs_their_times(tmp_path):
    rows = f"{HEADER}tai chi,{CLIP},10,20,train\ntai chi,{CLIP},30,40,train\n"
    source = _kinetics(tmp_path, f"{CLIP}.mp4", f"{CLIP}_000030_000040.mp4", train=rows)
    assert _found(source) == [f"{CLIP}_000030_000040.mp4"]


@pytest.mark.parametrize("name", ["validate.csv", "val.csv", "kinetics400/validate.csv", "kinetics_val.csv"])
def test_the_csv_files_may_be_deepmind_s_or_the_mirrors(tmp_path, name):
    clip = "abcdefghijk_000001_000011.mp4"
    val = f"{HEADER}tai chi,abcdefghijk,1,11,validate\n"
    assert _found(_kinetics(tmp_path, clip, **{name: val}), "validation") == [clip]


def test_a_csv_file_from_a_spreadsheet_is_read_like_others(tmp_path):
    path = f"{CLIP}_000010_000020.mp4"
    train = f"\ufeff{HEADER}tai chi,{CLIP},10,20,train\n".replace("\n", "\r\n")
    assert _found(_kinetics(tmp_path, path, train=train)) == [path]


def test_a_holdout_list_beside_test_csv_is_not_mistaken_for_it(tmp_path):
    rows = f"{HEADER}tai chi,abcdefghijk,1,11,test\n"
    files = {"test.csv": rows, "kinetics600_holdout_test.csv": HEADER}
    assert len(kinetics.find(_kinetics(tmp_path, **files), ("test",), 1).missing["test"]) == 1


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ({}, "validation", r"there is no validate\.csv in .*, at any depth: the validation split's csv from DeepMind"),
        ({"b/train.csv": HEADER}, "train", r"there are several train\.csv in .*: b/train\.csv, train\.csv; leave one"),
        ({"train.csv": "path label\na 0\n"}, "train", r"train\.csv has no column time_end, time_start, youtube_id"),
        ({"train.csv": f"{HEADER}tai chi,{CLIP},soon,20,train\n"}, "train", r"train\.csv, line 2: .*do not read"),
        ({"train.csv": f"{HEADER}a,{CLIP},1,2,train\nb,{CLIP},2,3,train\n"}, "train", "2 classes instead of 1: is it"),
        ({"val.csv": f"{HEADER}yoga,{CLIP},1,2,val\n"}, "validation", "unknown classes, such as 'yoga'"),
        ({"val.csv": f"{HEADER},{CLIP},1,2,val\n"}, "validation", "unknown classes, such as ''"),
    ],
)  # fmt: skip
def test_kinetics_lists_that_do_not_fit_are_refused_by_name(tmp_path, files, split, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        kinetics.find(_kinetics(tmp_path, **files), (split,), 1)


def test_kinetics_labels_are_the_sorted_names(tmp_path):
    rows = f'{HEADER}yoga,{CLIP},1,2,train\n"massaging person\'s head",{CLIP},2,3,train\nYoga,{CLIP},3,4,train\n'
    names = kinetics.find(_kinetics(tmp_path, train=rows), ("train",), 3).class_names
    assert names == ("Yoga", "massaging person's head", "yoga")


def _ssv2(root, prefix="", **more):
    entry = {"id": "7", "template": "Holding [something]"}
    labels = {"Holding something": "1", "Approaching something": "0"}
    files = {"labels.json": json.dumps(labels), "train.json": json.dumps([entry]), "x/7.webm": ""} | more
    return _make(root, {prefix + name if name.endswith("json") else name: text for name, text in files.items()})


@pytest.mark.parametrize("prefix", ["", "labels/", "annotations/something-something-v2-"])
def test_something_something_label_files_of_both_releases(tmp_path, prefix):
    listing = something_something.find(_ssv2(tmp_path, prefix), ("train",), 2)
    assert listing.class_names == ("Approaching something", "Holding something")
    assert [(item.path, item.label) for item in listing.splits["train"]] == [("x/7.webm", "Holding something")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labels.json": '{"Holding something": "0"}'}, r"labels\.json in .* has 1 classes instead of 2"),
        ({"labels.json": '{"a": "0", "b": "2"}'}, r"labels\.json: the indices of the 2 classes are not 0 to 1"),
        ({"train.json": '[{"id": "7", "template": "Eating [something]"}]'}, "1 unknown classes, such as 'Eating"),
        ({"train.json": '[{"id": "7"}]'}, "unknown classes, such as ''"),
    ],
)  # fmt: skip
def test_something_something_files_that_do_not_fit_are_refused(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        something_something.find(_ssv2(tmp_path, **files), ("train",), 2)


def test_a_test_split_without_answers_has_no_labels(tmp_path):
    source = _ssv2(tmp_path, **{"test.json": '[{"id": 7}]'})
    (item,) = something_something.find(source, ("test",), 2).splits["test"]
    assert (item.path, item.label) == ("x/7.webm", "")


@pytest.mark.parametrize(
    ("files", "splits", "message"),
    [
        ({"moments_categories.txt": "barking\n"}, ("train",), r"categories\.txt: each line must be CLASS,INDEX"),
        ({"moments_categories.txt": "barking,1\n"}, ("train",), "indices of the 1 classes are not 0 to 0"),
        ({"trainingSet.csv": "a/b.mp4,yelling,1,2\n"}, ("train",), r"trainingSet\.csv, line 1: 'a/b\.mp4,yelling,1,2'"),
        ({}, ("validation",), r"there is no .*validationSet\.csv, the list of the validation split"),
        ({}, ("test",), "Moments in Time has no test split, only train and validation"),
    ],
)
def test_moments_lists_that_do_not_fit_are_refused(tmp_path, files, splits, message):
    source = _make(tmp_path, {"moments_categories.txt": "barking,0\n", "trainingSet.csv": "", **files})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        moments_in_time.find(source, splits)


@pytest.mark.parametrize(
    ("files", "splits", "message"),
    [
        ({"classInd.txt": "0 Archery\n"}, ("train",), r"classInd\.txt: the indices of the 1 classes are not 0 to 0"),
        (
            {"trainlist01.txt": "Diving/v_a.avi 1\n"},
            ("train",),
            r"trainlist01\.txt, line 1: 'Diving/v_a\.avi 1' is not",
        ),
        ({}, ("validation",), r"there is no testlist01\.txt in .*: it is in UCF101TrainTestSplits"),
        ({}, ("test",), "UCF101 has no test split; its testlist is prepared as validation"),
    ],
)
def test_ucf101_lists_that_do_not_fit_are_refused(tmp_path, files, splits, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ucf101.find(_make(tmp_path, {"classInd.txt": "1 Archery\n", **files}), splits, 1)


def test_synsets_may_stand_in_a_folder_of_the_source(tmp_path):
    publishers.imagenet21k(tmp_path / "winter21_whole", num_images=3)
    listing = imagenet21k.find(epath.Path(tmp_path), ("train",))
    assert listing.class_names == ("n00017222", "n02084071")
    assert listing.splits["train"][0].path == "winter21_whole/n00017222.tar/n00017222_0.JPEG"


def test_a_synset_that_is_there_twice_is_refused(tmp_path):
    source = _make(tmp_path, {"n02084071.tar": "", "n02084071/n02084071_1.JPEG": ""})
    with pytest.raises(ValueError, match="n02084071 is there twice, as a tar and as a folder"):
        imagenet21k.find(source, ("train",))


def test_a_folder_without_synsets_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no synsets, nXXXXXXXX\.tar or nXXXXXXXX/, in"):
        imagenet21k.find(_make(tmp_path, {"dog/a.jpg": ""}), ("train",))


def test_the_validation_share_is_one_in_a_hundred_whatever_the_folder():
    names = [f"n01440764_{i}.JPEG" for i in range(20_000)]
    held_out = [imagenet21k.is_validation(f"n01440764.tar/{name}") for name in names]
    assert 150 < sum(held_out) < 250
    assert held_out == [imagenet21k.is_validation(f"x/n01440764/{name}") for name in names]
    assert imagenet21k.is_validation("n01440764_29.JPEG")  # frozen: a change would mix training images into validation


@pytest.mark.parametrize(
    ("folder", "expected"), [("kinetics/400", "kinetics/400"), ("400", "400"), ("kinetics", "kinetics"), ("600", "")]
)
def test_where_in_manual_dir_a_dataset_stands(tmp_path, folder, expected):
    (tmp_path / folder).mkdir(parents=True)
    assert publisher.source_folder(epath.Path(tmp_path), "kinetics", "400") == epath.Path(tmp_path) / expected


def test_splits_that_no_publisher_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match="splits 'train,val': must be some of train, validation, test"):
        kinetics.Builder(config="400", data_dir=str(tmp_path), splits=("train", "val"))
