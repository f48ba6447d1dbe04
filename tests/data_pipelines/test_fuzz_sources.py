"""Damaged lists, files of class names and archives: read, or refused by name; never a traceback, never less."""

import gzip
import json

import pytest

pytest.importorskip("hypothesis", reason="pip install -e '.[test]'")

from etils import epath  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from data_pipelines import archives, cells  # noqa: E402
from data_pipelines.builders import kinetics, moments_in_time, something_something, ucf101  # noqa: E402
from data_pipelines.builders.formats import hugging_face, list_of_files, webdataset  # noqa: E402
from data_pipelines.prepare.listing import Layout, find  # noqa: E402
from data_pipelines.sources import class_names  # noqa: E402
from tests.data_pipelines.builders.formats import test_hugging_face as tables_of  # noqa: E402
from tests.data_pipelines.publishers import tar_of  # noqa: E402
from tests.data_pipelines.sources.test_class_names import FORMS  # noqa: E402
from tests.helpers import fuzz  # noqa: E402

CONTENTS = {f"n{i}.jpg": bytes([i]) * (100 * i) for i in range(6)}
LIST = "path,label\nrun/a.mp4,run\nsit/b c.mp4,sit\n\nsit/d.mp4,0\n"


def refused_by_name(name: str, read) -> bool:
    """Whether something is refused, by a message that has the file's name; True for what is read as well."""
    try:
        with fuzz.no_hang():
            read()
    except (ValueError, OSError) as error:
        assert name in str(error), error
        str(error).encode()
    return True


@fuzz.seeded(400)
@given(st.data())
def test_damaged_lists(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("list")
    for path in ("run/a.mp4", "sit/b c.mp4", "sit/d.mp4"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).touch()
    (root / "names.txt").write_text("run\nsit\n")
    change = data.draw(fuzz.damage(len(LIST)))
    (root / "train.csv").write_bytes(change(LIST.encode()))
    layout = Layout(train_list="train.csv", validation_folder="", class_names="names.txt")
    assert refused_by_name("train.csv", lambda: find(str(root), layout))


@fuzz.seeded(600)
@given(st.data())
def test_damaged_files_of_class_names(tmp_path_factory, data):
    path = epath.Path(tmp_path_factory.mktemp("names")) / "names.txt"
    text = data.draw(st.sampled_from([form.encode() for form in FORMS.values()]))
    path.write_bytes(data.draw(fuzz.damage(len(text)))(text))
    assert refused_by_name("names.txt", lambda: class_names.check(class_names.read_class_names(path).names))


@fuzz.seeded(300)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=5, unique=True))
def test_any_names_in_a_json_list_come_back_or_are_refused(tmp_path_factory, names):
    path = epath.Path(tmp_path_factory.mktemp("names")) / "names.json"
    path.write_text(json.dumps(names))
    try:
        found = class_names.read_class_names(path).names
    except ValueError as error:
        assert "names.json" in str(error)
        return
    assert len(found) == len(names) and len(set(found)) == len(found)
    assert [line.strip() for line in "\n".join(found).split("\n") if line.strip()] == list(found)  # as TFDS reads them


OF_FILES = "path,label,split\nrun/a.mp4,run,train\nsit/b c.mp4,sit,train\nsit/d.mp4,sit,val\n"


@fuzz.seeded(400)
@given(st.data())
def test_damaged_lists_of_files(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("list")
    for path in ("run/a.mp4", "sit/b c.mp4", "sit/d.mp4"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).touch()
    path = root / "mine.csv"
    path.write_bytes(data.draw(fuzz.damage(len(OF_FILES)))(OF_FILES.encode()))
    try:
        with fuzz.no_hang():
            list_of_files.find(str(path), list_of_files.Layout(validation_share=0.0))
    except (ValueError, OSError) as error:  # a class that cannot be one is named without the list
        assert any(part in str(error) for part in ("mine.csv", "class ", ".mp4")), error


SHARD = tar_of({f"{i}.{field}": b"%d" % (i % 2) for i in range(4) for field in ("mp4", "cls", "json")})


@fuzz.seeded(400)
@given(st.data(), st.sampled_from(["cls", "json:label"]))
def test_damaged_shards(tmp_path_factory, data, label_field):
    path = tmp_path_factory.mktemp("shard") / "x.tar"
    path.write_bytes(data.draw(fuzz.damage(len(SHARD)))(SHARD))
    assert refused_by_name("x.tar", lambda: webdataset.find(str(path), webdataset.Layout(label_field=label_field)))


@fuzz.seeded(300)
@given(st.data())
def test_damaged_tables(tmp_path_factory, data):
    """A damaged table is refused by name, when it is listed or when a cell is read."""
    root = epath.Path(tmp_path_factory.mktemp("table"))
    if data.draw(st.booleans()):
        path = root / "x.parquet"
        tables_of.write_parquet(path, TABLE)
    else:
        tables_of.write_arrow(root, TABLE)
        path = root / "data-00000-of-00001.arrow"
    whole = path.read_bytes()
    path.write_bytes(data.draw(fuzz.damage(len(whole)))(whole))
    layout = hugging_face.Layout(validation_split="", incomplete="skip")
    assert refused_by_name(path.name, lambda: _read_cells(root, hugging_face.find(root, layout)))


def _read_cells(root, listing):
    for item in listing.splits["train"]:
        cells.read(root / item.archive, item.column, item.span[0])


TABLE = tables_of.table([bytes([i]) * 40 for i in range(6)], [0, 1] * 3)

PUBLISHED = {
    "kinetics": ("train.csv", b"label,youtube_id,time_start,time_end,split\nyoga,AbCdEfGhIjK,10,20,train\n"),
    "something_something": (
        "train.json",
        b'[{"id": "7", "template": "Holding [something]", "placeholders": ["a cup"]}]',
    ),
    "moments_in_time": ("trainingSet.csv", b"barking/a.mp4,barking,3,0\n"),
    "ucf101": ("trainlist01.txt", b"Archery/v_a.avi 1\nArchery/v_b.avi 1\n"),
}
FIND = {
    "kinetics": lambda root: kinetics.find(root, ("train",), 1),
    "something_something": lambda root: something_something.find(root, ("train",), 1),
    "moments_in_time": lambda root: moments_in_time.find(root, ("train",)),
    "ucf101": lambda root: ucf101.find(root, ("train",), 1),
}


@fuzz.seeded(600)
@given(st.data())
def test_damaged_lists_of_publishers(tmp_path_factory, data):
    root = epath.Path(tmp_path_factory.mktemp("published"))
    kind = data.draw(st.sampled_from(sorted(PUBLISHED)))
    name, text = PUBLISHED[kind]
    (root / "labels.json").write_text('{"Holding something": "0"}')
    (root / "moments_categories.txt").write_text("barking,0\n")
    (root / "classInd.txt").write_text("1 Archery\n")
    (root / name).write_bytes(data.draw(fuzz.damage(len(text)))(text))
    assert refused_by_name(name, lambda: FIND[kind](root))


@pytest.mark.slow
@fuzz.seeded(1500)
@given(st.data())
def test_damaged_archives(tmp_path_factory, data):
    """What is read has every member, with its own name or a damaged one; a compressed archive has them as they were."""
    path = epath.Path(tmp_path_factory.mktemp("archive")) / "x.tar"
    tar = tar_of({**CONTENTS, "in.tar": tar_of({"inner.jpg": b"inner"})})
    packed = data.draw(st.booleans())
    whole = gzip.compress(tar) if packed else tar
    path.write_bytes(data.draw(fuzz.damage(len(whole)))(whole))
    try:
        with fuzz.no_hang():
            found = archives.members(path)
    except archives.DamagedArchiveError as error:
        assert "x.tar" in str(error)
        return
    if packed:
        assert [member.name for member in found] == [*CONTENTS, "in.tar/inner.jpg"]
    for member in found:
        assert len(archives.read(path, member.start, member.size)) == member.size
    archives.close_kept()
