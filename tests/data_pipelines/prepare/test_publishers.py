"""Each publisher's own files, in miniature, become a dataset by one command."""

import csv
import gzip
import zipfile

import pytest

from data_pipelines import catalog
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import pipeline, records
from tests.data_pipelines import publishers
from tests.data_pipelines.clips import write_clip
from tests.data_pipelines.records_of import info_of, labels_and_levels_of, records_of


def _run(*arguments):
    prepare.main([*map(str, arguments), "--workers=1"])


def _near(found, expected):
    assert found.keys() == expected.keys()
    for source, (label, level) in expected.items():
        assert found[source][0] == label and abs(found[source][1] - level) <= 3, source


def _refused(name, data_dir):
    path = catalog.dataset_dir(name, str(data_dir)) / "refused.csv"
    return [tuple(row) for row in csv.reader(path.read_text().splitlines())]


def test_kinetics(tmp_path, capsys):
    source = publishers.kinetics(tmp_path / "k400")
    id_0, id_1 = publishers.youtube_id(0), publishers.youtube_id(1)
    write_clip(source / "replacement" / "replacement_for_corrupted_k400" / f"{id_1}_000001_000011.mp4", level=200)
    _run("kinetics/400", f"--manual_dir={source}", f"--data_dir={tmp_path}")
    printed = capsys.readouterr().out
    assert "kinetics/400: train 4, validation 1; 400 classes" in printed
    assert "396 listed files are missing (train 396)" in printed

    replaced = f"replacement/replacement_for_corrupted_k400/{id_1}_000001_000011.mp4"
    _near(
        labels_and_levels_of("kinetics/400", "train", tmp_path),
        {
            f"train/{id_0}_000000_000010.mp4": ("class 000", 20),
            replaced: ("class 001", 200),
            f"train/{publishers.youtube_id(2)}_000002_000012.mp4": ("class 002", 80),
            f"train/{publishers.youtube_id(3)}_000003_000013.mp4": ("class 003", 110),
        },
    )
    record = records_of("kinetics/400", "train", tmp_path)[replaced]
    assert (record["source_id"].decode(), record["source_start_s"], record["source_end_s"]) == (id_1, 1, 11)
    refused = _refused("kinetics/400", tmp_path)
    assert refused[0] == ("split", "path", "reason", "label") and len(refused) == 397
    assert refused[1] == ("train", f"{publishers.youtube_id(4)}_000004_000014.mp4", "missing", "class 004")
    info = info_of("kinetics/400", tmp_path)
    assert info.metadata["listed"] == {"train": 400, "validation": 1}


@pytest.mark.parametrize("labelled", [True, False])
def test_the_test_split_is_prepared_when_asked_for(tmp_path, labelled):
    source = publishers.kinetics(tmp_path / "k400", test_labels=labelled)
    _run("kinetics/400", f"--manual_dir={source}", f"--data_dir={tmp_path}", "--splits=test")
    ((label, _),) = labels_and_levels_of("kinetics/400", "test", tmp_path).values()
    assert label == ("class 000" if labelled else None)


def test_something_something(tmp_path, capsys):
    source = publishers.something_something(tmp_path / "ssv2")
    _run("something_something/v2", f"--manual_dir={source}", f"--data_dir={tmp_path}", "--splits=train,validation,test")
    printed = capsys.readouterr().out
    assert "something_something/v2: train 2, validation 1, test 1; 174 classes" in printed
    folder = "20bn-something-something-v2"
    _near(
        labels_and_levels_of("something_something/v2", "train", tmp_path),
        {f"{folder}/1.webm": ("Holding something", 40), f"{folder}/2.webm": ("Putting something on something", 80)},
    )
    assert (
        labels_and_levels_of("something_something/v2", "test", tmp_path)[f"{folder}/5.webm"][0] == "Holding something"
    )
    train, test = (records_of("something_something/v2", split, tmp_path) for split in ("train", "test"))
    assert train[f"{folder}/1.webm"]["placeholders"].tolist() == [b"a cup"]
    assert train[f"{folder}/2.webm"]["placeholders"].tolist() == [b"a cup", "a plate with é".encode()]
    assert not len(test[f"{folder}/5.webm"]["placeholders"])
    assert _refused("something_something/v2", tmp_path)[1:] == [
        ("train", "3.webm", "missing", "Putting something on something")
    ]
    info = info_of("something_something/v2", tmp_path)
    assert info.features["label"].str2int("Holding something") == 173  # the index in labels.json
    assert info.metadata["origin"]["fps"] == 12.0


def test_moments_in_time(tmp_path, capsys):
    source = publishers.moments_in_time(tmp_path / "mit" / "Moments_in_Time_Raw").parent
    _run("moments_in_time", f"--manual_dir={source}", f"--data_dir={tmp_path}")
    assert "moments_in_time: train 2, validation 1; 3 classes" in capsys.readouterr().out
    singing = "Moments_in_Time_Raw/training/adult+female+singing/yt-5of6ffo6-Bw_205.mp4"
    karate = "Moments_in_Time_Raw/training/clapping/getty-karate-video-id635808620_4.mp4"
    found = labels_and_levels_of("moments_in_time", "train", tmp_path)
    _near(found, {singing: ("adult+female+singing", 50), karate: ("clapping", 100)})
    records = records_of("moments_in_time", "train", tmp_path)
    cut = [(records[path]["source_id"], records[path]["source_start_s"]) for path in (singing, karate)]
    assert cut == [(b"5of6ffo6-Bw", 205), (b"", 0)]
    missing = "Moments_in_Time_Raw/training/barking/flickr-gone_1.mp4"
    assert _refused("moments_in_time", tmp_path)[1:] == [("train", missing, "missing", "barking")]
    info = info_of("moments_in_time", tmp_path)
    assert info.features["label"].names == ["clapping", "adult+female+singing", "barking"]  # the publisher's order


def test_a_release_of_moments_in_time_has_its_number_of_classes(tmp_path, capsys):
    source = publishers.moments_in_time(tmp_path / "mit")
    with (source / "moments_categories.txt").open("a") as categories:
        categories.writelines(f"class {i},{i}\n" for i in range(3, 305))
    with pytest.raises(SystemExit, match=r"moments_categories.txt has 305 classes instead of 339"):
        _run("moments_in_time/339", f"--manual_dir={source}", f"--data_dir={tmp_path}")
    _run("moments_in_time/305", f"--manual_dir={source}", f"--data_dir={tmp_path}")
    assert "moments_in_time/305: train 2, validation 1; 305 classes" in capsys.readouterr().out
    assert not catalog.is_prepared("moments_in_time", str(tmp_path))


def test_ucf101(tmp_path, capsys):
    source = publishers.ucf101(tmp_path / "ucf")
    _run("ucf101/1", f"--manual_dir={source}", f"--data_dir={tmp_path}")
    assert "ucf101/1: train 2, validation 1; 2 classes" in capsys.readouterr().out
    _near(
        labels_and_levels_of("ucf101/1", "train", tmp_path),
        {
            "UCF-101/Archery/v_Archery_g08_c01.avi": ("Archery", 60),
            "UCF-101/Biking/v_Biking_g08_c01.avi": ("Biking", 120),
        },
    )
    assert _refused("ucf101/1", tmp_path)[1:] == [("validation", "Biking/v_Biking_g02_c01.avi", "missing", "Biking")]


def test_imagenet21k_is_the_same_from_tars_and_folders(tmp_path):
    found = {}
    for tars in (True, False):
        source = publishers.imagenet21k(tmp_path / f"winter21_{tars}", tars)
        data_dir = tmp_path / f"data_{tars}"
        _run("imagenet21k", f"--manual_dir={source}", f"--data_dir={data_dir}")
        for split in ("train", "validation"):
            levels = labels_and_levels_of("imagenet21k", split, data_dir)
            found[tars, split] = {source.replace(".tar/", "/"): pair for source, pair in levels.items()}
    train, validation = found[True, "train"], found[True, "validation"]
    assert train == found[False, "train"] and validation == found[False, "validation"]
    assert len(train) + len(validation) == 300 and 0 < len(validation) < 10 and not train.keys() & validation.keys()
    for source, (label, level) in {**train, **validation}.items():
        assert label == source.split("/")[0] and abs(level - int(source.rpartition("_")[2].split(".")[0])) <= 2


def test_a_dataset_with_a_folder_of_its_own_in_the_default_manual_dir(tmp_path, capsys):
    publishers.moments_in_time(tmp_path / "downloads" / "manual" / "moments_in_time")
    _run("moments_in_time", f"--data_dir={tmp_path}")
    assert "train 2, validation 1" in capsys.readouterr().out
    _run("moments_in_time", f"--data_dir={tmp_path}")  # does nothing
    assert "train 2, validation 1" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"moments_in_time was prepared with fps 10.0, not 5.0. Delete .* first"):
        _run("moments_in_time", f"--data_dir={tmp_path}", "--fps=5")


def test_no_manual_dir_is_refused_with_what_belongs_there(tmp_path):
    message = (
        r"there is no folder .*/downloads/manual; name another one with --manual_dir\. "
        r"It must hold .*trainingSet\.csv"
    )
    with pytest.raises(SystemExit, match=message):
        _run("moments_in_time", f"--data_dir={tmp_path}")


def test_a_split_of_which_nothing_is_there_is_an_error(tmp_path):
    source = publishers.kinetics(tmp_path / "k400", num_clips=0)
    message = r"none of the 400 files that are listed for the train split are in .*k400 \(the first: -_000000000_00"
    with pytest.raises(SystemExit, match=message):
        _run("kinetics/400", f"--manual_dir={source}", f"--data_dir={tmp_path}")
    assert not catalog.is_prepared("kinetics/400", str(tmp_path))


def test_so_few_images_that_none_is_validation_are_an_error_that_says_what_is_right(tmp_path):
    source = publishers.imagenet21k(tmp_path / "few", num_images=3)
    command = ("imagenet21k", f"--manual_dir={source}", f"--data_dir={tmp_path}")
    message = "of the files in .*few none is in the validation split.* one image in 100.*--splits=train prepares"
    with pytest.raises(SystemExit, match=message):
        _run(*command)
    _run(*command, "--splits=train")
    assert catalog.is_prepared("imagenet21k", str(tmp_path))


def test_imagenet_1k_by_tfds_s_own_builder(tmp_path, dataset, capsys):
    source = publishers.imagenet2012(tmp_path / "ilsvrc")
    (source / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn15075141 toilet tissue\n")
    prepare.main(["imagenet2012", f"--manual_dir={source}", f"--data_dir={tmp_path}"])
    assert "imagenet2012: train 4, validation 2; 1000 classes" in capsys.readouterr().out
    split = records.open_split("imagenet2012", "train", str(tmp_path))
    assert split.modality == "image" and len(split.class_names) == 1000
    dataset.frames_feature, dataset.num_frames, dataset.canvas_px = "image", 1, (12, 20)
    with pipeline.eval_stream(split, dataset) as stream:
        batch = next(stream)
    found = {
        (int(label), int(level)) for label, level in zip(batch["label"], batch["frames"][:, 0, 5, 5, 0], strict=True)
    }
    wnids = [name.partition(" ")[0] for name in split.class_names]
    assert found - {(0, 0)} == {(wnids.index(wnid), level) for wnid, level in publishers.IMAGENET_TRAIN}
    assert split.class_names[0] == "n01440764 tench, Tinca tinca" and split.class_names[1] == "n01443537"


def test_a_builder_that_nobody_has_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["kinetics/500", f"--data_dir={tmp_path}"])
    assert "error: BUILDER=kinetics/500: must be one of" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"there is no folder .*It must hold .*ILSVRC2012_img_train\.tar"):
        prepare.main(["imagenet2012", f"--data_dir={tmp_path}"])
    source = publishers.imagenet21k(tmp_path / "other", num_images=1)
    with pytest.raises(SystemExit, match=r"error: .*ILSVRC2012_img_val\.tar; No such file"):
        prepare.main(["imagenet2012", f"--data_dir={tmp_path}", f"--manual_dir={source}"])


def test_imagenet21k_from_the_publisher_s_archive(tmp_path, capsys):
    """The same records as from the tars that are in it, with two workers."""
    tars = publishers.imagenet21k(tmp_path / "tars", num_images=30)
    packed = {f"winter21_whole/{path.name}": path.read_bytes() for path in sorted(tars.iterdir())}
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "winter21_whole.tar.gz").write_bytes(gzip.compress(publishers.tar_of(packed)))
    found = {}
    for name in ("tars", "packed"):
        data_dir = tmp_path / f"data_{name}"
        prepare.main(["imagenet21k", f"--manual_dir={tmp_path / name}", f"--data_dir={data_dir}", "--workers=2"])
        for split in ("train", "validation"):
            levels = labels_and_levels_of("imagenet21k", split, data_dir)
            found[name, split] = {source.rpartition("/")[2]: pair for source, pair in levels.items()}
    assert len(found["tars", "train"]) > 50 and found["tars", "train"] == found["packed", "train"]
    assert found["tars", "validation"] == found["packed", "validation"]


def test_something_something_from_the_publisher_s_parts(tmp_path, capsys):
    source = publishers.something_something(tmp_path / "ssv2")
    clips = sorted((source / "20bn-something-something-v2").iterdir())
    data = gzip.compress(publishers.tar_of({f"20bn-something-something-v2/{c.name}": c.read_bytes() for c in clips}))
    for path in clips:
        path.unlink()
    for number, part in enumerate((data[:2000], data[2000:])):
        name = f"20bn-something-something-v2-{number:02d}"
        with zipfile.ZipFile(source / f"{name}.zip", "w") as archive:
            archive.writestr(name, part)
    _run("something_something/v2", f"--manual_dir={source}", f"--data_dir={tmp_path}")
    assert "something_something/v2: train 2, validation 1; 174 classes" in capsys.readouterr().out
    inside = "20bn-something-something-v2-00.zip/20bn-something-something-v2"
    _near(
        labels_and_levels_of("something_something/v2", "train", tmp_path),
        {f"{inside}/1.webm": ("Holding something", 40), f"{inside}/2.webm": ("Putting something on something", 80)},
    )
