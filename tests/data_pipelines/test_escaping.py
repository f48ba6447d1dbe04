"""Names of any bytes that a file system allows become text that records, tables, pages and terminals can hold."""

import csv
import io
import json
import os
import pathlib

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import catalog, escaping
from data_pipelines.doctor import __main__ as doctor
from data_pipelines.doctor import manifest
from data_pipelines.output import html
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.prepare import base
from data_pipelines.prepare.listing import Layout, find
from data_pipelines.sources import class_names
from tests.data_pipelines.clips import write_clip
from tests.data_pipelines.records_of import records_of
from tests.helpers import fuzz

# What a name is in bytes -> how it is written.
NAMES = {
    b"caf\xe9.mp4": r"caf\xe9.mp4",  # Latin-1
    b"a\nb.mp4": r"a\x0ab.mp4",
    b" blanks .mp4 ": " blanks .mp4 ",
    b"\x1b[31mred.mp4": r"\x1b[31mred.mp4",
    "e\u0301.mp4".encode(): "e\u0301.mp4",  # NFD
    "\u00e9.mp4".encode(): "\u00e9.mp4",  # and NFC: two files
    "\u202egpj.mp4".encode(): r"\u202egpj.mp4",
    b"=1+2.mp4": "=1+2.mp4",
    b"@SUM(A1).mp4": "@SUM(A1).mp4",
    b"<b>&.mp4": "<b>&.mp4",
    b"a\\x0ab.mp4": r"a\\x0ab.mp4",
    b'"quoted", comma.mp4': '"quoted", comma.mp4',
}


@fuzz.seeded(300)
@given(st.binary(max_size=12))
def test_escapes_are_printable_and_lead_back(data):
    name = os.fsdecode(data)
    escaped = escaping.escape(name)
    assert escaping.unescape(escaped) == name
    assert "\n" not in escaped and "\x1b" not in escaped and escaped.encode().decode() == escaped
    cell = escaping.csv_cell(name)
    assert escaping.unescape(cell) == name and cell[:1] not in ("=", "@", "\t", "\r")


@fuzz.seeded(200)
@given(st.text(max_size=8), st.text(max_size=8))
def test_two_names_never_become_one(a, b):
    assert (escaping.escape(a) == escaping.escape(b)) == (a == b)


@pytest.mark.parametrize("name", ["=1+2", "@A1", "+1-cmd|' /C calc'!A0", "-2+3"])
def test_a_cell_is_never_a_formula(name):
    assert escaping.csv_cell(name)[0] == "\\" and escaping.unescape(escaping.csv_cell(name)) == name


def test_a_youtube_id_is_no_formula():
    assert escaping.csv_cell("-_000000004_000014.mp4") == "-_000000004_000014.mp4"


def test_text_for_people_keeps_its_lines():
    assert escaping.escape_text("a\\b\n\x1b[0m\udce9") == "a\\b\n\\x1b[0m\\xe9"
    assert html.escape("\x1b<\udce9>") == r"\x1b&lt;\xe9&gt;"


@pytest.fixture
def source(tmp_path):
    """Clips with names of all kinds, in a folder that is not UTF-8; beside each a file that is no clip."""
    clip = pathlib.Path(write_clip(tmp_path / "clip.mp4")).read_bytes()
    folder = os.fsencode(tmp_path) + b"/s\xe9t"
    for label in (b"run", b"sit"):
        os.makedirs(folder + b"/train/" + label)
        for name in NAMES:
            for prefix, data in ((b"", clip), (b"no ", b"no clip")):
                with open(folder + b"/train/" + label + b"/" + prefix + name, "wb") as file:
                    file.write(data)
    return os.fsdecode(folder)


def test_names_of_any_bytes_are_read_and_escaped_wherever_they_are_written(tmp_path, source, capsys):
    flags = ["video_folder", "--name=any", f"--source={source}", "--validation_folder="]
    prepare.main([*flags, f"--data_dir={tmp_path}", "--workers=1"])
    printed = capsys.readouterr().out
    assert f"train {2 * len(NAMES)}; 2 classes" in printed and "\x1b" not in printed and printed.encode()
    written = {f"train/{label}/{name}" for label in ("run", "sit") for name in NAMES.values()}
    assert records_of("video_folder/any", "train", tmp_path).keys() == written

    where = catalog.dataset_dir("video_folder/any", str(tmp_path))
    table = (where / "refused.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert len(rows) == 2 * len(NAMES) == len(table.splitlines()) - 1
    assert {row["path"] for row in rows} == {
        f"train/{label}/no {name}" for label in ("run", "sit") for name in NAMES.values()
    }

    doctor.main(["video_folder/any", f"--data_dir={tmp_path}"])
    doctor.main(["--raw", *flags, f"--output={tmp_path / 'raw'}"])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and printed.encode()
    for folder in (where, tmp_path / "raw"):
        page = (folder / "doctor.html").read_bytes().decode()
        assert "\x1b" not in page and "<b>&" not in page and r"caf\xe9.mp4" in page
        found = json.loads((folder / manifest.FILE).read_text())["splits"]["train"]
        assert found["found"] == found["refused"] == 2 * len(NAMES)


@pytest.mark.parametrize(
    "names",
    [
        [b"run", b"run "],
        [b"run", b"a\nb"],
        [b"run", b"caf\xe9"],
        [b"run", b"\x1b[0m"],
        ["\u00e9".encode(), "e\u0301".encode()],
    ],
)
def test_class_folders_that_the_label_file_would_change_are_refused_before_any_decoding(tmp_path, names):
    for name in names:
        folder = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(folder)
        for file in (b"/a.mp4", b"/b.mp4"):
            open(folder + file, "wb").close()
    with pytest.raises(ValueError, match=r"class(es are called)? '.*rename") as error:
        find(str(tmp_path), Layout(validation_share=0.5))
    assert "\x1b" not in str(error.value) and str(error.value).encode()


def test_a_class_that_looks_like_a_formula_counts_in_the_manifest(tmp_path):
    (tmp_path / "refused.csv").write_text(f"split,path,reason,label\ntrain,x,missing,{escaping.csv_cell('=A1')}\n")
    assert base.read_refused(epath.Path(tmp_path))["train"][0]["label"] == "=A1"
    class_names.check(["=A1", "@b", "a\\b"])
