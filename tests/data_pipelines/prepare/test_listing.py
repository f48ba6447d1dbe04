import pytest
from etils import epath

from data_pipelines import files
from data_pipelines.prepare.listing import Item, Layout, find


@pytest.fixture
def source(tmp_path):
    """Empty files: train and validation folders, and the same classes beside each other."""
    for path in (
        "split/train/run/a_g01.mp4", "split/train/sit/b_g02.mp4", "split/train/sit/deep/c_g03.mp4",
        "split/train/sit/.hidden", "split/validation/run/d_g01.mp4",
        "flat/run/a_g01.mp4", "flat/run/b_g08.mp4", "flat/sit/c_g02.mp4", "flat/sit/d_g09.mp4",
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def _paths(listing):
    return {split: [item.path for item in items] for split, items in listing.splits.items()}


def test_class_folders_in_split_folders(source):
    listing = find(str(source / "split"), Layout())
    assert listing.class_names == ("run", "sit")
    assert listing.splits["train"] == [
        Item("train/run/a_g01.mp4", "run"),
        Item("train/sit/b_g02.mp4", "sit"),
        Item("train/sit/deep/c_g03.mp4", "sit"),
    ]
    assert listing.splits["validation"] == [Item("validation/run/d_g01.mp4", "run")]


def test_links_to_folders_are_followed_but_never_back(source):
    (source / "flat" / "run" / "other").symlink_to(source / "flat" / "sit")
    for name, target in (("back", "flat"), ("here", "flat/run")):
        (source / "flat" / "run" / name).symlink_to(source / target)
    assert list(files.walk(epath.Path(source / "flat" / "run"))) == [
        "a_g01.mp4", "b_g08.mp4", "other/c_g02.mp4", "other/d_g09.mp4",
    ]  # fmt: skip


def test_validation_can_be_left_out(source):
    assert list(find(str(source / "split"), Layout(validation_folder="")).splits) == ["train"]


def test_a_pattern_divides_one_tree(source):
    assert _paths(find(str(source / "flat"), Layout(validation_pattern="_g0[1-7]"))) == {
        "train": ["run/b_g08.mp4", "sit/d_g09.mp4"],
        "validation": ["run/a_g01.mp4", "sit/c_g02.mp4"],
    }
    with pytest.raises(ValueError, match=r"--validation_pattern='_g99' leaves no file for validation in"):
        find(str(source / "flat"), Layout(validation_pattern="_g99"))


@pytest.mark.parametrize(("share", "num_train"), [(0.2, 3), (0.5, 2), (0.01, 3), (0.99, 1)])
def test_a_share_takes_the_last_of_each_class(tmp_path, share, num_train):
    for path in [f"{label}/{name}.mp4" for label in ("run", "sit") for name in "abcd"]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert _paths(find(str(tmp_path), Layout(validation_share=share))) == {
        "train": [f"{label}/{name}.mp4" for label in ("run", "sit") for name in "abcd"[:num_train]],
        "validation": [f"{label}/{name}.mp4" for label in ("run", "sit") for name in "abcd"[num_train:]],
    }


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(validation_share=1.0), "--validation_share=1.0: must be between 0 and 1"),
        (Layout(validation_share=0.2), "these have only one: sit. Add files, or leave out these classes: --skip=sit$"),
        (Layout(validation_share=0.2, skip=("sit",)), "--skip=sit: must leave two classes or more of run, sit"),
        (
            Layout(validation_pattern="_g01", skip=("swim",)),
            "--skip=swim: class 'swim' is not one of the 2 known: run, sit",
        ),
        (Layout(class_names="../split/names.txt", skip=("sit",)), "--skip=sit: with --class_names, leave"),
        (Layout(validation_share=0.2, validation_pattern="a"), "only one of them can divide the files"),
    ],
)
def test_a_share_that_cannot_be_taken(source, layout, message):
    (source / "flat" / "sit" / "c_g02.mp4").unlink()
    (source / "split" / "names.txt").write_text("run\nsit\n")
    with pytest.raises(ValueError, match=message):
        find(str(source / "flat"), layout)


def test_a_class_that_is_skipped_is_in_no_split_and_has_no_label(source, capsys):
    for path in ("flat/alone/a.mp4", "flat/walk/a.mp4", "flat/walk/b.mp4", "flat/beside.mp4", "flat/notes.txt"):
        (source / path).parent.mkdir(exist_ok=True)
        (source / path).touch()
    (source / "flat" / "empty").mkdir()
    for layout in (Layout(validation_share=0.5, skip=("alone",)), Layout(validation_pattern="b", skip=("alone",))):
        found = find(str(source / "flat"), layout)
        assert found.class_names == ("run", "sit", "walk")
        assert {item.label for items in found.splits.values() for item in items} == {"run", "sit", "walk"}
    beside, empty = capsys.readouterr().err.splitlines()[:2]
    assert beside.endswith("flat: left out 1 files that stand beside the folders of classes: beside.mp4")
    assert empty.endswith("flat: left out 1 empty folders, which are no classes: empty")


@pytest.mark.parametrize(
    ("columns", "train", "names"),
    [
        (("index", "label", "path"), "0\t0\trun/a_g01.mp4\n1\t1\tsit/b_g02.mp4\n", "0\trun\n1\tsit\n"),
        (("path", "label"), "run/a_g01.mp4 1\nsit/b_g02.mp4 2\n", "1 run\n2 sit\n"),  # numbers that start at 1
        (("path", "label"), "run/a_g01.mp4,run\nsit/b_g02.mp4,sit\n", "run\nsit\n"),
        (("path",), "run/a_g01.mp4\nsit/b_g02.mp4\n", "run\nsit\n"),
    ],
)
def test_lists_of_several_forms(source, columns, train, names):
    (source / "split" / "train.txt").write_text(train)
    (source / "split" / "names.txt").write_text(names)
    layout = Layout(train_list="train.txt", list_columns=columns, class_names="names.txt")
    listing = find(str(source / "split"), layout)
    assert listing.splits["train"] == [Item("train/run/a_g01.mp4", "run"), Item("train/sit/b_g02.mp4", "sit")]
    assert listing.class_names == ("run", "sit")


def test_class_names_keep_the_order_of_their_file(source):
    (source / "split" / "names.txt").write_text("sit\nrun\n")
    assert find(str(source / "split"), Layout(class_names="names.txt")).class_names == ("sit", "run")


def test_lists_without_split_folders_start_at_the_source(source):
    (source / "flat" / "train.txt").write_text("run/a_g01.mp4 run\n")
    (source / "flat" / "val.txt").write_text("run/b_g08.mp4 run\n")
    listing = find(str(source / "flat"), Layout(train_list="train.txt", validation_list="val.txt"))
    assert _paths(listing) == {"train": ["run/a_g01.mp4"], "validation": ["run/b_g08.mp4"]}


@pytest.mark.parametrize(
    ("files", "layout", "message"),
    [
        ({}, {"validation_folder": "val"}, r"no folder .*/val for the validation split; name it by --valid"),
        ({}, {"train_list": "train.txt"}, r"there is no file .*train\.txt"),
        ({"train.txt": "a b c\n"}, {"train_list": "train.txt"}, r"train\.txt, line 1: 3 columns instead of 2, path"),
        ({"train.txt": "\n"}, {"train_list": "train.txt"}, r"train\.txt lists no files"),
        ({"train.txt": "a 0\n"}, {"train_list": "train.txt", "list_columns": ("file", "label")}, r"no column 'path'"),
        (
            {"train.txt": "a.mp4 7\n", "names.txt": "run\nsit\n"},
            {"train_list": "train.txt", "class_names": "names.txt"},
            r"train/a\.mp4: class '7' is not one of the 2 known: run, sit",
        ),
        (
            {"names.txt": "0 a b\n1 sit\n"}, {"class_names": "names.txt"},
            r"class 'run' is not one of the 2 known: a b, sit",
        ),
        (
            {"train.txt": "run/a_g01.mp4 run\nrun/a_g01.mp4 run\n"},
            {"train_list": "train.txt"},
            r"train/run/a_g01\.mp4 is listed twice: in train and in train",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(source, files, layout, message):
    for name, text in files.items():
        (source / "split" / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find(str(source / "split"), Layout(**layout))


def test_validation_classes_must_be_known_in_training(source):
    (source / "split" / "validation" / "jump").mkdir()
    (source / "split" / "validation" / "jump" / "e.mp4").touch()
    with pytest.raises(ValueError, match="class 'jump' is not one of the 2 known: run, sit"):
        find(str(source / "split"), Layout())


def test_a_folder_without_class_folders_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.mp4").touch()
    with pytest.raises(FileNotFoundError, match="train has no files of the form CLASS/FILE"):
        find(str(tmp_path), Layout())


def test_a_list_may_have_several_classes_per_file(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "train.csv").write_text("a.mp4,run; jump;run\nb.mp4,sit\nc.mp4,\n")
    layout = Layout(train_list="train.csv", validation_folder="", label_separator=";")
    listing = find(str(tmp_path), layout)
    assert listing.class_names == ("jump", "run", "sit")
    assert [item.labels for item in listing.splits["train"]] == [("run", "jump"), ("sit",), ()]
    assert [item.label for item in listing.splits["train"]] == ["run;jump", "sit", ""]
    (tmp_path / "names.txt").write_text("run\njump\n")
    with pytest.raises(ValueError, match=r"train.csv, line 2: b.mp4: class 'sit' is not one of the 2 known"):
        find(str(tmp_path), Layout(**{**vars(layout), "class_names": "names.txt"}))
    (tmp_path / "train.csv").write_text("a.mp4,run;fast|sit\nb.mp4,sit\n")
    with pytest.raises(ValueError, match=r"class 'run;fast': ';' separates classes; rename it"):
        find(str(tmp_path), Layout(**{**vars(layout), "label_separator": "|"}))
