import subprocess
import sys

import pytest

from data_pipelines import catalog


def test_asking_does_not_import_tensorflow(tmp_path):
    code = (
        "import sys; from data_pipelines import catalog; from data_pipelines.stream import mixture; "
        f"assert not catalog.is_prepared('digits/motion', {str(tmp_path)!r}); "
        "assert catalog.is_self_contained('digits/motion'); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("builder", "command"),
    [
        ("digits/motion", "python -m data_pipelines.prepare digits --data_dir={}"),
        (
            "video_folder/mine",
            "python -m data_pipelines.prepare video_folder --name=mine --source=FOLDER --data_dir={}",
        ),
        ("kinetics/400", "python -m data_pipelines.prepare kinetics/400 --manual_dir=FOLDER --data_dir={}"),
        (
            "moments_in_time/305",
            "python -m data_pipelines.prepare moments_in_time/305 --manual_dir=FOLDER --data_dir={}",
        ),
        ("imagenet2012", "python -m data_pipelines.prepare imagenet2012 --manual_dir=FOLDER --data_dir={}"),
    ],
)
def test_an_unprepared_dataset_is_refused_with_the_command_that_makes_it(tmp_path, builder, command):
    assert not catalog.is_prepared(builder, str(tmp_path))
    with pytest.raises(catalog.DatasetNotPreparedError) as error:
        catalog.dataset_dir(builder, str(tmp_path))
    assert command.format(tmp_path) in str(error.value)
    assert f"{builder!r} is not prepared in {tmp_path} (prepared there: nothing)" in str(error.value)


def test_all_unprepared_datasets_are_named_at_once(tmp_path):
    _fake_version(tmp_path / "kinetics" / "400" / "1.0.0")
    builders = ["kinetics/400", "digits/motion", "moments_in_time", "imagenet2012", "moments_in_time"]
    with pytest.raises(catalog.DatasetNotPreparedError) as error:
        catalog.require_prepared(builders, str(tmp_path))
    first, *commands = str(error.value).splitlines()
    where = f"in {tmp_path} (prepared there: kinetics/400)"
    assert first == f"datasets 'moments_in_time', 'imagenet2012' are not prepared {where}. Prepare them with:"
    assert commands == [f"  {catalog.prepare_command(builder, str(tmp_path))}" for builder in builders[2:4]]
    catalog.require_prepared(["kinetics/400", "digits/motion"], str(tmp_path))


def _fake_version(folder):
    folder.mkdir(parents=True)
    (folder / "features.json").write_text("{}")


def test_the_newest_version_is_taken(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        _fake_version(tmp_path / "a" / "b" / version)
    (tmp_path / "a" / "b" / "2.0.0").mkdir()  # broken off before its end
    assert catalog.dataset_dir("a/b", str(tmp_path)).name == "1.10.0"
    with pytest.raises(catalog.DatasetNotPreparedError, match=r"prepared there: a/b\)"):
        catalog.dataset_dir("a/c", str(tmp_path))


def test_self_contained_builders_are_told_from_others():
    published = {"charades", "epic_kitchens", "imagenet21k", "kinetics", "moments_in_time", "something_something"}
    published |= {"ucf101", "ucf101_groups"}
    forms = {"hugging_face", "image_folder", "list_of_files", "video_folder", "webdataset"}
    assert set(catalog.builder_names()) == {"digits"} | forms | published
    assert catalog.is_self_contained("digits/motion")
    assert not catalog.is_self_contained("video_folder/mine")
    assert not catalog.is_self_contained("kinetics/400")
    assert not catalog.is_self_contained("imagenet2012")


def test_names_that_are_no_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="builder '../a' is not of the form"):
        catalog.is_prepared("../a", str(tmp_path))
