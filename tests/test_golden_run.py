"""What an earlier version has written is read as it was, bit for bit: data, checkpoint, config and predictions.

The files in `golden/run`, and what is expected of them, were written by version 0.1.0 with `golden/make_golden_run.py`,
which says what they are. Where a test fails, change what reads them, not the files. Each test works on a copy.
"""

import hashlib
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce
from etils import epath
from ml_collections import ConfigDict

from cover_jax.checkpoint import __main__ as checkpoint
from cover_jax.checkpoint import init_from, kept_heads, layout, metadata, restore
from cover_jax.config import checks
from cover_jax.evaluation import saved_predictions
from cover_jax.export import __main__ as export
from cover_jax.models import variants
from cover_jax.predict import __main__ as predict
from cover_jax.preprocess import crop
from cover_jax.report import __main__ as report
from cover_jax.training import loop, run_history
from cover_jax.training.run import Run
from data_pipelines.leaks import facts
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import pipeline, records
from data_pipelines.stream.host_tf import tf
from tests.helpers import tiny_run

GOLDEN = pathlib.Path(__file__).parent / "golden" / "run"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
NAMES = list(EXPECTED["splits"])
SIZE = ("golden", (8, 2, 2, 16))  # of the model, as in models/variants.py
KILLED_AFTER, STEPS = 4, 6  # steps of the run
SHORT_SIDE_PX = 32  # of what was prepared
SOURCE = "/golden/source"  # where that stood
# Between processors, and between one device and several, sums differ in their last bits, and so do decoded videos.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def named_size():
    """The model's size has a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.SIZES, *SIZE)
        yield


@pytest.fixture(autouse=True)
def golden(tmp_path, monkeypatch):
    """A copy, in which the test runs; at its end the data is what it was.

    Only its facts may be measured anew, and its indices may get checksums behind their offsets.
    """
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN, folder)
    monkeypatch.chdir(folder)
    before = _stamps(folder / "data")
    yield folder
    assert _stamps(folder / "data") == before


def _stamps(folder: pathlib.Path) -> dict:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != facts.FOLDER]
    indices = [path for path in files if path.name.endswith(records.INDEX_SUFFIX)]
    stamps = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files if path not in indices}
    return stamps | {path: np.load(path).tolist() for path in indices}


@pytest.fixture
def arrays():
    with np.load(GOLDEN / "expected.npz") as found:
        return dict(found)


def config() -> ConfigDict:
    """The run's, from its config.json; keys that came later have their defaults."""
    found = metadata.config_of({"config": _with_tuples(json.loads(pathlib.Path("run/config.json").read_text()))})
    checks.validate(found)
    return found


def _with_tuples(value):
    """What JSON has as lists, as in a config."""
    if isinstance(value, dict):
        return {key: _with_tuples(one) for key, one in value.items()}
    return tuple(value) if isinstance(value, list) else value


def saved_meta() -> dict:
    """What the checkpoint says of itself, past all code that reads it."""
    return json.loads((GOLDEN / "run" / "checkpoints" / str(KILLED_AFTER) / "meta" / "metadata").read_text())


def sha256(array) -> str:
    """Of an array's type, shape and bytes."""
    array = np.asarray(jax.device_get(array))
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def hashes(tree) -> dict[str, str]:
    return {path: sha256(leaf) for path, leaf in tiny_run.by_path(tree).items()}


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("name", NAMES)
def test_records_are_read_bit_for_bit_in_their_order(name, split):
    opened, expected = (
        records.open_split(config().datasets[name].builder, split, "data"),
        EXPECTED["splits"][name][split],
    )
    assert list(opened.class_names) == expected["class_names"]
    assert sorted(opened.features) == expected["features"]
    assert (opened.modality, opened.fingerprint) == (expected["modality"], expected["fingerprint"])
    assert opened.offsets.tolist() == expected["offsets"]
    locate = records.locator(opened)
    raw = tf.data.Dataset.range(opened.num_examples).flat_map(lambda i: records.read_from(*locate(i)).take(1))
    assert [hashlib.sha256(record).hexdigest() for record in raw.as_numpy_iterator()] == expected["records"]


@pytest.mark.parametrize("name", NAMES)
def test_streams_give_the_same_batches(name, arrays):
    # B batch, T frames, H, W height and width, h, w the same in squares, C colours
    dataset, seed = config().datasets[name], config().seed
    training, validation = (records.open_split(dataset.builder, split, "data") for split in ("train", "validation"))
    for split, stream in (
        ("train", pipeline.train_stream(training, dataset, name=name, seed=seed, first_batch=0)),
        ("validation", pipeline.eval_stream(validation, dataset)),
    ):
        with stream:
            for i, expected in enumerate(EXPECTED["splits"][name][split]["batches"]):
                batch = dict(next(stream))
                if "frames" not in expected:  # of clips that are stored as files: decoding differs in the last bits
                    frames_BTHWC = batch.pop("frames").astype(np.float32)
                    squares_BThwC = reduce(frames_BTHWC, "b t (h 8) (w 8) c -> b t h w c", "mean")
                    np.testing.assert_allclose(squares_BThwC, arrays[f"frames/{split}/{i}"], rtol=0, atol=1)
                assert {key: sha256(value) for key, value in batch.items()} == expected


def test_what_is_prepared_is_not_prepared_again(capsys):
    shared = ["--data_dir=data", f"--short_side_px={SHORT_SIDE_PX}"]
    prepare.main(["video_folder", "--name=clips", f"--source={SOURCE}/clips", *shared])
    prepare.main(["video_folder", "--name=files", f"--source={SOURCE}/files", "--form=video", *shared])
    prepare.main(["image_folder", "--name=stills", f"--source={SOURCE}/stills", *shared])
    said = capsys.readouterr().out
    assert "video_folder/clips: train 6, validation 4; 2 classes; in data/video_folder/clips/1.0.0" in said
    assert "1 files were refused" in said and "train train/moving left/broken.mp4: InvalidDataError" in said
    with pytest.raises(SystemExit, match="was prepared with source 'clips', not 'other'"):
        prepare.main(["video_folder", "--name=clips", f"--source={SOURCE}/other", *shared])


def test_the_state_and_the_past_of_a_run_are_restored_bit_for_bit():
    run = Run(config(), "run")
    state, saved = run.restore(set_aside=False)
    assert hashes(state) == EXPECTED["state"]
    assert (saved | {"hash": saved_meta()["hash"]}) == saved_meta()
    assert run_history.from_meta(run.mix, KILLED_AFTER, saved).to_json(KILLED_AFTER) == saved["history"]
    assert saved["history"]["rollbacks"] and any(saved["history"]["bad"].values())  # or it would say little
    for about in run.meta["data"].values():
        about.pop("excluded_records")  # which later versions keep
    assert {key: run.meta[key] for key in ("heads", "data", "leaks")} == {
        key: saved[key] for key in ("heads", "data", "leaks")
    }  # with what is counted in manifest.json and refused.csv, and what is kept of the search for leaks


@pytest.mark.parametrize("which", ["newest", "best", str(KILLED_AFTER)])
def test_the_model_is_loaded_bit_for_bit(which):
    trained, meta = restore.load_trained("run", which), saved_meta()
    averages = {path: value for path, value in EXPECTED["state"].items() if path.startswith("ema/")}
    assert hashes({"ema": trained.params}) == averages
    assert trained.step == KILLED_AFTER
    assert trained.class_names == meta["heads"]
    assert trained.class_names == {name: splits["train"]["class_names"] for name, splits in EXPECTED["splits"].items()}
    assert trained.accuracies == meta["accuracies"]
    assert flat(trained.config).items() >= flat(ConfigDict(meta["config"])).items()


def flat(config: ConfigDict) -> dict:
    """Key -> value, as JSON has it."""
    return dict(checks.flatten(ConfigDict(json.loads(config.to_json()))))


def test_another_run_starts_from_it_and_keeps_its_heads():
    now = config()
    del now.datasets["clips"], now.datasets["files"]
    now.model.init_from, now.model.keep_heads = "run", True
    stills = {"stills": EXPECTED["splits"]["stills"]["train"]["class_names"]}
    kept = kept_heads.find_kept_heads(now, None, stills)
    assert {name: list(head.class_names) for name, head in kept.items()} == {
        name: EXPECTED["splits"][name]["train"]["class_names"] for name in ("clips", "files")
    }
    every_head = stills | {name: head.class_names for name, head in kept.items()}
    loaded = init_from.load("run", now.model, every_head)
    averages = {path.removeprefix("ema/"): v for path, v in EXPECTED["state"].items() if path.startswith("ema/")}
    assert {path: sha256(array) for path, array in loaded.params.items()} == averages


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_read_bit_for_bit(name):
    found, expected = saved_predictions.load(epath.Path("run"), name), EXPECTED["predictions"][name]
    assert (found.step, found.fingerprint) == (expected["step"], expected["fingerprint"])
    assert {key: sha256(column) for key, column in vars(found.predictions).items()} == expected["columns"]
    assert found.predictions.accuracies(6) == expected["accuracies"]


def test_verify_finds_it_sound(capsys):
    checkpoint.main(["verify", "--workdir=run"])
    assert capsys.readouterr().out.endswith(f"checkpoints/{KILLED_AFTER}: sound, all {len(EXPECTED['state'])} leaves\n")


def test_evaluate_says_the_same(capsys):
    before = {name: saved_predictions.load(epath.Path("run"), name) for name in NAMES}
    shutil.rmtree("run/predictions")
    loop.evaluate_checkpoint(config(), "run")
    for name, expected in before.items():
        found = saved_predictions.load(epath.Path("run"), name)
        assert (found.step, found.fingerprint) == (expected.step, expected.fingerprint)
        for key, column in vars(expected.predictions).items():
            np.testing.assert_allclose(vars(found.predictions)[key], column, err_msg=key, **CLOSE)
        assert found.predictions.accuracies(6) == EXPECTED["predictions"][name]["accuracies"]
    assert f"validation after {KILLED_AFTER} steps" in capsys.readouterr().out


@pytest.mark.slow
def test_evaluate_takes_the_model_of_init_from_where_there_is_no_checkpoint(capsys):
    asked = config()
    asked.model.update(
        {"init_from": "run@4", "gelu": "tanh", "pixel_std": (0.1, 0.2, 0.3)}
    )  # the model's own are taken
    loop.evaluate_checkpoint(asked, "elsewhere")
    printed = capsys.readouterr().out
    for name in NAMES:
        assert f"{name}: head {name} of the model knows " in printed
        found, expected = (saved_predictions.load(epath.Path(folder), name) for folder in ("elsewhere", "run"))
        for key, column in vars(expected.predictions).items():
            np.testing.assert_allclose(vars(found.predictions)[key], column, err_msg=key, **CLOSE)
    asked.model.init_from = ""
    with pytest.raises(FileNotFoundError, match="no checkpoint to evaluate; train first .* or name a model"):
        loop.evaluate_checkpoint(asked, "nowhere")


def test_predict_says_the_same(capsys):
    paths = list(EXPECTED["predict"])
    predict.main(["--workdir=run", "--format=json", f"--short_side_px={SHORT_SIDE_PX}", *paths])
    found = json.loads(capsys.readouterr().out)
    for path, by_head in EXPECTED["predict"].items():
        for head, probabilities in by_head.items():
            said = {one["class"]: one["probability"] for one in found[path][head]}
            class_names = EXPECTED["splits"][head]["train"]["class_names"]
            assert said == pytest.approx(dict(zip(class_names, probabilities, strict=True)), rel=1e-3), (path, head)


def test_export_writes_the_same_parameters():
    export.main(["--workdir=run", "--head=clips", "--format=jax", "--out=exported"])
    for name, expected in EXPECTED["export"].items():
        assert hashlib.sha256(pathlib.Path("exported", name).read_bytes()).hexdigest() == expected, name
    top1 = EXPECTED["predictions"]["clips"]["accuracies"]["top1"]
    card = " ".join(pathlib.Path("exported", "README.md").read_text().split())  # tables are padded
    assert f"| top-1 | {100 * top1:.1f} ±" in card and "| mean over classes" in card and "top-5" not in card


def test_report_shows_the_same_figures(capsys):
    report.main(["--workdir=run"])
    page = pathlib.Path("run/report.html").read_text()
    text = re.sub(r"<[^>]*>", "\n", page.partition("<h2>Accuracy</h2>")[2].partition(">The run</h2>")[0])
    classes = "|".join(name for splits in EXPECTED["splits"].values() for name in splits["train"]["class_names"])
    text = re.sub(r"\s+± [\d.]+%|, loss [\d.]+", lambda found: "%" if "±" in found[0] else "", text)  # came later
    found = re.findall(rf"validation/.*|\b(?:{classes})\b|[\d.]+%|\b\d+\b", text)
    # The card of a dataset has nine numbers in the file; the fifth and sixth are "5" and its top-5.
    cards = [EXPECTED["report"][i : i + 9] for i in range(0, 9 * len(NAMES), 9)]
    before = [number for card in cards for number in (*card[:4], *card[6:])] + EXPECTED["report"][9 * len(NAMES) :]
    assert found == before
    assert page.count("<img") == sum(len(EXPECTED["splits"][name]["validation"]["records"]) for name in NAMES)
    assert "1 validation examples of clips are also 1 training examples of files" in page
    assert capsys.readouterr().out == "run/report.html\n"


def box_of_version_0_1_0(key, height, width, share, aspect):
    """A crop box as it was drawn until 0.2.0: boxes that did not fit were shrunk to the frame's edge."""
    draw_area, draw_ratio, down, right = jax.random.uniform(key, (4,))
    area = crop.spread(draw_area, *share) * height * width
    ratio = jnp.exp(crop.spread(draw_ratio, *jnp.log(jnp.asarray(aspect))))
    box_height, box_width = jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)
    fit = jnp.minimum(1.0, jnp.minimum(height / box_height, width / box_width))
    return crop.place_box(down, right, height, width, fit * box_height, fit * box_width)


def test_training_goes_on_as_it_would_have(arrays, monkeypatch):
    """With the crop boxes of that version: everything else in a step is as it was."""
    monkeypatch.setattr(crop, "random_box", box_of_version_0_1_0)
    before = pathlib.Path("run/config.json").read_text()
    continued = tiny_run.Intercepted()
    state = continued.train(config(), "run")
    assert [list(step) for step in continued.taken] == EXPECTED["taken"]
    for path, leaf in tiny_run.by_path({"params": state.params}).items():
        np.testing.assert_allclose(np.asarray(leaf), arrays[path], err_msg=path, **CLOSE)
    for name in NAMES:
        found = saved_predictions.load(epath.Path("run"), name)
        assert found.step == STEPS
        expected = arrays[f"label_probability/{name}"]
        np.testing.assert_allclose(found.predictions.label_probability, expected, err_msg=name, **CLOSE)
    assert layout.saved_steps("run") == [KILLED_AFTER, STEPS]
    now = json.loads(pathlib.Path("run/config.json").read_text())
    assert flat(ConfigDict(now)).items() >= flat(ConfigDict(json.loads(before))).items()
    assert pathlib.Path("run/first_start.json").read_bytes() == (GOLDEN / "run" / "first_start.json").read_bytes()
