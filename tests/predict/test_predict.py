"""Predictions: frames and probabilities are those of evaluation, for files and arrays; bad files stop nothing."""

import csv
import io
import json
import os

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import common
from cover_jax.checkpoint import metadata, saver
from cover_jax.evaluation import eval_step
from cover_jax.models import cover
from cover_jax.parallel import compilation
from cover_jax.predict import __main__ as predict
from cover_jax.predict import formats, read_clips
from cover_jax.predict.predictor import Prediction, Predictor
from cover_jax.tasks import metrics
from cover_jax.training import train_step
from data_pipelines.media import media_file
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import decode, pipeline, records
from tests.data_pipelines.clips import write_clip
from tests.models import small

CLASSES = ["approach", "fall", "leave", "rise"]
HEADS = {"images": ["cat", "dog"], "motion": CLASSES, "places": ["here", "there", "away"]}


def make_config(**motion):
    """Heads of two views: `motion` and `places` share theirs, `images` looks at one frame."""
    config = common.get_config()
    config.model = small.config(size_px=8, num_frames=4, variant="mu/4")
    for name in HEADS:
        config.datasets[name] = dataset = common.dataset()
        dataset.builder = "video_folder/clips"
        dataset.update({"num_frames": 1} if name == "images" else {"num_frames": 4, "eval_clips": 2, "eval_crops": 3})
        dataset.update({"canvas_px": (32, 48), "eval_batch_size": len(CLASSES)})
    config.datasets.motion.update(motion)
    return config


@pytest.fixture(scope="module")
def params():
    num_classes = {name: len(classes) for name, classes in HEADS.items()}
    model = cover.functional(make_config().model, num_classes)
    return small.random_params(jax.eval_shape(model.init, jax.random.key(0)))


@pytest.fixture(scope="module")
def trained(params):
    return metadata.TrainedModel(make_config(), HEADS, params, step=7)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A clip of each class, in the layout of `video_folder`."""
    folder = tmp_path_factory.mktemp("source")
    for i, (name, level, step) in enumerate(zip(CLASSES, (60, 180, 40, 200), (4, -4, 9, -9), strict=True)):
        write_clip(folder / "train" / name / "clip.mp4", level, step, num_frames=9 + 2 * i)
    return folder


@pytest.fixture(scope="module")
def split(source, tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("prepared"))
    flags = [f"--source={source}", f"--data_dir={data_dir}", "--validation_folder=", "--workers=1"]
    prepare.main(["video_folder", "--name=clips", *flags])
    return records.open_split("video_folder/clips", "train", data_dir)


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained)


def numbered(count: int) -> np.ndarray:
    """A clip whose frame i has the level i."""
    return np.full((count, 32, 48, 3), np.arange(count, dtype=np.uint8)[:, None, None, None])


def evaluated(trained, split, monkeypatch) -> tuple[dict, np.ndarray]:
    """Evaluation's only batch of the prepared clips, and the probabilities of its step, by label."""
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "top_k_hits", lambda scores, label, k: scores)
        model = cover.functional(trained.config.model, {"motion": len(CLASSES)})
        step = compilation.jit(eval_step.make_eval_step(trained.config, model, "motion"))
        with pipeline.eval_stream(split, trained.config.datasets.motion, pipeline.ReadOptions(threads=1)) as stream:
            batch = next(stream)
        of_motion = {"backbone": trained.params["backbone"], "heads": {"motion": trained.params["heads"]["motion"]}}
        said = jax.device_get(step(of_motion, batch | {"index": batch["index"].astype(np.int32)}))["motion"]
    order = np.argsort(batch["label"])
    return {key: value[order] for key, value in batch.items()}, said["hit5"][order]


@pytest.mark.parametrize(
    "view",
    [{}, {"sample_fps": 4.0, "eval_crops": 1}, {"canvas_px": (20, 20), "eval_clips": 1}, {"standardize": True}],
    ids=["segments", "rate", "shrunk", "standardized"],
)
def test_a_file_is_seen_as_evaluation_sees_it_prepared(params, source, split, view, monkeypatch):
    trained = metadata.TrainedModel(make_config(**view), HEADS, params, step=7)
    batch, expected = evaluated(trained, split, monkeypatch)
    predictor = Predictor(trained, ["motion"])
    paths = [str(source / "train" / name / "clip.mp4") for name in CLASSES]

    found = read_clips.to_batch([predictor.read(path)[predictor.views["motion"]] for path in paths], *_sizes(predictor))
    for key in ("frames", "size_px"):
        np.testing.assert_array_equal(found[key], batch[key], err_msg=key)
    for i, (path, by_head) in enumerate(predictor.many(paths, len(paths))):
        assert path == paths[i]
        np.testing.assert_array_equal(by_head["motion"].probabilities, expected[i])
    assert np.ptp(expected, axis=0).max() > 1e-3  # the clips are not all the same to this model


def _sizes(predictor):
    return predictor.views["motion"], len(CLASSES)


def test_an_array_of_the_stored_frames_is_seen_exactly_as_evaluation_sees_them(trained, source, split, monkeypatch):
    batch, expected = evaluated(trained, split, monkeypatch)
    predictor = Predictor(trained, ["motion"])
    clips = []
    for name in CLASSES:
        jpegs = media_file.read_video(str(source / "train" / name / "clip.mp4"), 256, 10.0).frames
        clips.append(np.asarray(decode.decode_frames(jpegs, (32, 48))))
    sampled = [predictor.sample(clip)[predictor.views["motion"]] for clip in clips]
    np.testing.assert_array_equal(read_clips.to_batch(sampled, *_sizes(predictor))["frames"], batch["frames"])
    for clip, probabilities in zip(clips, expected, strict=True):
        np.testing.assert_allclose(predictor(clip)["motion"].probabilities, probabilities, rtol=0, atol=1e-6)


def test_an_array_is_cut_into_segments_clip_after_clip(predictor):
    """Of 9 frames, 4 segments of 2.25: the frames at a quarter of each, then at three quarters."""
    frames = numbered(9)
    sampled = predictor.sample(frames)
    assert sampled[predictor.views["motion"]][:, 0, 0, 0].tolist() == [0, 2, 5, 7, 1, 3, 6, 8]
    assert sampled[predictor.views["images"]][:, 0, 0, 0].tolist() == [4]


def test_heads_together_say_what_each_says_alone(trained, predictor, source):
    path = str(source / "train" / "rise" / "clip.mp4")
    together = predictor(path)
    assert list(together) == list(HEADS)
    for head, prediction in together.items():
        (alone,) = Predictor(trained, [head])(path).values()
        np.testing.assert_allclose(prediction.probabilities, alone.probabilities, rtol=0, atol=1e-6)
        np.testing.assert_allclose(prediction.probabilities.sum(), 1.0, rtol=0, atol=1e-5)
        assert prediction.class_names == HEADS[head]


def test_bad_files_are_reported_in_place_and_the_others_go_on(predictor, source, tmp_path):
    good = [str(source / "train" / name / "clip.mp4") for name in CLASSES]
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 50)
    paths = [good[0], str(tmp_path / "bad.mp4"), good[1], good[2], str(tmp_path / "lost.mp4"), good[3]]
    found = list(predictor.many(iter(paths), batch_size=2))
    assert [path for path, _ in found] == paths
    assert isinstance(found[4][1], FileNotFoundError)
    assert isinstance(found[1][1], Exception)
    for path, by_head in (found[i] for i in (0, 2, 3, 5)):
        for head, prediction in predictor(path).items():
            np.testing.assert_allclose(by_head[head].probabilities, prediction.probabilities, rtol=0, atol=1e-6)


def test_what_is_no_file_is_refused_and_not_waited_for(predictor, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "empty.mp4").touch()
    found = dict(predictor.many([str(tmp_path / "pipe.mp4"), str(tmp_path / "empty.mp4")]))
    assert [str(error) for error in found.values()] == ["it is not a regular file", "it is empty"]


def test_a_batch_of_bad_files_alone_is_no_end(predictor, source):
    good = str(source / "train" / "fall" / "clip.mp4")
    found = list(predictor.many(["a.mp4", "b.mp4", good], batch_size=2))
    assert [isinstance(outcome, Exception) for _, outcome in found] == [True, True, False]


def test_an_image_is_a_clip_of_one_frame(predictor, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.jpg")
    by_head = predictor(tmp_path / "picture.jpg")
    stored = np.asarray(Image.open(tmp_path / "picture.jpg"))
    for head, prediction in predictor(stored[None]).items():
        np.testing.assert_allclose(prediction.probabilities, by_head[head].probabilities, rtol=0, atol=1e-3)


def test_pictures_that_move_are_clips(predictor, tmp_path):
    levels = [Image.fromarray(np.full((32, 48, 3), level, np.uint8)) for level in (0, 80, 160, 240)]
    levels[0].save(tmp_path / "moving.gif", save_all=True, append_images=levels[1:], duration=100)
    levels[0].save(tmp_path / "still.gif")
    view = predictor.views["motion"]
    for name, expected in (("moving.gif", {0, 80, 160, 240}), ("still.gif", {0})):
        frames = predictor.read(str(tmp_path / name))[view]
        assert {round(frame.mean()) for frame in frames} == expected


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 32, 48, 3), np.float32), r"float32 \[4, 32, 48, 3\]: must be uint8"),
        (np.zeros((32, 48, 3), np.uint8), r"uint8 \[32, 48, 3\]: must be .*frames\[None\]"),
        (np.zeros((0, 32, 48, 3), np.uint8), r"uint8 \[0, 32, 48, 3\]: must be"),
    ],
)
def test_other_arrays_are_refused(predictor, frames, message):
    with pytest.raises(ValueError, match=message):
        predictor(frames)


def test_a_rate_is_asked_for_where_frames_are_sampled_by_time(params):
    trained = metadata.TrainedModel(make_config(sample_fps=2.0), HEADS, params, step=7)
    predictor = Predictor(trained, ["motion"])
    frames = numbered(16)
    with pytest.raises(ValueError, match="head 'motion' takes 2.0 frames per second: give the frames' own fps"):
        predictor.sample(frames)
    # 4 frames half a second apart at 4 a second are 2 apart; from the first start, 0, and the last, 9
    (sampled,) = predictor.sample(frames, fps=4.0).values()
    assert sampled[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 9, 11, 13, 15]


def test_frames_beyond_the_canvas_are_not_cut(predictor):
    """The canvas grows with them."""
    rows, columns = np.mgrid[:64, :96]
    large = np.stack([2 * rows, columns, rows + columns], axis=-1).astype(np.uint8)[None].repeat(4, axis=0)
    view = predictor.views["motion"]
    batch = read_clips.to_batch([large[[0] * 8], large[[0] * 8, ::2, ::2]], view, 3)
    assert batch["frames"].shape == (3, 8, 64, 96, 3)
    assert batch["size_px"].tolist() == [[64, 96], [32, 48], [0, 0]]
    np.testing.assert_array_equal(batch["frames"][0, 0], large[0])


@pytest.mark.parametrize(
    ("builder", "storage", "short_side_px", "fps"),
    [
        ("kinetics/400", {}, 256, 10.0),
        ("something_something/v2", {}, 256, 12.0),
        ("image_folder/mine", {}, 256, 10.0),
        ("imagenet2012", {}, 1 << 26, 10.0),
        ("imagenet2012", {"short_side_px": 320}, 320, 10.0),
        ("kinetics/400", {"fps": 25.0}, 256, 25.0),
    ],
)
def test_files_are_shrunk_and_thinned_as_their_dataset_is(trained, builder, storage, short_side_px, fps):
    config = make_config(builder=builder)
    trained = metadata.TrainedModel(config, trained.class_names, trained.params, step=7)
    view = Predictor(trained, ["motion"], **storage).views["motion"]
    assert (view.short_side_px, view.fps) == (short_side_px, fps)


def test_the_likeliest_come_first():
    prediction = Prediction(["a", "b", "c"], np.array([0.2, 0.7, 0.1], np.float32))
    assert [name for name, _ in prediction.top(2)] == ["b", "a"]
    assert len(prediction.top(5)) == 3


@pytest.fixture(scope="module")
def workdir(trained, tmp_path_factory):
    """A run that ended at step 7."""
    folder = tmp_path_factory.mktemp("workdir")
    counter = jnp.zeros((), jnp.int32)
    params = jax.tree.map(jnp.asarray, trained.params)
    state = train_step.TrainState(counter + 7, params, {"trace": params}, {}, counter, counter)
    meta = {"heads": HEADS, "data": {}, "config": json.loads(trained.config.to_json())}
    with saver.open_manager(str(folder), 2, "mean_top1", 60) as manager:
        saver.start_save(manager, state, meta, {"mean_top1": 1.0})
    return str(folder)


def test_the_command_predicts_folders_and_files_in_each_format(workdir, predictor, source, capsys):
    paths = [str(source / "train" / name / "clip.mp4") for name in CLASSES]
    arguments = [f"--checkpoint={workdir}", "--head=motion,images", "--top=3", "--batch_size=3"]
    said = {}
    for name in formats.FORMATS:
        predict.main([*arguments, f"--format={name}", str(source), paths[0]])
        printed = capsys.readouterr()
        said[name] = printed.out
        assert f"step 7 of {workdir}" in printed.err and "4/4" in printed.err  # the file in the folder counts once

    as_json = json.loads(said["json"])
    assert list(as_json) == paths
    for path in paths:
        expected = predictor(path)
        for head in ("motion", "images"):
            names = [name for name, _ in expected[head].top(3)]
            assert [guess["class"] for guess in as_json[path][head]] == names
            found = [guess["probability"] for guess in as_json[path][head]]
            np.testing.assert_allclose(found, [p for _, p in expected[head].top(3)], rtol=0, atol=1e-6)
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert len(rows) == len(paths) * (3 + 2)
    for row in rows:
        guess = as_json[row["path"]][row["head"]][int(row["rank"]) - 1]
        assert (row["class"], float(row["probability"])) == (guess["class"], guess["probability"])
    first = next(line for line in said["table"].splitlines() if paths[0] in line)
    best = as_json[paths[0]]["motion"][0]
    assert first.split() == [paths[0], "motion", best["class"], f"{best['probability']:.1%}"]


def test_the_command_names_bad_files_and_fails_after_the_good_ones(workdir, source, tmp_path, capsys):
    good, bad = str(source / "train" / "leave" / "clip.mp4"), tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 50)
    with pytest.raises(SystemExit, match="1 of 2 files could not be read"):
        predict.main([f"--checkpoint={workdir}", "--head=motion", "--format=json", str(bad), good])
    printed = capsys.readouterr()
    assert list(json.loads(printed.out)) == [good]
    assert f"{bad}: " in printed.err and "predicting" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head=faces"], "head 'faces': must be one of images, motion, places"),
        (["--checkpoint=/nowhere"], "no checkpoints; is /nowhere the --workdir of a run"),
        (["--step=8"], "no step 8; must be one of newest, best, 7"),
        (["--step=last"], "no step last; must be one of newest, best, 7"),
    ],
)
def test_errors_of_the_command(workdir, arguments, message):
    with pytest.raises(SystemExit, match=message):
        predict.main([f"--checkpoint={workdir}", *arguments, "clip.mp4"])


def test_an_empty_folder_and_a_wrong_number_are_errors(workdir, tmp_path, capsys):
    with pytest.raises(SystemExit, match=f"no files in {tmp_path}"):
        predict.main([f"--checkpoint={workdir}", str(tmp_path)])
    with pytest.raises(SystemExit):
        predict.main([f"--checkpoint={workdir}", "--top=0", "clip.mp4"])
    assert "--top=0: must be positive" in capsys.readouterr().err


def test_the_command_explains_one_clip(workdir, source, tmp_path, capsys):
    path, out = str(source / "train" / "rise" / "clip.mp4"), tmp_path / "out.mp4"
    arguments = [f"--checkpoint={workdir}", f"--explain={out}"]
    predict.main([*arguments, "--head=motion,places", path])
    assert "motion" in capsys.readouterr().out
    with av.open(str(out)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 2 * 4  # two clips of four frames
    assert pictures[0].shape == (8 * 32 + 32, 8 * 48, 3)  # the clip's own size, enlarged, and the bars
    assert np.ptp(pictures[0]) > 50
    with pytest.raises(SystemExit, match="images, motion, places see different frames: choose one"):
        predict.main([*arguments, path])
    with pytest.raises(SystemExit, match="needs one file, not 4"):
        predict.main([*arguments, path, str(source), path])
    with pytest.raises(SystemExit, match=r"--explain=.*out.nonsense: Could not determine output format"):
        predict.main([f"--checkpoint={workdir}", f"--explain={tmp_path}/out.nonsense", "--head=motion", path])
