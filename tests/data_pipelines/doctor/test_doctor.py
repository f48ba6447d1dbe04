"""The doctor counts what is there against what is listed, says why the rest is not, and shows it."""

import json
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from data_pipelines.doctor import __main__ as doctor
from data_pipelines.doctor import examine, manifest
from data_pipelines.leaks import facts, kept, search
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.prepare import listing
from data_pipelines.stream import records

EVIL = "<b>&cat"


def picture(path: pathlib.Path, size_px: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (*size_px, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def source(tmp_path) -> pathlib.Path:
    """Images of two classes: 5 + 3 to train on, of which one of each is broken, and 2 to validate on."""
    folder = tmp_path / "source"
    for i in range(5):
        picture(folder / "train" / "dog" / f"{i}.jpg")
    for i in range(3):
        picture(folder / "train" / EVIL / f"{i}.png", size_px=(50, 30))
    picture(folder / "validation" / "dog" / "v.jpg")
    picture(folder / "validation" / EVIL / "w.jpg")
    (folder / "train" / "dog" / "4.jpg").write_bytes(b"no picture")
    (folder / "train" / EVIL / "2.png").write_bytes(b"")
    return folder


def flags(source: pathlib.Path, *more: str) -> list[str]:
    return ["image_folder", "--name=pets", f"--source={source}", *more]


def examined(folder: pathlib.Path) -> tuple[dict, str]:
    """The manifest and the page in a folder."""
    return json.loads((folder / manifest.FILE).read_text()), (folder / examine.PAGE).read_text()


def test_prepared_and_raw_say_the_same(source, tmp_path, capsys):
    prepare.main(flags(source, f"--data_dir={tmp_path}"))
    capsys.readouterr()
    doctor.main(["image_folder/pets", f"--data_dir={tmp_path}"])
    printed = capsys.readouterr().out
    doctor.main(["--raw", *flags(source), f"--output={tmp_path / 'raw'}"])
    (prepared, _), (raw, _) = examined(tmp_path / "image_folder" / "pets" / "1.0.0"), examined(tmp_path / "raw")
    assert capsys.readouterr().out.count("train 6 of 8 listed (2 refused)") == printed.count("(2 refused)") == 1
    for found in (prepared, raw):
        train = found["splits"]["train"]
        assert [train[count] for count in manifest.COUNTS] == [8, 6, 0, 2, 0]
        assert train["classes"] == {EVIL: [3, 2], "dog": [5, 4]}
        assert train["height_px_histogram"] == [[40, 40, 4], [50, 50, 2]]
        assert sorted(row["path"] for row in train["unusable"]) == sorted([f"train/{EVIL}/2.png", "train/dog/4.jpg"])
        assert all("Error" in row["reason"] for row in train["unusable"])
        assert found["splits"]["validation"]["found"] == 2
    origins = [found["origin"].get("source") for found in (prepared, raw)]
    assert (prepared["where"], raw["where"], origins) == ("image_folder/pets/1.0.0", "source", ["source", None])
    # What is passed on with the data does not name the folders around it: they may name a person.
    written = [path for name in ("image_folder", "raw") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert {"metadata.json", "dataset_info.json", "refused.csv", "manifest.json"} <= {path.name for path in written}
    assert not [path for path in written if str(tmp_path).encode() in path.read_bytes()]


def test_the_page_stands_alone_and_escapes_names(source, tmp_path):
    doctor.main(["--raw", *flags(source), f"--output={tmp_path}"])
    _, page = examined(tmp_path)
    assert EVIL not in page and "&lt;b&gt;&amp;cat" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page) and "<script" not in page
    assert page.count("data:image/jpeg;base64,") == 8
    assert "color-scheme: light dark" in page and "width=device-width" in page
    assert "2 of 3" in page and "train/dog/4.jpg" in page


def test_a_damaged_record_is_told_with_its_reason(make_numbered, tmp_path, capsys):
    data_dir = make_numbered()
    split = records.open_split("numbered", "train", data_dir)
    path = pathlib.Path(split.paths[split.shards[50]])
    content = bytearray(path.read_bytes())
    content[split.offsets[50] + 500] ^= 4
    path.write_bytes(content)
    doctor.main(["numbered", f"--data_dir={data_dir}"])
    found, _ = examined(tmp_path / "numbered" / "1.0.0")
    train = found["splits"]["train"]
    assert (train["found"], train["damaged"], len(train["unusable"])) == (97, 1, 1)
    assert train["unusable"][0]["path"] == "record 50" and "DataLossError" in train["unusable"][0]["reason"]
    assert sum(n for _, n in train["classes"].values()) == 96
    assert train["seconds"] == {"min": 2.0, "median": 2.0, "max": 2.0, "mean": 2.0}
    assert "train 97 of 97 listed (1 damaged)" in capsys.readouterr().out
    assert manifest.summary("numbered", data_dir)["train"]["damaged"] == 1


def test_what_was_measured_is_not_measured_again_but_where_it_is_missing(make_numbered, monkeypatch):
    split = records.open_split("numbered", "train", make_numbered())
    before, measured, measure = facts.load_facts(split), [], facts._measure_shard
    monkeypatch.setattr(facts, "_measure_shard", lambda path, *how: measured.append(path) or measure(path, *how))
    facts.load_facts(split)
    assert not measured
    facts._facts_path(split.paths[1]).unlink()
    facts._facts_path(split.paths[2]).write_bytes(b"cut off")
    again = facts.load_facts(split)
    assert measured == list(split.paths[1:])
    for name in facts.COLUMNS:
        np.testing.assert_array_equal(before[name], again[name], err_msg=name)


def test_facts_of_a_slice_are_those_of_its_records(make_numbered):
    data_dir = make_numbered()
    whole, part = (facts.load_facts(records.open_split("numbered", s, data_dir)) for s in ("train", "train[20:60]"))
    np.testing.assert_array_equal(part["source"], whole["source"][20:60])


@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
def test_the_mix_of_a_config_is_searched_once(source, tmp_path, capsys, monkeypatch):
    """Afterwards a run with this config finds all results, those of parts of splits as well."""
    for name in ("pets", "zoo"):
        prepare.main([*flags(source)[:1], f"--name={name}", *flags(source)[2:], f"--data_dir={tmp_path}"])
    config = tmp_path / "mix.py"
    config.write_text("""from configs import common, datasets

def get_config():
    config = common.get_config()
    config.datasets.pets = datasets.folder("image_folder/pets", train_split="train[:4]")
    config.datasets.zoo = datasets.folder("image_folder/zoo")
    return config
""")
    capsys.readouterr()
    doctor.main([f"--config={config}", f"--data_dir={tmp_path}"])
    printed = capsys.readouterr().out
    assert "image_folder/pets (image) in" in printed and "image_folder/zoo (image) in" in printed
    assert "leaks: no validation example" in printed
    train, val = (
        {name: records.open_split(f"image_folder/{name}", split, str(tmp_path)) for name, split in splits}
        for splits in (
            (("pets", "train[:4]"), ("zoo", "train")),
            (("pets", "validation"), ("zoo", "validation")),
        )
    )
    assert None not in kept.load(search.pairs_to_compare(train, val))
    with pytest.raises(SystemExit, match="--config names the datasets"):
        doctor.main([f"--config={config}", "image_folder/pets"])


def test_mistakes_are_told_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="dataset 'nothing' is not prepared"):
        doctor.main(["nothing", f"--data_dir={tmp_path}"])
    with pytest.raises(SystemExit, match="digits/appearance is not made from files"):
        doctor.main(["--raw", "digits"])
    with pytest.raises(SystemExit):
        doctor.main([])
    assert "which datasets?" in capsys.readouterr().err


def test_what_becomes_of_sides_is_told(tmp_path, capsys):
    for name in ("turn left", "turn right", "left hook", "sit"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "set" / "train" / name / "a.png")
    flags = ["image_folder", "--name=x", f"--source={tmp_path / 'set'}", "--validation_folder="]
    doctor.main(["--raw", *flags, f"--output={tmp_path / 'raw'}"])
    printed = capsys.readouterr().out
    assert "  mirrored clips: swapped: turn left <-> turn right\n" in printed
    assert "  mirrored clips: never mirrored, for want of the opposite class: left hook\n" in printed


def test_a_copy_within_a_dataset_is_named_by_prepare_and_doctor(source, tmp_path, capsys):
    shutil.copy(source / "train" / "dog" / "0.jpg", source / "validation" / "dog" / "copy.jpg")
    prepare.main(flags(source, f"--data_dir={tmp_path}"))
    copies = "leaks: 1 validation examples of image_folder/pets are also "
    assert copies in capsys.readouterr().out
    doctor.main(["image_folder/pets", f"--data_dir={tmp_path}"])
    assert copies in capsys.readouterr().out


def test_each_dataset_that_raw_examines_has_its_own_folder(tmp_path, monkeypatch):
    """A builder with several configs, such as `kinetics`, gives several datasets; the last one kept only its own."""
    empty = listing.Listing({"train": []}, ("a",))
    reader = types.SimpleNamespace(options={}, source=str(tmp_path))
    found = [(name, "video", reader, empty) for name in ("kinetics/400", "kinetics/600")]
    monkeypatch.setattr(examine.build, "sources", lambda arguments: iter(found))
    monkeypatch.chdir(tmp_path)
    examine.examine_sources(["kinetics", "--manual_dir=x"], "")
    written = {path.parent.name: json.loads(path.read_text())["dataset"] for path in tmp_path.rglob(manifest.FILE)}
    assert written == {"kinetics_400": "kinetics/400", "kinetics_600": "kinetics/600"}
    monkeypatch.setattr(examine.build, "sources", lambda arguments: iter(found[:1]))
    examine.examine_sources(["kinetics/400", "--manual_dir=x"], "one")
    assert examined(tmp_path / "one")[0]["dataset"] == "kinetics/400"


def test_a_video_counts_once_however_many_parts_are_cut_out_of_it(monkeypatch):
    items = [
        listing.Item(path, "", labels=("x",), cut=(start, start + 1.0))
        for path, start in (("a", 0), ("a", 1), ("b", 0))
    ]
    row = {"num_frames": 2, "fps": 1.0, "height_px": 4, "width_px": 4, "bytes": 100}
    monkeypatch.setattr(examine, "_in_parallel", lambda look, items, role: [(item, (dict(row), b"")) for item in items])
    found, _ = examine._of_files(None, listing.Listing({"train": items}, ("x",)), "train")
    assert (found["found"], found["bytes"]) == (3, 200)
