"""Other people's models give their own features and logits here; a file that is none says what it is."""

import dataclasses
import functools
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zipfile

import huggingface_hub.constants
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cover_jax.models import cover, timesformer, variants
from cover_jax.models.pretrained import loader, resize, torch_file
from cover_jax.models.pretrained.errors import PretrainedError
from tests.models import small

GOLDEN = pathlib.Path(__file__).parent / "golden"
TORCH = GOLDEN / "pretrained"
CLASSES = ["ash", "bob", "cup", "dip", "eel"]
IMAGE_MODELS = ("google_vit.npz", "pretrained/timm_vit", "pretrained/hf_vit", "pretrained/hf_dinov2")
VIDEO_MODELS = ("pretrained/timesformer.pyth", "pretrained/hf_timesformer")


@pytest.fixture(autouse=True)
def golden_variant(monkeypatch):
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))


@pytest.fixture(autouse=True)
def highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def expected():
    """Array by "family/what", and "frames"."""
    with np.load(TORCH / "expected.npz") as file:
        arrays = dict(file)
    with np.load(GOLDEN / "google_vit.npz") as file:
        return arrays | {name.replace("golden/", "google_vit/"): file[name] for name in file if "golden/" in name}


def model_config(**overrides):
    return small.config(**{"variant": "golden/4", "size_px": 12, "num_frames": 3} | overrides)


def google_weights() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "google_vit.npz") as file:
        return {name: file[name] for name in file if not name.startswith("golden/")}


@pytest.fixture
def source(tmp_path):
    """Where a family's weights are; google's stand in the golden file beside what they give."""

    def find(name: str) -> str:
        if name != "google_vit.npz":
            return str(GOLDEN / name)
        np.savez(tmp_path / name, **google_weights())
        return str(tmp_path / name)

    return find


def zeros(model):
    """Parameters as an image model's own start: `temporal_fc` and the time embedding are zero."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.init, jax.random.key(0)))


@functools.cache
def compiled(num_classes, **overrides):
    """The model of a config, compiled once; `num_classes`: (head, number) pairs."""
    model = cover.functional(model_config(**overrides), dict(num_classes))
    features, apply, tokens = jax.jit(model.features), jax.jit(model.apply, static_argnums=2), jax.jit(model.tokens)
    return dataclasses.replace(model, features=features, apply=apply, tokens=tokens)


def load(source, class_names=None, **overrides):
    """(model, parameters with the source's in their places, what was loaded)"""
    class_names = class_names or {"own": CLASSES}
    model = compiled(tuple((name, len(classes)) for name, classes in class_names.items()), **overrides)
    loaded = loader.load(str(source), model_config(**overrides), class_names)
    return model, loader.fill(zeros(model), loaded)[0], loaded


def all_tokens(backbone, frames, key, constrain, drop_path):
    """In place of the backbone's CLS feature: its final tokens of one frame, [B, S, D], CLS first."""
    cls_BD, x_BTND = backbone.run_blocks(*backbone.embed(frames), key, constrain, drop_path)
    return backbone.norm(jnp.concatenate([cls_BD[:, None], x_BTND[:, 0]], axis=1))


@pytest.fixture
def tokens(monkeypatch):
    """(config, parameters, frames) -> final tokens."""
    monkeypatch.setattr(timesformer.TimeSformer, "__call__", all_tokens)
    return lambda config, params, frames: jax.jit(cover.functional(config, {}).features)(params, frames)


OWN_SETTINGS = {
    "google_vit.npz": {"gelu": "tanh"},
    "pretrained/hf_vit_other": {"gelu": "tanh", "layer_norm_eps": 0.01},
}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_image_models_give_their_own_tokens(name, source, expected, tokens):
    own = OWN_SETTINGS.get(name, {})
    _, params, _ = load(source(name), **own)
    family = pathlib.Path(name).stem
    frames = expected.get(f"{family}/frames", expected["frames"][:, :1])
    found = tokens(model_config(**own), params, frames)
    np.testing.assert_allclose(found, expected[f"{family}/tokens"], atol=1e-5, rtol=0)


# what the config has instead of the source's own, what the report says of it
OTHER_SETTINGS = [
    ({"gelu": "exact"}, "config.model.gelu='exact': the source has 'tanh'"),
    ({"layer_norm_eps": 1e-6}, "config.model.layer_norm_eps=1e-06: the source has 0.01"),
]


@pytest.mark.parametrize(("changed", "said"), OTHER_SETTINGS)
def test_another_activation_and_epsilon_are_the_sources_or_said_not_to_be(changed, said, source, expected):
    name = "pretrained/hf_vit_other"
    frames, logits = expected["frames"][:, :1], expected["hf_vit_other/logits"]
    model, params, loaded = load(source(name), **OWN_SETTINGS[name])
    np.testing.assert_allclose(model.apply(params, frames, "own"), logits, atol=1e-5, rtol=0)
    assert not any("the source has" in line for line in loaded.report)
    model, params, loaded = load(source(name), **OWN_SETTINGS[name] | changed)
    assert np.max(np.abs(model.apply(params, frames, "own") - logits)) > 1e-4
    assert said in loaded.report
    assert said not in load(source("pretrained/hf_timesformer"), **changed)[2].report


def test_what_a_family_always_has_is_said(source):
    assert "config.model.gelu='exact': the source has 'tanh'" in load(source("google_vit.npz"))[2].report


@pytest.mark.parametrize("name", ["pretrained/timm_vit", "pretrained/hf_vit", "pretrained/hf_timesformer"])
def test_classifiers_give_their_own_logits_class_by_class(name, source, expected):
    order = [3, 0, 4]
    heads = {"own": CLASSES, "some": [CLASSES[i] for i in order], "other": ["ash", "fig"]}
    model, params, loaded = load(source(name), heads)
    frames = expected["frames"][:, : 3 if name in VIDEO_MODELS else 1]
    logits = expected[f"{pathlib.Path(name).stem}/logits"]
    np.testing.assert_allclose(model.apply(params, frames, "own"), logits, atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.apply(params, frames, "some"), logits[:, order], atol=1e-5, rtol=0)
    assert not np.any(params["heads"]["other"]["kernel"])
    assert loaded.class_names == tuple(CLASSES)
    assert "head other: new; 1 of its 2 classes are among the source's 5" in loaded.report


def test_official_timesformer_gives_its_own_logits(source, expected):
    model, params, loaded = load(source("pretrained/timesformer.pyth"))
    features_BD = model.features(params, expected["frames"])
    # Its file names no classes, so the head stays behind: it is read here by the tests' own knowledge of the names.
    head = _torch_tensors("model.head.")
    logits = features_BD @ head["model.head.weight"].T + head["model.head.bias"]
    np.testing.assert_allclose(logits, expected["timesformer/logits"], atol=1e-5, rtol=0)
    assert "not taken: model.head.weight: a classifier with other classes than the heads here" in loaded.report
    assert {f"not read: {what}" for what in ("epoch", "optimizer_state", "cfg")} <= set(loaded.report)


def _torch_tensors(start):
    opened = loader.sources.open_source(str(TORCH / "timesformer.pyth")).tensors
    return {name: opened.read(name) for name in opened.names if name.startswith(start)}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_image_models_start_as_themselves_on_every_frame(name, source):
    model, params, _ = load(source(name))
    frame = small.frames(2, 1, 12, 12)
    still = model.features(params, np.repeat(frame, 3, axis=1))
    np.testing.assert_allclose(still, model.features(params, frame), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_temporal_attention_is_a_copy_and_the_rest_stays_as_initialised(name, source):
    _, params, loaded = load(source(name))
    blocks = params["backbone"]["blocks"]
    jax.tree.map(np.testing.assert_array_equal, blocks["time"], blocks["space"])
    jax.tree.map(np.testing.assert_array_equal, blocks["temporal_norm"], blocks["spatial_norm"])
    assert np.any(blocks["time"]["qkv"]["kernel"])
    ones = jax.tree.map(jnp.ones_like, params)
    filled, kept = loader.fill(ones, loaded)
    new = {"time_embed", "blocks/temporal_fc/kernel", "blocks/temporal_fc/bias"}
    assert {path for path in kept if path.startswith("backbone/")} == {f"backbone/{path}" for path in new}
    assert np.all(filled["backbone"]["blocks"]["temporal_fc"]["kernel"] == 1)


@pytest.mark.parametrize("name", VIDEO_MODELS)
def test_video_models_fill_the_whole_backbone(name, source):
    _, params, loaded = load(source(name))
    assert {path for path in loaded.params if path.startswith("backbone/")} == {
        f"backbone/{path}" for path in traverse_util.flatten_dict(params["backbone"], sep="/")
    }


@pytest.mark.parametrize("size", [3, 7])
def test_position_embeddings_resize_as_torchs_do(size, expected):
    found = resize.position_embedding(expected["resize/4"], size)
    np.testing.assert_allclose(found, expected[f"resize/{size}"], atol=1e-6, rtol=0)


def test_same_grid_keeps_the_position_embedding():
    pos_embed = small.frames(1, 1, 1, 10)[:, 0, 0]
    np.testing.assert_array_equal(resize.position_embedding(pos_embed, 3), pos_embed)


def test_embeddings_are_resized_to_the_config_and_said_to_be(source):
    _, params, loaded = load(source("pretrained/hf_timesformer"), size_px=20, num_frames=6)
    assert params["backbone"]["pos_embed"].shape == (1, 26, 32)
    assert params["backbone"]["time_embed"].shape == (1, 6, 32)
    assert {"pos_embed: resized from 10 to 26 tokens", "time_embed: resized from 3 to 6 tokens"} <= set(loaded.report)


def test_pixels_that_it_was_not_trained_with_are_said(source):
    _, _, loaded = load(source("pretrained/hf_dinov2"))
    said = "config.model.pixel_mean=(0.5, 0.5, 0.5): the source has (0.485, 0.456, 0.406)"
    assert said in loaded.report
    _, _, loaded = load(source("pretrained/timm_vit"))
    assert not any("pixel" in line for line in loaded.report)


def test_pixels_are_those_that_the_model_says_for_itself(source, tmp_path):
    folder = shutil.copytree(source("pretrained/hf_dinov2"), tmp_path / "model")
    said = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    lines = [line for line in load(folder)[2].report if "config.model.pixel" in line]
    assert lines == ["config.model.pixel_std=(0.5, 0.5, 0.5): the source has (0.2, 0.5, 0.5)"]


def test_real_vit_s14(real_data, tokens):
    """Tokens of a real photo: 37 x 37 positions resized to 16 x 16, LayerScale, patch 14.

    The tolerance is the weights' own rounding: they are the reference's, stored as float16. Hugging Face's Dinov2Model
    on these float16 weights is 0.0169 and, relative to the norm, 1.414e-3 from the reference; this model is as far,
    and 1.4e-6 from Hugging Face's.
    """
    folder = real_data / "vit_s14"
    config = small.config(variant="S/14", size_px=224, num_frames=1)
    loaded = loader.load(str(folder / "dinov2_vits14_backbone_f16.npz"), config, {})
    params, _ = loader.fill(zeros(cover.functional(config, {})), loaded)
    with np.load(folder / "golden_tokens.npz") as golden:
        frames, expected = golden["pixels"].transpose(0, 2, 3, 1)[:, None], golden["tokens"]
    found = np.asarray(tokens(config, params, frames))
    np.testing.assert_allclose(found, expected, atol=0.017, rtol=0)
    assert np.linalg.norm(found - expected) < 1.42e-3 * np.linalg.norm(expected)
    assert "pos_embed: resized from 1370 to 257 tokens" in loaded.report


def refusal(source, **overrides) -> str:
    with pytest.raises(PretrainedError) as error:
        loader.load(str(source), model_config(**overrides), {})
    assert str(source) in str(error.value)
    return str(error.value)


def save(path, tensors) -> pathlib.Path:
    safetensors.numpy.save_file(tensors, path)
    return path


def timm_tensors() -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(TORCH / "timm_vit" / "model.safetensors")


# variant, what the message must say besides the file's name
OTHER_SIZES = [
    ("B/16", ["is not B/16: width 32, not 768, depth 2, not 12", "patch_px 4, not 16", "variant='golden/4'"]),
    ("golden/8", ["is not golden/8: patch_px 4, not 8;"]),
    ("mu/4", ["is not mu/4: width 32, not 64, depth 2, not 3, mlp_dim 64, not 256;"]),
]


@pytest.mark.parametrize(("variant", "says"), OTHER_SIZES)
def test_other_sizes_name_the_right_variant(variant, says, source):
    message = refusal(source("google_vit.npz"), variant=variant, size_px=16)
    assert all(part in message for part in says), message


def test_heads_are_checked_where_only_the_config_says_them(source, monkeypatch):
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 8, 64))
    assert "num_heads 4, not 8; no variant has these sizes" in refusal(source("pretrained/hf_vit"))


def test_heads_that_nothing_tells_are_said(source, tmp_path):
    alone = shutil.copy(f"{source('pretrained/hf_vit')}/model.safetensors", tmp_path)
    assert "the source does not state num_heads; assuming 4 (golden/4)" in load(alone)[2].report
    assert not any("does not state" in line for line in load(source("pretrained/hf_vit"))[2].report)


# bytes of a file, what it is
NOT_WEIGHTS = [
    (b"", "an empty file"),
    (b"<!DOCTYPE html>", "a web page"),
    (b"\x1f\x8b\x08\0", "a gzip file"),
    (b"\x93NUMPY\x01\0", "a single array"),
    (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    (b"\x80\x04K\x01.", "a Python pickle"),
    (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20", "torch older than 1.6"),
    (b"PK\x03\x04 and no more", "a broken or cut-off archive"),
    (b"\x10\0\0\0\0\0\0\0{ and no more", "a broken or cut-off safetensors file"),
    (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "cut-off safetensors file: Error while deserializing: header too large"),
    (b"RIFF....AVI ", "neither .npz nor .safetensors nor a torch file"),
]


@pytest.mark.parametrize(("data", "what"), NOT_WEIGHTS, ids=[what for _, what in NOT_WEIGHTS])
def test_a_file_of_no_weights_says_what_it_is(data, what, tmp_path):
    (tmp_path / "file").write_bytes(data)
    assert what in refusal(tmp_path / "file")


# a tensor's name, what model that is
OTHER_MODELS = [
    ("layer1.0.conv1.weight", "a ResNet"),
    ("vision_model.encoder.layers.0.mlp.fc1.weight", "a CLIP-like model"),
    ("encoder.layer.0.mlp.weights_in.weight", "a ViT with SwiGLU layers"),
    (
        "weight",
        "is not of a known model family; its tensors are weight; what can be read: official TimeSformer, Hugging Face "
        "TimeSformer, Hugging Face CLIP,",
    ),
]


@pytest.mark.parametrize(("name", "what"), OTHER_MODELS)
def test_another_model_says_what_it_is(name, what, tmp_path):
    tensors = timm_tensors() | {name: np.zeros(1)} if "embeddings" in name else {name: np.zeros(1)}
    assert what in refusal(save(tmp_path / "model.safetensors", tensors))


def test_no_tensor_is_lost_or_made_up(tmp_path):
    tensors = timm_tensors()
    path = save(tmp_path / "model.safetensors", tensors | {"blocks.1.adapter.weight": np.zeros(1)})
    assert "has a tensor blocks.1.adapter.weight that a timm ViT does not have" in refusal(path)
    del tensors["blocks.1.mlp.fc2.bias"]
    assert "lacks the tensor blocks.1.mlp.fc2.bias" in refusal(save(path, tensors))


def test_a_model_that_computes_otherwise_is_refused(source, tmp_path):
    folder = shutil.copytree(source("pretrained/hf_vit"), tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"qkv_bias": False}))
    assert "qkv_bias=False; this model is qkv_bias=True" in refusal(folder)


# of config.json: what it says, what is wrong with it
OTHER_CONFIGS = [
    ({"hidden_act": "silu"}, "has the activation 'silu'; this model's are gelu, gelu_python,"),
    ({"hidden_act": None, "model_args": {"act_layer": "relu"}}, "has the activation 'relu'"),
    ({"model_args": {"norm_layer": "rmsnorm"}}, "has model_args.norm_layer='rmsnorm'"),
    ({"model_args": 3}, "has model_args=3, which is not an object"),
    ({"global_pool": "avg"}, "global_pool='avg'; this model is global_pool='token'"),
    ({"id2label": {"first": "ash"}}, "class names that are not NUMBER: NAME"),
    ({"id2label": 5}, "class names that are not NUMBER: NAME"),
]


@pytest.mark.parametrize(("changed", "what"), OTHER_CONFIGS)
def test_a_config_that_this_model_cannot_follow_is_refused(changed, what, source, tmp_path):
    folder = shutil.copytree(source("pretrained/hf_vit"), tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    assert what in refusal(folder)


@pytest.mark.parametrize("config", ["{", "[]", "[" * 100_000])
def test_a_config_that_is_none_is_refused(config, source, tmp_path):
    folder = shutil.copytree(source("pretrained/hf_vit"), tmp_path / "vit")
    (folder / "config.json").write_text(config)
    assert "its config.json" in refusal(folder)


def test_missing_sources_are_named(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.npz")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin: it is an empty file" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "mine.bin")
    assert "has none of model.safetensors, " in refusal(tmp_path) and "the folder has mine.bin" in refusal(tmp_path)


def test_what_is_no_weights_is_not_read_to_its_end():
    assert "/dev/zero: it begins with b'\\x00" in refusal("/dev/zero")


@pytest.mark.parametrize("share", [0.5, 0.999])
@pytest.mark.parametrize(
    "name", ["google_vit.npz", "pretrained/timesformer.pyth", "pretrained/hf_vit/model.safetensors"]
)
def test_a_cut_off_file_says_so(name, share, source, tmp_path):
    data = pathlib.Path(source(name)).read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(share * len(data))])
    assert "broken or cut-off" in refusal(tmp_path / "cut")


@pytest.mark.parametrize("name", ["google_vit.npz", "pretrained/timesformer.pyth"])
def test_a_damaged_member_says_so(name, source, tmp_path):
    data = bytearray(pathlib.Path(source(name)).read_bytes())
    data[len(data) // 3] ^= 0xFF
    (tmp_path / "damaged").write_bytes(data)
    assert "Bad CRC-32" in refusal(tmp_path / "damaged")


def test_other_archives_say_what_is_in_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("cat.jpg", b"")
    assert "a zip archive with 'cat.jpg' in it, neither .npz nor a torch file" in refusal(tmp_path / "photos.zip")


# in place of a tensor of an .npz
NO_NUMBERS = [(np.array(["a"]), "an array of <U1, not of numbers"), (np.ones(1, complex), "an array of complex128")]


@pytest.mark.parametrize(("array", "what"), NO_NUMBERS)
def test_arrays_of_no_numbers_are_refused(array, what, tmp_path):
    np.savez(tmp_path / "model.npz", **google_weights() | {"cls": array})
    assert f"cls: {what}" in refusal(tmp_path / "model.npz")


def test_an_array_with_python_objects_is_not_loaded(tmp_path):
    victim = tmp_path / "touched"
    np.savez(tmp_path / "model.npz", **google_weights() | {"cls": np.array([Bomb(victim)], object)})
    assert "Object arrays cannot be loaded" in refusal(tmp_path / "model.npz")
    assert not victim.exists()


def test_an_array_larger_than_its_file_is_refused(tmp_path):
    weights = google_weights()
    del weights["cls"]
    np.savez(tmp_path / "model.npz", **weights)
    header = {"descr": "<f4", "fortran_order": False, "shape": (1, 1, 1 << 50)}
    with zipfile.ZipFile(tmp_path / "model.npz", "a") as archive, archive.open("cls.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    assert "cls: Unable to allocate 4.00 PiB" in refusal(tmp_path / "model.npz")


@pytest.mark.parametrize(("kind", "dtype"), [("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_half_precision_is_read_as_it_is(kind, dtype, tmp_path):
    header, data = {}, b""
    for name, array in timm_tensors().items():
        start, data = len(data), data + array.astype(dtype).tobytes()
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, len(data)]}
    head = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    loaded = loader.load(str(tmp_path), model_config(), {})
    expected = timm_tensors()["cls_token"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(loaded.params["backbone/cls_token"], expected)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


def torch_archive(path, pickled: bytes, **storages: bytes) -> pathlib.Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def test_a_malicious_pickle_is_not_run(tmp_path):
    victim = tmp_path / "touched"
    pickled = pickle.dumps({"model_state": Bomb(victim)})
    pickle.loads(pickled)
    assert victim.exists(), "the bomb is none"
    victim.unlink()
    message = refusal(torch_archive(tmp_path / "model.pyth", pickled))
    assert "its pickle wants to run pathlib." in message
    assert not victim.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.load", "collections.abc"])
def test_only_tensors_may_be_built(name, tmp_path):
    module, _, attribute = name.rpartition(".")
    pickled = f"c{module}\n{attribute}\n(S'x'\ntR.".encode()
    assert f"its pickle wants to run {name}" in refusal(torch_archive(tmp_path / "model.pyth", pickled))


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "what"),
    [(0, (5,), (1,), "too few"), (0, (1 << 40,), (0,), "too few"),
     (4, (1,), (1,), "too few"), (0, (2, 2), (1 << 40, 1), "too few"),
     (0, (2,), (-1,), "impossible"), (0, (2,), (1, 1), "impossible")],
)  # fmt: skip
def test_a_tensor_never_reaches_beyond_its_storage(offset, shape, strides, what, tmp_path):
    """Else a file could read the memory around it."""
    archive = torch_archive(tmp_path / "model.pyth", b"", s=np.arange(4, dtype=np.float32).tobytes())
    tensor = torch_file.Tensor(np.float32, "s", offset, shape, strides)
    with zipfile.ZipFile(archive) as opened, pytest.raises(PretrainedError, match=what):
        torch_file.read(opened, "archive/data/s", tensor)


def test_compressed_storages_are_refused(tmp_path):
    """They might have any size."""
    with zipfile.ZipFile(tmp_path / "model.pyth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    assert "archive/data.pkl: is compressed" in refusal(tmp_path / "model.pyth")


# opcodes that claim a length of 2 GiB or more: a place in the memo, a string, a frame
CLAIMS = [b"\x80\x02}r\xff\xff\xff\x03.", b"\x80\x04\x8e\0\0\0\x80\0\0\0\0", b"\x80\x04\x95\0\0\0\x80\0\0\0\0"]


@pytest.mark.parametrize("pickled", CLAIMS)
def test_a_pickle_gets_no_memory_for_what_it_only_claims(pickled, tmp_path):
    tracemalloc.start()
    assert "model.pyth" in refusal(torch_archive(tmp_path / "model.pyth", pickled))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_strided_tensors_are_read_in_their_order(tmp_path):
    archive = torch_archive(tmp_path / "model.pyth", b"", s=np.arange(6, dtype=np.float32).tobytes())
    with zipfile.ZipFile(archive) as opened:
        found = torch_file.read(opened, "archive/data/s", torch_file.Tensor(np.float32, "s", 1, (2, 2), (1, 2)))
    np.testing.assert_array_equal(found, [[1, 3], [2, 4]])


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """The hub's cache with one repository in it, and no network."""
    snapshot = tmp_path / "models--org--vit" / "snapshots" / "0123456789abcdef"
    shutil.copytree(TORCH / "hf_vit", snapshot)
    refs = tmp_path / "models--org--vit" / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("source", ["hf://org/vit", "hf://org/vit@main/model.safetensors"])
def test_the_hubs_cache_serves_without_a_network(source, offline_hub):
    loaded = loader.load(str(source), model_config(), {})
    assert loaded.class_names == tuple(CLASSES)
    assert loaded.report[0].startswith(f"initialised from {source}: Hugging Face ViT, ")


OFFLINE = """
from cover_jax.models import variants
from cover_jax.models.pretrained import loader
from tests.models import small
variants.SIZES["golden"] = (32, 2, 4, 64)
config = small.config(variant="golden/4", size_px=12, num_frames=3)
print(loader.load("hf://org/vit", config, {}).report[0])
loader.load("hf://org/other", config, {})
"""


@pytest.mark.slow
def test_the_hubs_own_variables_are_honoured(offline_hub, tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("initialised from hf://org/vit: Hugging Face ViT, "), done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "cover_jax.models.pretrained.errors.PretrainedError: hf://org/other: not in the hub's cache, "
    )


def test_what_the_hubs_cache_lacks_is_named(offline_hub):
    assert "not in the hub's cache" in refusal("hf://org/other")
    assert "is not hf://ORG/REPO" in refusal("hf://org")


def test_parameters_stay_on_the_devices_that_they_are_cut_for(source):
    model = cover.functional(model_config(), {})
    mesh = jax.make_mesh((2,), ("fsdp",), (AxisType.Auto,))
    whole, cut = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (None, None, "fsdp")))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    shardings = jax.tree.map(lambda leaf: cut if leaf.ndim == 3 else whole, shapes)
    params = jax.device_put(zeros(model), shardings)
    loaded = loader.load(source("pretrained/timm_vit"), model_config(), {})
    filled, _ = loader.fill(params, loaded)
    assert jax.tree.map(lambda leaf: leaf.sharding, filled) == shardings
    kernel = filled["backbone"]["blocks"]["space"]["qkv"]["kernel"]
    np.testing.assert_array_equal(kernel, loaded.params["backbone/blocks/space/qkv/kernel"])
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 32, 48)}
