"""CLIP, DINOv2 with registers, MAE, ViViT and VideoMAE give their own features; wrappings and shards are read."""

import json
import pathlib
import pickle
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from cover_jax.models import cover, variants
from cover_jax.models.pretrained import embeddings, loader, sources, torch_file, weight_files
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.models.pretrained.families import recognise
from tests.models import small
from tests.models.test_pretrained import google_weights, torch_archive

GOLDEN = pathlib.Path(__file__).parent / "golden"
FAMILIES = GOLDEN / "families"
CLIP = {"gelu": "quick", "layer_norm_eps": 1e-5, "pre_norm": True}
OPENAI = {**CLIP, "variant": "wide/4"}  # their code has an MLP of four times the width
# folder -> settings of the source's own code
OWN = {
    "hf_clip": CLIP,
    "openai_clip": OPENAI,
    "openai_clip/scripted.pt": OPENAI,
    "open_clip": OPENAI | {"gelu": "exact"},
    "timm_clip": OPENAI,
    "hf_dinov2_registers": {"registers": 3},
    "hf_mae": {"layer_norm_eps": 1e-12},
    "hf_videomae": {"layer_norm_eps": 1e-12},
    "hf_vivit": {"gelu": "tanh"},
}
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def golden_variants(monkeypatch):
    monkeypatch.setitem(variants.SIZES, "small", (16, 2, 2, 32))
    monkeypatch.setitem(variants.SIZES, "wide", (16, 2, 2, 64))
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))


@pytest.fixture(scope="module")
def expected():
    with np.load(FAMILIES / "expected.npz") as file, np.load(FAMILIES / "expected_clip.npz") as clip:
        np.testing.assert_array_equal(file["frames"], clip["frames"])
        return dict(clip) | dict(file)


@pytest.fixture(scope="module")
def features():
    """(settings, parameters, frames) -> features; compiled once per settings."""
    compiled = {}

    def compute(settings, params, frames):
        key = tuple(settings.items())
        if key not in compiled:
            compiled[key] = jax.jit(cover.functional(config(**settings), {}).features)
        with jax.default_matmul_precision("highest"):
            return compiled[key](params, frames)

    return compute


def config(**overrides):
    return small.config(**{"variant": "small/4", "size_px": 12, "num_frames": 1} | overrides)


def load(name, **overrides):
    source = str(name if isinstance(name, pathlib.Path) else FAMILIES / name)
    settings = config(**overrides)
    model = cover.functional(settings, {})
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.init, jax.random.key(0)))
    loaded = loader.load(source, settings, {})
    return loader.fill(zeros, loaded)[0], loaded


@pytest.mark.parametrize("name", OWN)
def test_families_give_their_own_features(name, expected, features):
    params, loaded = load(name, **OWN[name])
    found = features(OWN[name], params, expected["frames"])
    np.testing.assert_allclose(found, expected[name.partition("/")[0]], atol=TOLERANCE, rtol=0)
    assert not any("gelu" in line or "layer_norm_eps" in line for line in loaded.report if "scripted" not in name)


def test_registers_are_used(expected, features):
    params, _ = load("hf_dinov2_registers", registers=3)
    before = features(OWN["hf_dinov2_registers"], params, expected["frames"])
    params["backbone"]["register_tokens"] = -params["backbone"]["register_tokens"]
    after = features(OWN["hf_dinov2_registers"], params, expected["frames"])
    assert np.abs(before - after).max() > 1e-3


# what was left out of a source, with the reason
LEFT_OUT = [
    ("hf_clip", "not taken: visual_projection.weight: projects CLS into the space that CLIP shares with text, "),
    ("openai_clip", "not taken: visual.proj: projects CLS into the space"),
    ("openai_clip", "not taken: token_embedding.weight: of the text tower"),
    ("hf_mae", "not taken: decoder.decoder_pred.weight: of the decoder, which is for pre-training only"),
    ("hf_videomae", "cls_token: starts anew, because the source has none and averages its patches"),
    ("hf_vivit", "patch_embed: summed over the 2 frames of a tubelet, which is exact for a still clip"),
    ("hf_vivit", "pos_embed: that of the middle one of 3 tubelets in time"),
]


@pytest.mark.parametrize(("name", "said"), LEFT_OUT)
def test_what_is_not_taken_or_changed_is_said(name, said):
    assert any(line.startswith(said) for line in load(name, **OWN[name])[1].report)


def test_layers_that_the_config_lacks_are_named():
    with pytest.raises(PretrainedError, match="pre_norm=True; use --config.model.pre_norm=True"):
        load("hf_clip", gelu="quick")
    with pytest.raises(PretrainedError, match="registers=3; use --config.model.registers=3"):
        load("hf_dinov2_registers")
    with pytest.raises(PretrainedError, match="pre_norm=False; use --config.model.pre_norm=False"):
        load("hf_mae", pre_norm=True)


@pytest.mark.parametrize(("length", "prefix"), [(9, 0), (10, 1), (12, 3)])
def test_timms_registers_may_have_positions(length, prefix):
    """`no_embed_class` or not: positions of the patches, of CLS and patches, of CLS, registers and patches."""
    pos, registers = np.arange(length, dtype=np.float32).reshape(1, -1, 1), np.zeros((1, 2, 1), np.float32)
    arrays = embeddings._split_positions({"pos_embed": pos, "register_tokens": registers})
    np.testing.assert_array_equal(arrays["pos_embed"][0, 1:, 0], np.arange(prefix, length))
    assert arrays["register_tokens"].ravel().tolist() == ([1, 2] if prefix == 3 else [0, 0])


# Wrappings.


def timm_tensors() -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(GOLDEN / "pretrained" / "timm_vit" / "model.safetensors")


def load_timm(folder, tensors):
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return loader.load(str(folder), config(variant="golden/4"), {})


WRAPPINGS = [
    "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "model.net.", "backbone.",
    "teacher.backbone.", "_forward_module.module.", "model._fsdp_wrapped_module.", "any.other.name.",
]  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrapping_before_the_names_is_stripped(wrapping, tmp_path):
    tensors = {f"{wrapping}{name}": array for name, array in timm_tensors().items()}
    loaded = load_timm(tmp_path, tensors)
    np.testing.assert_array_equal(loaded.params["backbone/cls_token"], timm_tensors()["cls_token"])
    assert "is none" not in loaded.report[0]


def test_wrappers_inside_of_names_are_stripped(tmp_path):
    loaded = load_timm(tmp_path, {n.replace("attn.", "attn._orig_mod."): a for n, a in timm_tensors().items()})
    assert "backbone/blocks/space/qkv/kernel" in loaded.params


def test_of_several_copies_the_teacher_is_taken_and_the_others_are_said(tmp_path):
    copies = {f"{who}.backbone.{n}": a + (who == "teacher") for who in ("student", "teacher") for n, a in
              timm_tensors().items()}  # fmt: skip
    heads = {f"{who}.head.mlp.0.weight": np.zeros(1, np.float32) for who in ("student", "teacher")}
    loaded = load_timm(tmp_path, copies | heads)
    np.testing.assert_array_equal(loaded.params["backbone/cls_token"], timm_tensors()["cls_token"] + 1)
    assert "not taken: student.backbone.cls_token: of another copy of the model" in loaded.report
    assert "not taken: teacher.head.mlp.0.weight: a head or loss of its training, outside of the model" in loaded.report


def test_several_models_are_refused_by_name(tmp_path):
    copies = {f"{who}.{name}": array for who in ("left", "right") for name, array in timm_tensors().items()}
    with pytest.raises(PretrainedError, match=r"has several models in it, (left|right)., (left|right).; save one"):
        load_timm(tmp_path, copies)


def test_unknown_tensors_beside_a_wrapped_model_are_refused(tmp_path):
    tensors = {f"model.{name}": array for name, array in timm_tensors().items()}
    with pytest.raises(PretrainedError, match="has a tensor text.layer.weight that a timm ViT does not have"):
        load_timm(tmp_path, tensors | {"text.layer.weight": np.zeros(1, np.float32)})


# Containers.

ONE = torch_file.Tensor(np.float32, "0", 0, (1,), (1,))
CONTAINERS = [
    ({"state_dict": {"a": ONE}, "epoch": 1}, ("epoch",)),
    ({"model": {"a": ONE}, "args": 0, "optimizer": {"state": {}}}, ("args", "optimizer")),
    ({"model_state": {"model": {"a": ONE}}}, ()),
    ({"student": {"b": ONE}, "teacher": {"a": ONE}}, ("student",)),
    ({"module": {"a": ONE}, "buffer_names": []}, ("buffer_names",)),
    ({"ema": {"state_dict": {"a": ONE}}, "step": 3}, ("step",)),
    ({"my_weights": {"a": ONE}, "epoch": 1}, ("epoch",)),
    ({"a": ONE, "note": "text"}, ("note",)),
]


@pytest.mark.parametrize(("saved", "set_aside"), CONTAINERS)
def test_the_state_dict_is_found(saved, set_aside):
    found = weight_files._of_torch(saved, lambda tensor: tensor)
    assert found.names == ("a",) and found.read("a") is ONE and found.set_aside == set_aside


@pytest.mark.parametrize("saved", [{"first": {"a": ONE}, "second": {"b": ONE}}, {"first": {}, "second": 1}])
def test_top_level_keys_are_named_where_none_fits(saved):
    with pytest.raises(PretrainedError, match="its top-level keys are first, second; save one of them"):
        weight_files._of_torch(saved, lambda tensor: tensor)


def test_a_state_dict_that_contains_itself_ends():
    saved: dict = {}
    saved["model"] = saved
    with pytest.raises(PretrainedError, match="top-level keys are model"):
        weight_files._of_torch(saved, lambda tensor: tensor)


def test_flags_beside_the_tensors_are_not_read(tmp_path):
    """MAE, DeiT and DINO keep their flags as an argparse.Namespace, others a path or a number of numpy."""
    import argparse

    saved = {"args": argparse.Namespace(lr=1.0), "best": np.float64(3.0), "out": pathlib.PurePosixPath("/tmp")}
    saved["out"] = 1
    archive = torch_archive(tmp_path / "model.pyth", pickle.dumps(saved, protocol=2))
    with pytest.raises(PretrainedError, match="its top-level keys are args, best, out"):
        sources.open_source(str(archive))


# Formats.


def test_bfloat16_in_npz_is_read(tmp_path):
    weights = {name: array.astype(ml_dtypes.bfloat16) for name, array in google_weights().items()}
    np.savez(tmp_path / "model.npz", **weights)
    loaded = loader.load(str(tmp_path / "model.npz"), config(variant="golden/4"), {})
    np.testing.assert_array_equal(loaded.params["backbone/cls_token"], weights["cls"].astype(np.float32))


def sharded(folder) -> pathlib.Path:
    tensors = timm_tensors()
    names = sorted(tensors)
    files = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for file, some in files.items():
        safetensors.numpy.save_file({name: tensors[name] for name in some}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, some in files.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_read_as_one(tmp_path):
    loaded = loader.load(str(sharded(tmp_path)), config(variant="golden/4"), {})
    np.testing.assert_array_equal(loaded.params["backbone/cls_token"], timm_tensors()["cls_token"])


def test_a_missing_or_foreign_shard_is_named(tmp_path):
    folder = sharded(tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(PretrainedError, match="lacks its shard model-00002-of-00002.safetensors"):
        loader.load(str(folder), config(variant="golden/4"), {})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other/file"}}))
    with pytest.raises(PretrainedError, match="which is not the name of a file beside it"):
        loader.load(str(folder), config(variant="golden/4"), {})


def test_pytorch_model_bin_of_a_folder_is_read_with_its_config(tmp_path):
    shutil.copy(GOLDEN / "pretrained" / "timesformer.pyth", tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_act": "gelu_new"}))
    loaded = loader.load(str(tmp_path), config(variant="golden/4", num_frames=3), {})
    assert "config.model.gelu='exact': the source has 'tanh'" in loaded.report


# What is said.


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_tensor(bad, tmp_path):
    tensors = timm_tensors()
    tensors["blocks.1.mlp.fc1.bias"][3] = bad
    with pytest.raises(PretrainedError, match=r"blocks.1.mlp.fc1.bias: 1 of its 64 values are not finite"):
        load_timm(tmp_path, tensors)


def test_pixels_that_nothing_states_are_said(tmp_path):
    said = "the source does not state config.model.pixel_mean, config.model.pixel_std: they stay as the config has them"
    assert said in load_timm(tmp_path, timm_tensors()).report
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    assert said not in load_timm(tmp_path, timm_tensors()).report


def test_timms_model_args_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"num_heads": 8}}))
    with pytest.raises(PretrainedError, match="num_heads 8, not 4"):
        load_timm(tmp_path, timm_tensors())
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"qkv_bias": False}}))
    with pytest.raises(PretrainedError, match="qkv_bias=False; this model is qkv_bias=True"):
        load_timm(tmp_path, timm_tensors())


def test_a_refused_model_is_called_by_its_own_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(PretrainedError, match="is not of a known model family.*its config.json calls it 'siglip'"):
        load_timm(tmp_path, {"weight": np.zeros(1, np.float32)})


def test_fill_never_drops_an_array():
    loaded = loader.LoadedWeights({"backbone/other": np.zeros(1)}, (), ())
    with pytest.raises(PretrainedError, match="backbone/other: in the source, but not in this model"):
        loader.fill({"backbone": {"cls_token": jnp.zeros(1)}}, loaded)


def test_each_family_has_its_own_title():
    titles = [family.title for family in recognise.families()]
    assert len(set(titles)) == len(titles)


# The same weights under the authors' and timm's names.


def renamed(folder: str, names: dict[str, str], joined: bool) -> dict[str, np.ndarray]:
    """A golden file of Hugging Face with other names, float32; query, key and value `joined` as "attn.qkv"."""
    tensors = safetensors.numpy.load_file(FAMILIES / folder / "model.safetensors")
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    found = {}
    for name, array in tensors.items():
        new = name
        for old, replacement in names.items():
            new = new.replace(old, replacement)
        found[new] = array
    if joined:
        for name in [name for name in found if ".query." in name]:
            parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
            found[name.replace("query", "qkv")] = np.concatenate(parts)
    return found


VIT_NAMES = {
    "encoder.layer.": "blocks.", "layernorm_before": "norm1", "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj", "attention.attention": "attn",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "embeddings.patch_embeddings.projection":
    "patch_embed.proj", "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
    "embeddings.mask_token": "mask_token", "embeddings.register_tokens": "register_tokens", "layernorm": "norm",
}  # fmt: skip
OTHER_NAMES = [
    ("hf_videomae", {"videomae.": "encoder."} | {old.replace("encoder.layer.", ".layer."): new for old, new in
     VIT_NAMES.items()} | {".layer.": ".blocks.", "encoder.encoder.": "encoder."}, "official VideoMAE"),
    ("hf_mae", {"vit.": "", "decoder.": "decoder_x."} | VIT_NAMES | {"decoder_x.decoder_embed": "decoder_embed",
     "decoder_x.": "decoder_"}, "official MAE"),
    ("hf_dinov2_registers", VIT_NAMES | {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"},
     "official DINOv2"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "names", "title"), OTHER_NAMES, ids=[title for _, _, title in OTHER_NAMES])
def test_other_names_of_the_same_weights_give_the_same_arrays(folder, names, title, tmp_path):
    safetensors.numpy.save_file(renamed(folder, names, joined=True), tmp_path / "model.safetensors")
    settings = config(**OWN[folder])
    shutil.copy(FAMILIES / folder / "config.json", tmp_path)
    found = loader.load(str(tmp_path), settings, {})
    expected = loader.load(str(FAMILIES / folder), settings, {})
    assert f": {title}, " in found.report[0]
    assert found.params.keys() == expected.params.keys()
    for path, array in expected.params.items():
        np.testing.assert_allclose(found.params[path], array, atol=1e-6, err_msg=path)
