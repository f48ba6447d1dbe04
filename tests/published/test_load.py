"""A published model labels clips as its own code does; what its files say and do not say is told."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export
from PIL import Image

from configs import finetune
from cover_jax.errors import ConfigError
from cover_jax.export import __main__ as export
from cover_jax.features import __main__ as features
from cover_jax.models import cover, variants
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.predict import __main__ as predict
from cover_jax.predict.predictor import Predictor
from cover_jax.preprocess import model_input
from cover_jax.published import describe, load
from cover_jax.training import loop
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream.host_tf import tf
from tests.data_pipelines.clips import write_clip
from tests.helpers import fake_hub

GOLDEN = pathlib.Path(__file__).parents[1] / "models" / "golden" / "pretrained"
CLASSES = ["ash", "bob", "cup", "dip", "eel"]
PREPROCESSOR = {
    "do_center_crop": True, "do_normalize": True, "image_mean": [0.45, 0.4, 0.5], "image_std": [0.2, 0.225, 0.3],
    "size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}, "resample": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def golden_variant(monkeypatch):
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))


@pytest.fixture
def folder(tmp_path):
    """A TimeSformer as Hugging Face's own code wrote it, with a preprocessor."""
    folder = pathlib.Path(shutil.copytree(GOLDEN / "hf_timesformer", tmp_path / "timesformer"))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


def logits(trained, frames):
    model = cover.functional(trained.config.model, {describe.HEAD: len(trained.class_names[describe.HEAD])})
    with jax.default_matmul_precision("highest"):
        return jax.jit(model.apply, static_argnums=2)(trained.params, frames, describe.HEAD)


def change(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["timesformer.pyth", "hf_timesformer", "hf_vit", "timm_vit"])
def test_logits_are_those_of_the_models_own_code(name, expected):
    trained = load.load(str(GOLDEN / name))
    frames = expected["frames"][:, : trained.config.model.num_frames]
    own = expected[f"{pathlib.Path(name).stem}/logits"]
    np.testing.assert_allclose(logits(trained, frames), own, atol=1e-5, rtol=0)
    named = CLASSES if name != "timesformer.pyth" else ["0", "1", "2", "3", "4"]
    assert trained.class_names == {describe.HEAD: named}


def test_all_that_the_files_say_is_taken_and_the_rest_is_told(folder):
    trained = load.load(str(folder))
    model, dataset = trained.config.model, trained.dataset(describe.HEAD)
    assert (model.variant, model.size_px, model.num_frames, model.dtype) == ("golden/4", 12, 3, "float32")
    assert (model.pixel_mean, model.pixel_std) == ((0.45, 0.4, 0.5), (0.2, 0.225, 0.3))
    assert (dataset.num_frames, dataset.sample_fps, dataset.eval_clips, dataset.eval_crops) == (3, 0.0, 1, 3)
    assert trained.notes == (
        f"{folder}: Hugging Face TimeSformer, golden/4, 5 classes with names",
        "its files say: 3 frames of 12 px",
        "its settings: GELU exact, layer_norm_eps 1e-06",
        "pixels: mean 0.45, 0.4, 0.5, deviation 0.2, 0.225, 0.3, say its files",
        "assumed: frames from equal parts of the whole clip: no TimeSformer of 3 frames has a known rate; no file says "
        "it; --sample_fps",
        "assumed: 1 clip x 3 crops, as TimeSformer is evaluated; --eval_clips, --eval_crops",
    )


@pytest.mark.parametrize(
    ("source", "num_frames", "num_classes", "expected"),
    [
        ("hf://facebook/timesformer-base-finetuned-k400", 8, 400, 0.9375),
        ("hf://facebook/timesformer-hr-finetuned-k600", 16, 600, 1.875),
        ("TimeSformer_divST_96x4_224_K400.pyth", 96, 400, 7.5),
        ("hf://facebook/timesformer-base-finetuned-ssv2", 8, 174, 0.0),
        ("/weights/TimeSformer_divST_8_224_SSv2.pyth", 8, 175, 0.0),
        ("mine", 12, 400, 0.0),
    ],
)
def test_the_rate_is_that_of_the_family(source, num_frames, num_classes, expected):
    facts = describe.loader.Facts("", True, "B/16", 224, num_frames, {}, (), num_classes, ())
    opened = describe.sources.Opened(None, {}, {})
    assert describe._family_fps(source, facts, opened)[0] == expected


@pytest.mark.parametrize(
    ("changes", "size_px", "said"),
    [
        ({"size": {"shortest_edge": 16}}, 12, "12 px; the middle of the frame, whose shorter side is 16 px then"),
        ({"size": {"shortest_edge": 8}}, 12, "its files resize to 8 px and add black borders"),
        ({"crop_size": 8, "size": {"shortest_edge": 8}}, 8, "3 frames of 8 px; its positions are for 12 px"),
        ({"image_mean": 0.5, "image_std": [0.25]}, 12, "mean 0.5, 0.5, 0.5, deviation 0.25, 0.25, 0.25, say its files"),
        ({"crop_size": 10}, 12, "its files crop 10 px, which is no multiple of the patch"),
        ({"do_center_crop": False, "size": {"height": 16, "width": 16}}, 16, "squeeze the whole picture"),
        ({"resample": 3}, 12, "its files resample=3; here bilinear"),
        ({"do_normalize": False}, 12, "pixels: from 0 to 1, not normalised, say its files"),
    ],
)
def test_what_is_prepared_otherwise_is_said(changes, size_px, said, folder):
    change(folder, "preprocessor_config.json", **changes)
    trained = load.load(str(folder))
    assert trained.config.model.size_px == size_px
    assert said in "\n".join(trained.notes)
    if not changes.get("do_normalize", True):
        assert (trained.config.model.pixel_mean, trained.config.model.pixel_std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("preprocessor_config.json", {"image_mean": ["a", 1, 1]}, "mean=.'a', 1, 1. of the pixels"),
        ("preprocessor_config.json", {"image_std": [0.5, 0.5]}, "std=.0.5, 0.5. of the pixels"),
        ("preprocessor_config.json", {"image_std": [0.5, 0, 0.5]}, "must be greater than 0"),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, "does not scale pixels to 0..1"),
        ("preprocessor_config.json", {"cover_jax": [1]}, "is damaged, or no such model"),
        ("config.json", {"layer_norm_eps": "x"}, "is damaged, or no such model"),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_line(name, changes, said, folder):
    change(folder, name, **changes)
    with pytest.raises(PretrainedError, match=said) as refused:
        load.load(str(folder))
    assert str(refused.value).startswith(f"{folder}: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["hf_vivit", "hf_videomae"])
def test_a_model_of_tubelets_is_refused_as_it_only_gives_initial_values(name):
    with pytest.raises(PretrainedError, match="whose logits and features this model does not compute; config.model.i"):
        load.load(str(GOLDEN.parent / "families" / name), backbone_only=True)


def test_what_a_run_says_itself_is_not_given_again(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="--class_names=names.txt: .* is a run"):
        load.load(str(tmp_path), class_names="names.txt")
    with pytest.raises(ConfigError, match="--step=3: .*@best names a checkpoint already"):
        load.load(f"{tmp_path}@best", "3")


def test_which_of_two_copies_is_taken_is_said(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    copies = {f"{copy}.{name}": array for copy in ("student", "teacher") for name, array in tensors.items()}
    safetensors.numpy.save_file(copies, folder / "model.safetensors")
    count = sum(name.startswith("timesformer.") for name in tensors)
    said = f"not taken: student.timesformer.embeddings.cls_token and {count - 1} more: of another copy of the model"
    assert said in load.load(str(folder)).notes


@pytest.mark.parametrize(
    ("views", "said"),
    [
        ({"eval_clips": 0}, "eval_clips=0: must be greater than 0"),
        ({"eval_crops": 2}, "eval_crops=2: must be 1 or 3"),
        ({"sample_fps": -1.0}, "sample_fps=-1.0: must be 0 or greater"),
        ({"sample_fps": "2"}, "sample_fps='2': must be 0 or greater"),
        ({"eval_clip": 2}, "eval_clip=2: unknown; known are .*eval_clips"),
    ],
)
def test_views_that_cannot_be_are_refused_before_anything_is_read(views, said):
    with pytest.raises(ConfigError, match=said):
        load.load("hf://nobody/asks", **views)


def test_pixels_that_no_file_states_are_said_to_be_assumed():
    notes = load.load(str(GOLDEN / "hf_timesformer")).notes
    said = "pixels: mean 0.45, 0.45, 0.45, deviation 0.225, 0.225, 0.225, assumed: usual for this family, its files do "
    assert said + "not say them" in notes


def test_names_that_are_none_are_said_and_may_be_given(folder, tmp_path):
    change(folder, "config.json", id2label={str(i): f"LABEL_{i}" for i in range(5)})
    assert (
        "5 classes without names (LABEL_0, ...): give them with --class_names=FILE" in load.load(str(folder)).notes[0]
    )
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\none\nthree\nfour\n")
    trained = load.load(str(folder), class_names=str(names))
    assert trained.class_names[describe.HEAD] == ["one", "two", "one (2)", "three", "four"]
    names.write_text("one\ntwo\n")
    with pytest.raises(PretrainedError, match="its classifier has 5 classes, --class_names has 2"):
        load.load(str(folder), class_names=str(names))


def test_a_model_that_is_not_complete_is_refused_with_what_it_lacks(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    lacking = {name: array for name, array in tensors.items() if "time_embeddings" not in name}
    safetensors.numpy.save_file(lacking, folder / "model.safetensors")
    with pytest.raises(PretrainedError, match="lacks the tensor timesformer.embeddings.time_embeddings"):
        load.load(str(folder))
    headless = {name: array for name, array in tensors.items() if not name.startswith("classifier")}
    safetensors.numpy.save_file(headless, folder / "model.safetensors")
    with pytest.raises(PretrainedError, match="has no classifier, so it cannot label clips"):
        load.load(str(folder))
    assert load.load(str(folder), backbone_only=True).class_names == {}


def test_a_head_of_several_labels_is_one_and_one_of_another_problem_is_refused(folder):
    change(folder, "config.json", problem_type="multi_label_classification")
    assert load.load(str(folder)).dataset(describe.HEAD).task == "multilabel"
    change(folder, "config.json", problem_type="regression")
    with pytest.raises(PretrainedError, match="problem_type='regression', which is not supported"):
        load.load(str(folder))


def test_the_command_labels_a_clip_with_the_models_own_classes(folder, tmp_path, capsys):
    write_clip(tmp_path / "clip.mp4", 60, 4, num_frames=9)
    flags = [f"--workdir={folder}", "--format=json", str(tmp_path / "clip.mp4")]
    predict.main(flags)
    printed = capsys.readouterr()
    best = json.loads(printed.out)[str(tmp_path / "clip.mp4")][describe.HEAD]
    assert {guess["class"] for guess in best} == set(CLASSES)
    assert f"{folder}: Hugging Face TimeSformer, golden/4, 5 classes with names\n  its files say" in printed.err
    predict.main(["--sample_fps=2", "--eval_crops=1", *flags])
    printed = capsys.readouterr()
    assert "as the command asks: sample_fps=2, eval_crops=1" in printed.err
    assert json.loads(printed.out)[str(tmp_path / "clip.mp4")][describe.HEAD] != best
    with pytest.raises(SystemExit, match="a published model, which has no steps"):
        predict.main(["--step=3", *flags])


def test_a_clips_prediction_is_the_mean_over_its_three_crops(folder):
    frames = np.random.default_rng(0).integers(0, 256, (3, 12, 24, 3), np.uint8)
    trained = load.load(str(folder))
    left, middle, right = (frames[:, :, start : start + 12] for start in (0, 6, 12))
    normalised = (np.stack([left, middle, right]) / 255 - PREPROCESSOR["image_mean"]) / PREPROCESSOR["image_std"]
    mean = jax.nn.softmax(logits(trained, normalised.astype(np.float32))).mean(axis=0)
    (prediction,) = Predictor(trained)(frames).values()
    np.testing.assert_allclose(prediction.probabilities, mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(24, 36), (36, 24), (24, 24)])
def test_a_processor_that_resizes_larger_than_it_crops_is_followed(folder, shape):
    """transformers' processor resizes with Pillow, in whole levels: within half a level of each of its two passes."""
    change(folder, "preprocessor_config.json", size={"shortest_edge": 16})
    trained = load.load(str(folder))
    dataset = trained.dataset(describe.HEAD)
    assert dataset.eval_crop_share == 0.75 and trained.storage(describe.HEAD)["short_side_px"] == 32
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, *shape, 3), np.uint8)
    height, width = (side * 16 // min(shape) for side in shape)
    top, left = (height - 12) // 2, (width - 12) // 2
    theirs = [Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR) for frame in frames[0]]
    theirs = np.stack([np.asarray(frame)[top : top + 12, left : left + 12] for frame in theirs])
    batch = {"frames": frames, "size_px": np.array([shape], np.int32)}
    ours = model_input.evaluate(
        batch, size_px=12, clips=1, crops=1, normalization=model_input.LEVELS, crop_share=dataset.eval_crop_share
    )
    np.testing.assert_allclose(ours[0], theirs, atol=1.01)
    assert np.abs(ours[0] - theirs).mean() < 0.4


def test_the_whole_way_of_a_published_model(folder, tmp_path):
    """Labels, features and explanation of a clip; exports of all formats, of which two can be read again here."""
    change(folder, "preprocessor_config.json", size={"shortest_edge": 16})
    clip = str(tmp_path / "clip.mp4")
    write_clip(tmp_path / "clip.mp4", 60, 4, num_frames=9)
    model = f"--workdir={folder}"
    predict.main([model, f"--explain={tmp_path / 'seen.mp4'}", clip])
    assert (tmp_path / "seen.mp4").stat().st_size > 1000
    features.main([model, f"--out={tmp_path / 'features.npz'}", clip])
    assert np.load(tmp_path / "features.npz")["features"].shape == (1, 32)
    for name in ("hugging_face", "jax"):
        export.main([model, f"--format={name}", f"--out={tmp_path / name}"])
    again = load.load(str(tmp_path / "hugging_face"))
    assert again.dataset(describe.HEAD).to_dict() == load.load(str(folder)).dataset(describe.HEAD).to_dict()
    frames = np.random.default_rng(0).standard_normal((1, 3, 12, 12, 3)).astype(np.float32)
    expected = logits(load.load(str(folder)), frames)
    np.testing.assert_allclose(logits(again, frames), expected, atol=1e-6)
    program = jax_export.deserialize(bytearray((tmp_path / "jax/model.jax_export").read_bytes()))
    weights = safetensors.numpy.load_file(tmp_path / "jax/params.safetensors")
    np.testing.assert_allclose(jax.jit(program.call)(weights, frames), expected, atol=1e-5)
    assert json.loads((tmp_path / "jax/config.json").read_text())["class_names"] == CLASSES


@pytest.mark.slow
def test_a_published_model_as_a_saved_model_and_evaluated_on_a_prepared_folder(folder, tmp_path, capsys):
    for name in ("ash", "cup"):
        for i in range(3):
            write_clip(tmp_path / "clips" / name / f"{i}.mp4", 40 + 60 * i, 4, num_frames=9)
    prepare.main([
        "video_folder", "--name=own", f"--source={tmp_path / 'clips'}", f"--data_dir={tmp_path / 'data'}",
        "--validation_share=0.4", "--workers=1",
    ])  # fmt: skip
    config = finetune.get_config("video_folder/own")
    config.data_dir, config.model.init_from, config.model.dtype = str(tmp_path / "data"), str(folder), "float32"
    loop.evaluate_checkpoint(config, str(tmp_path / "evaluated"))
    said = capsys.readouterr().out
    assert "5 classes with names" in said and "validation after 0 steps" in said
    export.main([f"--workdir={folder}", "--format=saved_model", f"--out={tmp_path / 'saved'}"])
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 12, 3), np.uint8)
    normalised = (frames / 255 - PREPROCESSOR["image_mean"]) / PREPROCESSOR["image_std"]
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    (found,) = serve(frames=tf.constant(frames)).values()
    np.testing.assert_allclose(found, logits(load.load(str(folder)), normalised.astype(np.float32)), atol=1e-5)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with fake_hub.serve() as hub:
        fake_hub.use(monkeypatch, hub.endpoint, str(tmp_path / "cache"))
        yield hub


def test_the_hub_is_asked_once_where_it_does_not_answer(hub, folder, tmp_path, monkeypatch):
    for path in folder.iterdir():
        hub.files["org/model", path.name] = path.read_bytes()
    by_hub = load.load("hf://org/model")
    assert by_hub.notes[1:] == load.load(str(folder)).notes[1:]
    jax.tree.map(np.testing.assert_array_equal, by_hub.params, load.load(str(folder)).params)
    with pytest.raises(PretrainedError, match="hf://org/other: the hub has no model.safetensors there"):
        load.load("hf://org/other")
    fake_hub.use(monkeypatch, "http://127.0.0.1:1", str(tmp_path / "cache"))
    assert load.load("hf://org/model").class_names == by_hub.class_names  # from the client's cache
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("the client waits to ask again"))
    with pytest.raises(PretrainedError, match="not in the hub's cache, and the hub cannot be reached: ConnectError: "):
        load.load("hf://org/other")
