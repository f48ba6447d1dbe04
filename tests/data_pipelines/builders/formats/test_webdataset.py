"""WebDataset as a source: what a sample is, what is refused by name, and bytes that stay as they are."""

import gzip
import hashlib
import json
import re

import pytest
from etils import epath

from data_pipelines import archives
from data_pipelines.builders.formats import webdataset
from data_pipelines.builders.formats.webdataset import Layout, expand, find
from data_pipelines.doctor import __main__ as doctor
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import records
from tests.data_pipelines.builders.formats.conftest import jpeg
from tests.data_pipelines.publishers import tar_of
from tests.data_pipelines.records_of import records_of


def shard(path, members):
    path.write_bytes(tar_of(members))
    return path


def labels(listing, split="train"):
    return {item.path: item.label for item in listing.splits[split]}


@pytest.mark.parametrize(
    "source, shards",
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("a-{8..10}.tar", ["a-8.tar", "a-9.tar", "a-10.tar"]),
        ("{x,y}-{0..1}.tar::z.tar", ["x-0.tar", "x-1.tar", "y-0.tar", "y-1.tar", "z.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_ranges_and_lists_of_shards(source, shards):
    assert expand(source) == shards


def test_impossible_ranges_are_refused():
    for span in ("{9..1}", "{0..99999999}"):
        with pytest.raises(ValueError, match="is no range: it must ascend, by less than 100,000"):
            expand(f"a-{span}.tar")
    with pytest.raises(ValueError, match="names more than 100,000 shards"):
        expand("{0..999}-{0..999}.tar")


@pytest.mark.parametrize(
    "name, key, field",
    [
        ("0001.mp4", "0001", "mp4"),
        ("run/a.b/0001.Left.MP4", "run/a.b/0001", "left.mp4"),  # up to the first dot of the file name
        ("./0001.cls", "0001", "cls"),
        ("README", "", ""),
        (".hidden.mp4", "", ""),
        ("a/._0001.mp4", "", ""),  # of macOS
        ("__meta__.json", "", ""),
    ],
)
def test_key_and_field_are_those_of_webdataset(name, key, field):
    assert webdataset._split(name) == (key, field)


@pytest.mark.parametrize(
    "flags, data, label",
    [
        ({}, {"cls": b" 007\n"}, "7"),
        ({"label_field": "txt"}, {"txt": "caf\u0065\u0301\n".encode()}, "caf\u00e9"),
        ({"label_field": "json:label"}, {"json": b'{"label": "run", "x": [1]}'}, "run"),
        ({"label_field": "json:n"}, {"json": b'{"n": 3}', "cls": b"9"}, "3"),
        ({"media_field": "left.mp4"}, {"cls": b"1", "left.mp4": b"l", "jpg": b"j"}, "1"),
    ],
)
def test_labels(tmp_path, flags, data, label):
    media = {} if "left.mp4" in data else {"mp4": b"m"}
    path = shard(tmp_path / "a.tar", {f"k.{field}": content for field, content in (media | data).items()})
    _, listing = find(str(path), Layout(**flags))
    (item,) = listing.splits["train"]
    assert (item.label, item.archive) == (label, "a.tar")
    assert archives.read(path, *item.span) == data.get("left.mp4", b"m")


BAD = {
    "have no cls, but json: --label_field names the label: a.tar/k": {"k.mp4": b"m", "k.json": b"{}"},
    "have no video, but an image: --modality=image: a.tar/k": {"k.jpg": b"m", "k.cls": b"0"},
    r"have several media \(avi, mp4; --media_field names the one to take\): a.tar/k": {
        "k.mp4": b"m",
        "k.avi": b"m",
        "k.cls": b"0",
    },
    "have a cls that is no whole number: a.tar/k": {"k.mp4": b"m", "k.cls": b"run"},
    "have a cls that is not UTF-8: a.tar/k": {"k.mp4": b"m", "k.cls": b"\xff"},
    "have an empty cls: a.tar/k": {"k.mp4": b"m", "k.cls": b" \n"},
    "have a cls that is too large for a label: a.tar/k": {"k.mp4": b"m", "k.cls": b"1" * (archives.READ_BYTES + 1)},
}


@pytest.mark.parametrize("message", BAD)
def test_incomplete_samples_are_named_before_decoding(tmp_path, message, capsys):
    good = {"g.mp4": b"m", "g.cls": b"1"}
    path = shard(tmp_path / "a.tar", {**good, **BAD[message]})
    with pytest.raises(ValueError, match=f"{path}: 1 samples {message}. --incomplete=skip leaves them out"):
        find(str(path), Layout())
    _, listing = find(str(path), Layout(incomplete="skip"))
    assert labels(listing) == {"a.tar/g.mp4": "1"}
    assert re.search(f"WARNING: .*: left out 1 samples {message}", capsys.readouterr().err)


@pytest.mark.parametrize(
    "members, message",
    [
        ({"k.mp4": b"m", "k.MP4": b"n", "k.cls": b"0"}, "sample 'k' has two fields 'mp4'"),
        ({"k.mp4": b"m", "k.cls": b"0", "l.mp4": b"m", "l.cls": b"0", "k.txt": b"x"}, "key 'k' comes twice"),
        ({"README": b"x"}, "there are no samples. A sample is members such as 0001.mp4 and 0001.cls"),
    ],
)
def test_what_is_no_webdataset_is_refused_by_name(tmp_path, members, message):
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        find(str(path), Layout())


def test_json_without_the_key_names_the_keys_there_are(tmp_path):
    path = shard(tmp_path / "a.tar", {"k.mp4": b"m", "k.json": b'{"b": 1, "a": 2}'})
    with pytest.raises(ValueError, match=r"have no 'label' in their json \(a, b\): --label_field=json:KEY: a.tar/k"):
        find(str(path), Layout(label_field="json:label"))


def test_shards_that_are_missing_named_twice_or_cut_off(tmp_path):
    members = {"k.mp4": b"m" * 2000, "k.cls": b"0"}
    path = shard(tmp_path / "a-0.tar", members)
    with pytest.raises(FileNotFoundError, match=r"2 of 3 shards are missing: .*a-1.tar, .*a-2.tar"):
        find(str(tmp_path / "a-{0..2}.tar"), Layout())
    with pytest.raises(ValueError, match="a-0.tar is named twice"):
        find(str(path), Layout(validation_source=str(path)))
    with pytest.raises(FileNotFoundError, match="has no tar in it"):
        (tmp_path / "empty").mkdir()
        find(str(tmp_path / "empty"), Layout())
    for size in (600, 1500, 3000, 3584):  # in the data, before the end blocks
        (tmp_path / "a-1.tar").write_bytes(path.read_bytes()[:size])
        with pytest.raises(archives.DamagedArchiveError, match="a-1.tar is cut off"):
            find(str(tmp_path / "a-{0..1}.tar"), Layout())


def test_splits_by_two_sources_or_by_a_share(tmp_path):
    for i in range(2):
        shard(tmp_path / f"t-{i}.tar", {f"{k}.{e}": b"%d" % (k % 2) for k in range(4) for e in ("mp4", "cls")})
    shard(tmp_path / "v.tar", {"0.mp4": b"m", "0.cls": b"1"})
    (tmp_path / "names.txt").write_text("run\nsit\n")
    root, listing = find(
        str(tmp_path / "t-{0..1}.tar"), Layout(validation_source=f"{tmp_path}/v.tar", class_names="names.txt")
    )
    assert listing.class_names == ("run", "sit") and labels(listing, "validation") == {"v.tar/0.mp4": "sit"}
    assert len(labels(listing)) == 8  # keys of different shards may be equal
    _, listing = find(str(tmp_path / "t-{0..1}.tar"), Layout(validation_share=0.25))
    assert labels(listing, "validation") == {"t-1.tar/2.mp4": "0", "t-1.tar/3.mp4": "1"}
    with pytest.raises(ValueError, match="--validation_source and --validation_share"):
        find("x.tar", Layout(validation_source="y.tar", validation_share=0.5))


def test_shards_become_a_dataset_whose_bytes_are_theirs(tmp_path, clip, capsys):
    for i in range(2):
        members = {}
        for k in range(3):
            members |= {f"{k}.mp4": clip(40 + 60 * (k % 2) + i), f"{k}.json": json.dumps({"label": k % 2}).encode()}
        shard(tmp_path / f"s-{i:03d}.tar", members)
    command = ["webdataset", "--name=mine", f"--source={tmp_path}/s-{{000..001}}.tar", "--label_field=json:label",
               "--validation_share=0.34", f"--data_dir={tmp_path}", "--form=video", "--workers=1"]  # fmt: skip
    prepare.main(command)
    assert "webdataset/mine: train 4, validation 2; 2 classes" in capsys.readouterr().out
    first = records_of("webdataset/mine", "train", tmp_path)["s-000.tar/0.mp4"]
    assert first["video"] == clip(40) and first["source_sha256"].decode() == hashlib.sha256(clip(40)).hexdigest()
    prepare.main(command)  # does nothing
    with pytest.raises(SystemExit, match="was prepared with label_field 'json:label', not 'cls'"):
        prepare.main([one for one in command if "label_field" not in one])
    doctor.main(["--raw", *command[:-2], f"--out={tmp_path / 'doctor'}"])
    assert "train 4 of 4 listed" in capsys.readouterr().out


def test_images(tmp_path, capsys):
    members = {f"{k}.{e}": jpeg(20 * k) if e == "jpg" else b"%d" % (k % 2) for k in range(4) for e in ("jpg", "cls")}
    shard(tmp_path / "a.tar", members)
    flags = ["webdataset", "--name=stills", f"--source={tmp_path / 'a.tar'}", "--modality=image", "--workers=1",
             f"--data_dir={tmp_path}", "--validation_share=0.5"]  # fmt: skip
    with pytest.raises(SystemExit, match="--fps: there is no such option for images"):
        prepare.main([*flags, "--fps=5"])
    prepare.main(flags)
    split = records.open_split("webdataset/stills", "train", str(tmp_path))
    stored = records_of("webdataset/stills", "train", tmp_path)
    assert split.modality == "image" and stored["a.tar/0.jpg"]["frames"].tolist() == [jpeg(0)]
    with pytest.raises(SystemExit, match="--modality=sound: must be one of video, image"):
        prepare.main([*flags, "--modality=sound"])


def test_compressed_shards_and_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    tar = tar_of({"k.mp4": b"m", "k.cls": b"0"})
    (tmp_path / "sub" / "b.tar.gz").write_bytes(gzip.compress(tar))
    (tmp_path / "a.tar").write_bytes(tar)
    root, listing = find(str(tmp_path), Layout())
    assert root == epath.Path(tmp_path) and list(labels(listing)) == ["a.tar/k.mp4", "sub/b.tar.gz/k.mp4"]
