"""How a dataset is prepared: killed and gone on with, on Apache Beam, by TFDS's own command, from a bucket's layout."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest
from etils import epath

from data_pipelines import catalog, files
from data_pipelines.builders import kinetics
from data_pipelines.media import media_file
from data_pipelines.media.source_file import MediaError
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.prepare import base, folder, listing, worker_pool
from tests.data_pipelines import publishers
from tests.data_pipelines.clips import write_clip
from tests.data_pipelines.records_of import records_of

NUM_CLIPS = 40
ROOT = pathlib.Path(__file__).parents[3]

# Apache Beam 2.77 holds protobuf below 7, where TFDS 4.9.10 meets a field that is deprecated there.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")


def _python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def _same(a, b):
    """Whether two sets of records are equal, byte by byte."""
    assert a.keys() == b.keys()
    for source in a:
        for key, value in a[source].items():
            if key == "frames":
                assert list(value) == list(b[source][key]), source
            else:
                assert value == b[source][key], (source, key)


@pytest.fixture
def clips(tmp_path):
    source = tmp_path / "clips"
    for i in range(NUM_CLIPS):
        write_clip(source / "train" / ("run" if i % 2 else "sit") / f"{i:02d}.mp4", level=6 * i, num_frames=30)
    return source


def _command(source, data_dir):
    return ["video_folder", "--name=mine", f"--source={source}", "--validation_folder=", f"--data_dir={data_dir}"]


@pytest.mark.slow
def test_what_was_read_before_a_kill_is_not_read_again(tmp_path, clips, monkeypatch, capsys):
    monkeypatch.setattr(base.VideoFiles, "CHUNK_FILES", 2)
    prepare.main([*_command(clips, tmp_path / "whole"), "--workers=2"])

    slow = "import time; from data_pipelines.prepare import base; base.VideoFiles.CHUNK_FILES = 2; "
    code = (
        "from data_pipelines.prepare import __main__ as prepare; "
        f"prepare.main({_command(clips, tmp_path / 'killed')!r} + ['--workers=2'])"
    )
    process = subprocess.Popen([sys.executable, "-c", slow + code], cwd=ROOT, stderr=subprocess.DEVNULL)
    work = tmp_path / "killed" / "video_folder" / "mine" / "work.1.0.0"
    deadline = time.monotonic() + 300  # imports alone may take minutes on a busy machine
    while len(list(work.glob("*.chunk"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline, "it never began to read"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)  # it hands out no more work
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, "workers outlive the process that was killed"
    assert not catalog.is_prepared("video_folder/mine", str(tmp_path / "killed"))

    kept = list(work.glob("*.chunk"))
    assert 3 <= len(kept) < NUM_CLIPS / 2, "the kill came too late to show anything"
    read = {outcome.sha256 for path in kept for outcome in worker_pool._load(epath.Path(path))}
    for path in clips.rglob("*.mp4"):
        if hashlib.sha256(path.read_bytes()).hexdigest() in read:
            path.write_text("nothing can be read here any more")
    capsys.readouterr()
    prepare.main([*_command(clips, tmp_path / "killed"), "--workers=2"])
    printed = capsys.readouterr().out
    assert f"train {NUM_CLIPS};" in printed and "refused" not in printed
    _same(*(records_of("video_folder/mine", "train", tmp_path / name) for name in ("whole", "killed")))
    left = sorted(path.name for path in (tmp_path / "killed" / "video_folder" / "mine").iterdir())
    assert left == ["1.0.0"], "leftovers of the killed preparation"


def _reader(tmp_path, read):
    return worker_pool.Reader(read, {}, str(tmp_path), str(tmp_path))


class _Calls:
    """A reader of files that counts, and refuses those that say so."""

    def __init__(self):
        self.paths = []
        self.__name__ = "calls"

    def __call__(self, path):
        self.paths.append(os.path.basename(path))
        text = pathlib.Path(path).read_bytes()
        if text == b"bad":
            raise MediaError("it is bad")
        return media_file.Media((text, b"", text * 2), 1.5, 3, "hash")


def test_a_chunk_is_read_once_and_its_refused_files_again(tmp_path):
    for name, text in (("a", "good"), ("b", "bad")):
        (tmp_path / name).write_text(text)
    items, read = [listing.Item("a", "x"), listing.Item("b", "x")], _Calls()
    reader = _reader(tmp_path, read)
    good = media_file.Media((b"good", b"", b"goodgood"), 1.5, 3, "hash")
    reader.complete(items)
    assert reader.kept(items) == [good, "MediaError: it is bad"]
    reader.complete(items)
    assert read.paths == ["a", "b", "b"]
    (tmp_path / "b").write_text("good")
    reader.complete(items)
    assert reader.kept(items) == [good, good]
    reader.complete(items)
    assert read.paths == ["a", "b", "b", "b"]
    reader.complete([items[0]])  # another chunk
    assert read.paths == ["a", "b", "b", "b", "a"]


@pytest.mark.parametrize("size", [0, 3, 30, -1])
def test_a_chunk_that_was_cut_off_is_read_again(tmp_path, size):
    (tmp_path / "a").write_text("good")
    items, read = [listing.Item("a", "x")], _Calls()
    reader = _reader(tmp_path, read)
    whole = reader.outcomes(items)
    (path,) = tmp_path.glob("*.chunk")
    path.write_bytes(path.read_bytes()[:size])
    reader.complete(items)
    assert reader.kept(items) == whole and read.paths == ["a", "a"]


def test_files_that_are_not_on_this_machine_are_read_through_copies(tmp_path, monkeypatch):
    """Takes the way of URLs, on a disk: epath's own listing and reading, and a copy for the decoder."""
    source = publishers.moments_in_time(tmp_path / "mit")
    expected = sorted(files.walk(epath.Path(source)))
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    assert sorted(files.walk(epath.Path(source))) == expected and len(expected) == 6
    read = _Calls()
    reader = worker_pool.Reader(read, {}, str(source), str(tmp_path))
    (outcome,) = reader.outcomes([listing.Item("validation/barking/vine-0_1.mp4", "barking")])
    assert outcome.frames[0] == (source / "validation" / "barking" / "vine-0_1.mp4").read_bytes()
    assert read.paths == ["vine-0_1.mp4"]  # under its own name, whose ending tells decoders the format


def test_chunks_survive_their_way_through_text():
    in_tar = listing.Item("a.tar/b", "x", "id", 1.5, 2.5, "a.tar", (512, 9))
    items = [in_tar, listing.Item("é", "", placeholders=("a cup",))]
    assert worker_pool.from_json(worker_pool.to_json(items)) == items
    assert list(worker_pool.cut(range(5), 2)) == [[0, 1], [2, 3], [4]]


def _die(path):
    os._exit(1)


def test_a_worker_that_dies_is_an_error_with_advice(tmp_path):
    reader = worker_pool.Reader(_die, {}, str(tmp_path), str(tmp_path))
    with pytest.raises(RuntimeError, match="a process that decodes died.*continues where it stopped; with --workers=1"):
        list(worker_pool.read_all(reader, [[listing.Item("a", "x")]], workers=1))


def test_two_preparations_of_one_dataset_do_not_disturb_each_other(tmp_path):
    source = publishers.moments_in_time(tmp_path / "mit")
    builder_dir = epath.Path(tmp_path / "moments_in_time")
    with (
        worker_pool.work_folder(builder_dir / "work.1.0.0"),
        pytest.raises(SystemExit, match="another process is preparing"),
    ):
        prepare.main(["moments_in_time", f"--manual_dir={source}", f"--data_dir={tmp_path}", "--workers=1"])
    prepare.main(["moments_in_time", f"--manual_dir={source}", f"--data_dir={tmp_path}", "--workers=1"])


def test_apache_beam_makes_the_same_records(tmp_path):
    pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
    source = publishers.kinetics(tmp_path / "k400", num_clips=6)
    (source / "train" / f"{publishers.youtube_id(5)}_000005_000015.mp4").write_text("not a video")
    command = ["-m", "data_pipelines.prepare", "kinetics/400", f"--manual_dir={source}", "--workers=1"]
    here = _python(*command, f"--data_dir={tmp_path / 'here'}")
    assert here.returncode == 0, here.stderr
    beam = _python(*command, f"--data_dir={tmp_path / 'beam'}", "--beam_pipeline_options=runner=DirectRunner")
    assert beam.returncode == 0, beam.stderr
    assert beam.stdout.replace("/beam/", "/here/") == here.stdout and "train 5, validation 1" in here.stdout
    for split in ("train", "validation"):
        _same(*(records_of("kinetics/400", split, tmp_path / name) for name in ("here", "beam")))
    tables = [(tmp_path / name / "kinetics" / "400" / "1.0.0" / "refused.csv").read_text() for name in ("here", "beam")]
    assert tables[0] == tables[1] and "InvalidDataError" in tables[0]
    assert sorted(path.name for path in (tmp_path / "beam" / "kinetics" / "400").iterdir()) == ["1.0.0"]


def test_beam_without_its_extra_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    source = publishers.moments_in_time(tmp_path / "mit")
    with pytest.raises(SystemExit, match=r"needs Apache Beam: pip install -e '\.\[beam\]'"):
        prepare.main(
            ["moments_in_time", f"--manual_dir={source}", f"--data_dir={tmp_path}", "--beam_pipeline_options=runner=X"]
        )


def _tfds_build(*arguments):
    return _python("-W", "ignore", "-m", "tensorflow_datasets.scripts.cli.main", "build", *arguments)


def test_tfds_build_prepares_the_same_dataset(tmp_path):
    for package in ("apache_beam", "mlcroissant"):  # TFDS 4.9.10's command imports both, whatever it is asked to do
        pytest.importorskip(package, reason=f"the command `tfds` needs {package}")
    source = publishers.kinetics(tmp_path / "manual" / "kinetics" / "400")
    path = "data_pipelines/builders/kinetics.py"
    built = _tfds_build(path, "--config=400", f"--manual_dir={tmp_path / 'manual'}", f"--data_dir={tmp_path / 'tfds'}")
    assert built.returncode == 0, built.stderr
    prepare.main(["kinetics/400", f"--manual_dir={source}", f"--data_dir={tmp_path / 'ours'}", "--workers=1"])
    for split in ("train", "validation"):
        _same(*(records_of("kinetics/400", split, tmp_path / name) for name in ("tfds", "ours")))


def test_a_builder_s_description_and_defaults_are_its_own(tmp_path):
    builder = kinetics.Builder(config="700", data_dir=str(tmp_path))
    assert builder.info.description.startswith("Kinetics: ten-second clips")
    assert builder.origin() == {"splits": ["train", "validation"], "short_side_px": 512, "fps": 10.0,
                                "form": "frames"}  # fmt: skip
    config = folder.FolderConfig(name="mine", source=str(tmp_path))
    other = catalog.builder_class("video_folder")(config=config, data_dir=str(tmp_path), options={"fps": 5.0})
    assert other.origin()["fps"] == 5.0 and other.origin()["source"] == tmp_path.name
