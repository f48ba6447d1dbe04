"""Lists of files in the forms that people have: read, or refused with file, line and what would be right."""

import pytest
from etils import epath

from data_pipelines.prepare.listing import Layout, find

FILES = ("run/a.mp4", "run/b.mp4", "sit/c d.mp4", "sit/e,f.mp4")


@pytest.fixture
def source(tmp_path):
    for path in FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def read(source, text, **layout):
    """Path -> class of each file of a list."""
    (source / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    listing = find(str(source), Layout(train_list="list.csv", validation_folder="", **layout))
    return {item.path: item.label for item in listing.splits["train"]}


BOTH = {"run/a.mp4": "run", "sit/c d.mp4": "sit"}


@pytest.mark.parametrize(
    "text",
    [
        "run/a.mp4,run\nsit/c d.mp4,sit\n",
        "path,label\nrun/a.mp4,run\nsit/c d.mp4,sit\n",  # a header
        "label,path\nrun,run/a.mp4\nsit,sit/c d.mp4\n",  # whose order counts
        "clip_name,clip_path,label\na,run/a.mp4,run\nc d,/sit/c d.mp4,sit\n".replace("/sit", "sit"),  # Kaggle's UCF101
        "video\tclass\tsplit\nrun/a.mp4\trun\ttrain\nsit/c d.mp4\tsit\ttrain\n",
        "# path label\nrun/a.mp4 run\nsit/c d.mp4 sit\n".replace("# path label", "#path label"),
        "\ufeffpath,label\r\nrun/a.mp4,run\r\nsit/c d.mp4,sit\r\n",  # of Excel
        "run/a.mp4;run\r\nsit/c d.mp4;sit\r\n",  # of Excel in Germany
        "run/a.mp4,run\rsit/c d.mp4,sit\r",  # of old Macs
        '"run/a.mp4","run"\n"sit/c d.mp4","sit"\n',
        "\n\nrun/a.mp4,run\n   \nsit/c d.mp4,sit\n\n\n",
        "run/a.mp4 run\nsit/c d.mp4 sit\n",  # a blank in a path, and between columns
        "run\\a.mp4,run\nsit\\c d.mp4,sit\n",  # of Windows
        "C:\\data\\run\\a.mp4,run\nC:\\data\\sit\\c d.mp4,sit\n",
        "/home/other/set/run/a.mp4,run\n/home/other/set/sit/c d.mp4,sit\n",  # of another machine
        "{source}/run/a.mp4,run\n{source}/sit/c d.mp4,sit\n",
        "./run/a.mp4,run\nsit/../sit//c d.mp4,sit\n",
        "run/a.mp4 , run\nsit/c d.mp4 , sit\n",
    ],
)
def test_one_list_in_many_forms(source, text):
    assert read(source, text.replace("{source}", str(source))) == BOTH


def test_paths_may_have_what_separates_columns(source):
    assert read(source, '"sit/e,f.mp4",sit\nrun/a.mp4,run\n') == {"sit/e,f.mp4": "sit", "run/a.mp4": "run"}
    assert read(source, "sit/e,f.mp4\nrun/a.mp4\n", list_columns=("path",)) == {
        "sit/e,f.mp4": "sit",
        "run/a.mp4": "run",
    }


def test_classes_may_have_blanks(source):
    assert read(source, "run/a.mp4 jump high\n") == {"run/a.mp4": "jump high"}


def test_numbers_keep_their_order(source):
    (source / "list.csv").write_text("run/a.mp4 10\nrun/b.mp4 9\nsit/c d.mp4 1\n")
    assert find(str(source), Layout(train_list="list.csv", validation_folder="")).class_names == ("1", "9", "10")


def test_paths_may_count_from_the_source_although_there_is_a_folder_of_the_split(source):
    (source / "train" / "run").mkdir(parents=True)
    (source / "train" / "run" / "z.mp4").touch()
    assert read(source, "train/run/z.mp4,run\n") == read(source, "run/z.mp4,run\n") == {"train/run/z.mp4": "run"}


def test_paths_may_count_from_the_folder_of_the_list(source):
    (source / "lists").mkdir()
    (source / "lists" / "x.mp4").touch()
    (source / "lists" / "train.txt").write_text("x.mp4 run\n")
    listing = find(str(source), Layout(train_list="lists/train.txt", validation_folder=""))
    assert [item.path for item in listing.splits["train"]] == ["lists/x.mp4"]


def test_class_and_file_names_of_a_mac_are_those_of_a_list(source):
    (source / "cafe\u0301").mkdir()  # NFD, as macOS writes
    (source / "cafe\u0301" / "g.mp4").touch()
    (source / "names.txt").write_text("caf\u00e9\nrun\n")
    found = read(source, "cafe\u0301/g.mp4,cafe\u0301\nrun/a.mp4,run\n", class_names="names.txt")
    assert found == {"cafe\u0301/g.mp4": "caf\u00e9", "run/a.mp4": "run"}


@pytest.mark.parametrize(
    ("text", "layout", "message"),
    [
        (
            "Datei,Klasse\nrun/a.mp4,run\nrun/b.mp4,run\n", {},
            r"list\.csv, line 1: 'Datei' does not end like a file.*--list",
        ),
        (
            "path,label\nrun/a.mp4,run\n", {"list_columns": ("label", "path")},
            "line 1: the list calls its columns path,label",
        ),
        ("run/a.mp4,run\nrun/b.mp4\n", {}, r"list\.csv, line 2: 1 columns instead of 2, path,label. Separate"),
        ("run/a.mp4,run\n,run\n", {}, r"line 2: the path is empty"),
        ("run/a.mp4,run\nrun/b.mp4,\n", {}, r"line 2: the label is empty"),
        ('run/a.mp4,run\n"run/b.mp4,run\n', {}, r"line 2: the double quotes of '\"run/b\.mp4,run' do not match"),
        (b"run/a.mp4,run\nrun/caf\xe9.mp4,run\n", {}, r"line 2: byte 0xe9 is not UTF-8. .*iconv -f LATIN1 -t UTF-8"),
        ("run/a.mp4,run\n".encode("utf-16"), {}, r"line 1: the file is UTF-16. .*iconv -f UTF-16"),
        (b"run/a.mp4,run\n\0,run\n", {}, r"line 2: it has a NUL byte"),
        ("\n \n", {}, r"list\.csv lists no files"),
        ("path,label\n", {}, r"list\.csv lists no files"),
        (
            "no/1.mp4,run\nno/2.mp4,run\n", {},
            r"line 1: there is no file .*no/1\.mp4, nor are others of this list there",
        ),
        (
            "run/a.mp4,run\n./run/a.mp4,run\n", {},
            r"line 2: run/a\.mp4 is listed twice: in train and in train \(first in .*1\)",
        ),
        ("/x/run/a.mp4,run\n/y/run/b.mp4,run\n", {}, r"line 2: '/y/run/b\.mp4' does not begin with '/x/'"),
        ("run/a.mp4;run;fast\nrun/b.mp4;run\n", {"label_separator": ";"}, r"line 1: 1 columns instead of 2"),
        ("run/a.mp4,\nrun/b.mp4,\n", {"label_separator": ";"}, r"list\.csv: no file has a class"),
        ("a.mp4\n", {"list_columns": ("path",)}, r"line 1: a\.mp4 has no folder, and the list no column 'label'"),
    ],
)  # fmt: skip
def test_what_does_not_read_is_refused_with_its_line(source, text, layout, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(source, text, **layout)


def test_a_file_in_both_lists_is_named_with_both_lines(source):
    (source / "train.csv").write_text("run/a.mp4,run\nrun/b.mp4,run\n")
    (source / "val.csv").write_text("\nrun/b.mp4,run\n")
    message = (
        r"val\.csv, line 2: run/b\.mp4 is listed twice: in train and in validation \(first in .*train\.csv, line 2\)"
    )
    with pytest.raises(ValueError, match=message):
        find(str(source), Layout(train_list="train.csv", validation_list="val.csv"))


def test_a_class_that_is_not_known_is_named_with_its_line_and_the_nearest(source):
    (source / "names.txt").write_text("".join(f"class number {i}\n" for i in range(40)) + "riding a bike\n")
    with pytest.raises(
        ValueError, match=r"line 1: run/a\.mp4: class 'riding_a_bike' is not .* 41 known; the nearest are: riding"
    ):
        read(source, "run/a.mp4,riding_a_bike\n", class_names="names.txt")
    (source / "names.txt").write_text("2\n1\n0\n")
    with pytest.raises(
        ValueError, match="line 1: run/a.mp4: class '2' is the name of one class and the number of another, '0'"
    ):
        read(source, "run/a.mp4,2\n", class_names="names.txt")


def test_a_list_is_read_from_a_folder_that_is_no_local_one(source, monkeypatch):
    from data_pipelines import files

    monkeypatch.setattr(files, "is_remote", lambda path: True)
    assert read(epath.Path(source), "run/a.mp4,run\nsit/c d.mp4,sit\n") == BOTH


@pytest.mark.parametrize(
    "text", ["run/a.mp4 run;fast\nrun/b.mp4 run;slow\n", "run/a.mp4\trun;fast\nrun/b.mp4\trun;slow\n"]
)
def test_what_separates_labels_does_not_separate_columns(source, text):
    assert read(source, text, label_separator=";") == {"run/a.mp4": "run;fast", "run/b.mp4": "run;slow"}


def test_quoted_labels_may_have_the_separator_of_the_columns(source):
    found = read(source, 'run/a.mp4,"run,fast"\nrun/b.mp4,run\n', label_separator=",")
    assert found == {"run/a.mp4": "run;fast", "run/b.mp4": "run"}
