"""What is found in the folders that users have: mirrors' layouts, and lists that do not fit. The files are empty."""

import gzip
import json

import pytest
from etils import epath

from data_pipelines import archives
from data_pipelines.builders import (
    charades,
    epic_kitchens,
    imagenet21k,
    kinetics,
    moments_in_time,
    something_something,
    ucf101,
)
from data_pipelines.prepare import publisher
from tests.data_pipelines import class_lists, publishers

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
        ({"b/train.csv": HEADER}, "train", r"there are several train\.csv in .*: b/train\.csv, train\.csv; keep one"),
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
        ({"classInd.txt": "0 Archery\n"}, ("train",), r"classInd\.txt: the indices of the 1 classes are not 1 to 1"),
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


def _read_train(root, kind, change):
    """The training files of a publisher's miniature, with one of its lists changed: path -> class."""
    name, find = {
        "kinetics": ("train.csv", lambda source: kinetics.find(source, ("train",), 1)),
        "something_something": ("train.json", lambda source: something_something.find(source, ("train",), 2)),
        "moments_in_time": ("trainingSet.csv", lambda source: moments_in_time.find(source, ("train",))),
        "ucf101": ("trainlist01.txt", lambda source: ucf101.find(source, ("train",), 1)),
    }[kind]
    make = {
        "kinetics": lambda: _kinetics(root, f"{CLIP}.mp4"),
        "something_something": lambda: _ssv2(root),
        "moments_in_time": lambda: _make(
            root,
            {
                "moments_categories.txt": "barking,0\n",
                "trainingSet.csv": "barking/a.mp4,barking,3,0\n",
                "training/barking/a.mp4": "",
            },
        ),
        "ucf101": lambda: _make(
            root, {"classInd.txt": "1 Archery\n", "trainlist01.txt": "Archery/v_a.avi 1\n", "Archery/v_a.avi": ""}
        ),
    }[kind]
    source = make()
    (source / name).write_bytes(change((source / name).read_bytes()))
    return {item.path: item.label for item in find(source).splits["train"]}


KINDS = ["kinetics", "something_something", "moments_in_time", "ucf101"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.replace(b"\n", b"\r\n"),
    lambda data: b"\n\n" + data + b"\n  \n",
], ids=["BOM", "CRLF", "blank lines"])  # fmt: skip
def test_lists_that_went_through_an_editor_are_read_alike(tmp_path, kind, change):
    plain = _read_train(tmp_path / "plain", kind, lambda data: data)
    assert len(plain) == 1 and _read_train(tmp_path / "changed", kind, change) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_lists_in_another_encoding_are_refused_with_their_line(tmp_path, kind):
    with pytest.raises(ValueError, match=r"line \d+: byte 0xe9 is not UTF-8"):
        _read_train(tmp_path / "latin1", kind, lambda data: data + b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"line 1: the file is UTF-16"):
        _read_train(tmp_path / "utf16", kind, lambda data: data.decode().encode("utf-16"))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "kinetics",
            lambda data: data + f"yoga,{CLIP},10,20,train\n".encode(),
            r"line 3: .* is listed twice, also in line 2",
        ),
        ("moments_in_time", lambda data: data + b"barking/a.mp4,barking\n", None),
        ("ucf101", lambda data: data + b"Archery/v_a.avi 1\n", None),
        ("something_something", lambda data: b"{}", r"train\.json, entry 1: it must be a list of entries such as"),
        ("something_something", lambda data: b"[1]", r"train\.json, entry 1: it must be"),
        (
            "something_something",
            lambda data: b'[{"id": "1", "template": 5}]',
            "entry 1: template or placeholders are not text",
        ),
        ("something_something", lambda data: data[:-3], r"train\.json, line 1: it is not JSON"),
        (
            "kinetics",
            lambda data: data + f"tai chi,{CLIP},1e999,2,train\n".encode(),
            r"line 3: time_start .* do not read",
        ),
        ("kinetics", lambda data: data + b"tai chi,,1,2,train\n", "line 3: the youtube_id is empty"),
        ("kinetics", lambda data: data + b"tai chi,a,1,2,train,,,\n", "line 3: 8 cells instead of 5"),
        ("moments_in_time", lambda data: data + b'"barking/b.mp4,barking\n', "line 2: the double quotes of"),
    ],
)
def test_lists_with_faults_are_refused_with_their_line(tmp_path, kind, change, message):
    if message is None:  # the same twice counts once
        assert len(_read_train(tmp_path, kind, change)) == 1
        return
    with pytest.raises(ValueError, match=message):
        _read_train(tmp_path, kind, change)


def test_the_classes_of_moments_in_time_keep_the_publisher_s_names_and_order(tmp_path):
    """The 339 classes of its first release, as MMAction2 lists them (tools/data/mit/label_map.txt)."""
    names = class_lists.MOMENTS_IN_TIME
    text = "".join(f"{name},{index}\n" for index, name in enumerate(names))
    source = _make(tmp_path, {"moments_categories.txt": text, "trainingSet.csv": "playing+fun/a.mp4,playing+fun,3,0\n"})
    listing = moments_in_time.find(source, ("train",))
    assert len(names) == 339 and listing.class_names == names
    assert listing.missing["train"][0].label == "playing+fun"


def test_the_classes_of_something_something_are_its_templates_without_brackets(tmp_path):
    """The 174 classes of v2, as MMAction2 lists them (tools/data/sthv2/label_map.txt)."""
    names = class_lists.SOMETHING_SOMETHING
    entry = {"id": "7", "template": "Lifting [something] up completely, then letting it drop down"}
    labels = json.dumps({name: str(index) for index, name in enumerate(names)})
    source = _make(tmp_path, {"labels.json": labels, "train.json": json.dumps([entry]), "7.webm": ""})
    listing = something_something.find(source, ("train",), 174)
    assert listing.class_names == names
    assert listing.splits["train"][0].label == "Lifting something up completely, then letting it drop down"


def _synsets(root, folder, *synsets, tars=False):
    """Folders or tars of synsets, with three images each."""
    for synset in synsets:
        images = {f"{synset}_{folder.rpartition('_')[2]}{i}.JPEG": b"image" for i in range(3)}
        if tars:
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{synset}.tar").write_bytes(publishers.tar_of(images))
        else:
            _make(root, {f"{folder}/{synset}/{name}": "image" for name in images})
    return epath.Path(root)


DOG, ANIMAL, CAT = "n02084071", "n00015388", "n02121620"


def _of_folders(listing):
    """Split -> folder and class of each image."""
    return {
        split: {(item.path.split("/")[-3], item.label) for item in items} for split, items in listing.splits.items()
    }


@pytest.mark.parametrize("tars", [False, True])
def test_synsets_in_several_folders_are_all_taken(tmp_path, tars):
    _synsets(tmp_path, "part_a", DOG, tars=tars)
    listing = imagenet21k.find(_synsets(tmp_path, "deep/part_b", CAT, ANIMAL, tars=tars), ("train", "validation"))
    assert listing.class_names == (ANIMAL, DOG, CAT)
    assert sum(map(len, listing.splits.values())) == 9


def test_the_processed_imagenet21k_has_its_publisher_s_validation_split(tmp_path):
    root = tmp_path / "imagenet21k_resized"
    _synsets(root, "imagenet21k_train", DOG, CAT)
    _synsets(root, "imagenet21k_val", DOG, CAT)
    _synsets(root, "imagenet21k_small_classes", ANIMAL)
    listing = imagenet21k.find(epath.Path(tmp_path), ("train", "validation"))
    assert listing.class_names == (ANIMAL, DOG, CAT)
    assert _of_folders(listing) == {
        "train": {("imagenet21k_train", DOG), ("imagenet21k_train", CAT), ("imagenet21k_small_classes", ANIMAL)},
        "validation": {("imagenet21k_val", DOG), ("imagenet21k_val", CAT)},
    }


def test_a_synset_in_two_training_folders_is_refused(tmp_path):
    _synsets(tmp_path, "imagenet21k_train", DOG)
    with pytest.raises(
        ValueError, match=r"n02084071 is there twice, in two places: imagenet21k_small_classes/n02084071 and"
    ):
        imagenet21k.find(_synsets(tmp_path, "imagenet21k_small_classes", DOG), ("train",))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_imagenet21k_s_archives_are_read_as_they_are(tmp_path, pack):
    inner = {f"{synset}.tar": {f"{synset}_{i}.JPEG": b"image %d" % i for i in range(3)} for synset in (DOG, CAT)}
    whole = {f"winter21_whole/{name}": publishers.tar_of(images) for name, images in inner.items()}
    (tmp_path / "winter21_whole.tar.gz").write_bytes(pack(publishers.tar_of(whole)))
    listing = imagenet21k.find(epath.Path(tmp_path), ("train", "validation"))
    assert listing.class_names == (DOG, CAT)
    items = [item for items in listing.splits.values() for item in items]
    assert len(items) == 6
    for item in items:
        synset, _, image = item.path.removeprefix("winter21_whole.tar.gz/winter21_whole/").partition(".tar/")
        assert archives.read(epath.Path(tmp_path) / item.archive, *item.span) == inner[f"{synset}.tar"][image]
    archives.close_kept()

    resized = {f"imagenet21k_resized/imagenet21k_{split}/{DOG}/{DOG}_1{split}.JPEG": b"x" for split in ("train", "val")}
    (tmp_path / "winter21_whole.tar.gz").unlink()
    (tmp_path / "imagenet21k_resized.tar.gz").write_bytes(pack(publishers.tar_of(resized)))
    listing = imagenet21k.find(epath.Path(tmp_path), ("train", "validation"))
    assert _of_folders(listing) == {"train": {("imagenet21k_train", DOG)}, "validation": {("imagenet21k_val", DOG)}}


def test_a_synset_s_tar_that_is_cut_at_a_member_is_refused_by_name(tmp_path):
    source = _synsets(tmp_path, "winter21_whole", DOG, CAT, tars=True)
    tar = source / "winter21_whole" / f"{CAT}.tar"
    tar.write_bytes(tar.read_bytes()[:1024])  # a header and its image
    with pytest.raises(archives.DamagedArchiveError, match=r"n02121620\.tar is cut off or damaged at byte 1024"):
        imagenet21k.find(source, ("train",))


@pytest.mark.parametrize("name", ["words.txt", "LOC_synset_mapping.txt"])
def test_words_of_synsets_stand_beside_their_wnids(tmp_path, name):
    separator = "\t" if name == "words.txt" else " "
    source = _synsets(tmp_path, "winter21_whole", DOG, CAT)
    lines = [f"{DOG}{separator}dog, domestic dog", f"{ANIMAL}{separator}animal, animate being"]  # no cat
    (source / name).write_text("\n".join(lines) + "\n")
    listing = imagenet21k.find(source, ("train",))
    assert listing.class_names == (f"{DOG} dog, domestic dog", CAT)
    assert {item.label for item in listing.splits["train"]} == set(listing.class_names)


def _packed(root, name, contents):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(gzip.compress(publishers.tar_of(contents)))


def test_kinetics_is_read_from_the_parts_that_cvdf_gives_out(tmp_path):
    others = [f"othervideo{i}" for i in range(3)]
    rows = "".join(f"tai chi,{youtube_id},10,20,train\n" for youtube_id in (CLIP, *others))
    source = _kinetics(tmp_path, f"train/{others[0]}_000010_000020.mp4", train=HEADER + rows)
    name = "{}_000010_000020.mp4".format
    _packed(
        tmp_path, "k400_targz/train/part_0.tar.gz", {f"./{name(others[1])}": b"one", name(others[0]): b"packed too"}
    )
    _packed(tmp_path, "k400_targz/train/part_1.tar.gz", {name(CLIP): b"clip"})
    listing = kinetics.find(source, ("train",), 1)
    assert [item.path for item in listing.splits["train"]] == [
        f"train/{name(others[0])}",  # files come first
        f"k400_targz/train/part_0.tar.gz/./{name(others[1])}",
        f"k400_targz/train/part_1.tar.gz/{name(CLIP)}",
    ]
    assert [item.path for item in listing.missing["train"]] == [name(others[2])]
    last = listing.splits["train"][-1]
    assert (last.source_id, last.start_s, last.end_s) == (CLIP, 10, 20)
    assert archives.read(source / last.archive, *last.span) == b"clip"
    archives.close_kept()

    (tmp_path / "k400_targz" / "train" / "part_1.tar.gz").write_bytes(b"\x1f\x8b cut off")
    with pytest.raises(archives.DamagedArchiveError, match=r"part_1\.tar\.gz is cut off or damaged"):
        kinetics.find(source, ("train",), 1)


def test_something_something_is_read_from_its_parts(tmp_path):
    source = _ssv2(tmp_path)
    (source / "x" / "7.webm").unlink()
    data = gzip.compress(publishers.tar_of({"20bn-something-something-v2/7.webm": b"clip" * 99}))
    for number, part in enumerate((data[:60], data[60:])):
        (source / f"20bn-something-something-v2-{number:02d}").write_bytes(part)
    (item,) = something_something.find(source, ("train",), 2).splits["train"]
    assert item.path == "20bn-something-something-v2-00/20bn-something-something-v2/7.webm"
    assert archives.read(source / item.archive, *item.span) == b"clip" * 99
    archives.close_kept()


def test_what_is_still_packed_is_named_with_its_command(tmp_path):
    source = _make(tmp_path, {"Moments_in_Time_Raw.zip": ""})
    with pytest.raises(
        FileNotFoundError, match=r"no moments_categories\.txt .* by: unzip -q 'Moments_in_Time_Raw\.zip'"
    ):
        moments_in_time.find(source, ("train",))
    source = _make(tmp_path / "ucf", {"UCF101.rar": ""})
    with pytest.raises(FileNotFoundError, match=r"no classInd\.txt .* by: unrar x 'UCF101\.rar'"):
        ucf101.find(source, ("train",), 1)


EPIC_COLUMNS = "narration_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"


def _epic(root, *rows):
    classes = {f"EPIC_100_{head}_classes.csv": f"id,key\n0,{head}0\n1,{head}1\n" for head in ("verb", "noun")}
    source = _make(root, {"P01_01.MP4": "", "EPIC_100_train.csv": EPIC_COLUMNS + "\n".join(rows), **classes})
    return epic_kitchens.find(source, ("train",), {"verb": 2, "noun": 2}).splits["train"]


def test_each_action_of_one_moment_has_a_name_of_its_own(tmp_path):
    """TFDS refuses two records of one name, after it has read all of them."""
    times = "P01_01,00:20:00.14,00:20:03.37"
    found = _epic(tmp_path, f"a,{times},0,1", f"b,{times},0,1", f"c,{times},1,0", "d,P01_01,00:20:03.37,00:20:09,1,0")
    assert [item.labels for item in found] == [("verb: verb0", "noun: noun1"), *[("verb: verb1", "noun: noun0")] * 2]
    sources = ["P01_01.MP4#t=1200.14,1203.37", "P01_01.MP4#t=1200.14,1203.37&id=c", "P01_01.MP4#t=1203.37,1209"]
    assert [item.source for item in found] == sources


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,P01_01,00:00:05.14,00:00:03.37,0,1", "line 2: it ends at 3.37 s, not after its start, 5.14 s"),
        ("a,P01_01,00:00:05.14", "line 2: time '': must be HH:MM:SS"),
        ("a,P01_01,00:00:00,00:00:03.37,7,1", "line 2: verb_class '7': must be from 0 to 1"),
        ("a,,00:00:00,00:00:03.37,0,1", r"EPIC_100_train\.csv, line 2: the video_id is empty; the file must be"),
        (",P01_01,00:00:00,00:00:03.37,0,1", "line 2: the narration_id is empty"),
    ],
)
def test_a_wrong_action_is_refused_with_its_line(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        _epic(tmp_path, row)


def _charades(root, text):
    source = _make(root, {"V1.mp4": "", "V2.mp4": "", "Charades_v1_classes.txt": "c000 A\nc001 B / C\n"})
    (root / "Charades_v1_train.csv").write_bytes(text)
    return {item.path: item.labels for item in charades.find(source, ("train",), 2).splits["train"]}


def test_videos_have_each_action_once_or_none_in_lists_of_windows(tmp_path):
    text = b"\xef\xbb\xbfid,actions,length\r\nV1,c001 1.0 2.0;c000 2 3;c001 4 5,9\r\nV2,,9\r\n"
    assert _charades(tmp_path, text) == {"V1.mp4": ("B / C", "A"), "V2.mp4": ()}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"V1,c009 1 2\n", "line 2: class c009 is not in Charades_v1_classes.txt"),
        (
            b"V1,\n,c000 1 2\n",
            r"Charades_v1_train\.csv, line 3: the id is empty; the file must be the publisher's list",
        ),
        (b"V1,c000 -1 2\n", "line 2: action 'c000 -1 2': must be CLASS START END"),
        (b"V1,c000 1 2\nV1,\n", "line 3: V1 is listed twice, also in line 2, with another class"),
    ],
)
def test_wrong_actions_are_refused_with_their_line(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        _charades(tmp_path, b"id,actions\n" + row)
