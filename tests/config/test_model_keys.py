"""Each key of config.model says what another value of it changes, and everything that depends on that follows.

A key without an example here fails the first test: give it one, and see what the others say.
"""

import re

import jax
import pytest
from ml_collections import ConfigDict

from cover_jax.checkpoint import compatibility, init_from, kept_heads
from cover_jax.config import keys, schema
from cover_jax.errors import ConfigError
from cover_jax.export import formats
from cover_jax.models import cover, flops, registry
from cover_jax.models.pretrained import hugging_face_export
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.predict import explain
from tests.models import small

C = keys.Changes
# key -> another value than that of `small.config`
EXAMPLES = {
    "variant": "nu/8", "size_px": 24, "num_frames": 6, "init_from": "/tmp/other", "keep_heads": True, "head": "mlp",
    "pre_norm": True, "registers": 2, "drop_path": 0.5, "temporal_init": "xavier", "time_embed_std": 0.1,
    "gelu": "tanh", "layer_norm_eps": 1e-2, "dtype": "bfloat16", "remat": "none", "attention": "double",
    "pixel_mean": (0.1, 0.2, 0.3), "pixel_std": (0.1, 0.2, 0.3),
}  # fmt: skip
OF_THE_INPUT = {"pixel_mean", "pixel_std"}  # their function is before the model's, and no shape or operation of it
CHANGES = {name: key.changes for name, key in schema.Model.keys().items()}


class Double:
    """A form that attends twice as much to nothing in particular."""

    def __init__(self, num_heads, head_dim):
        self.num_heads = num_heads

    def order_columns(self, projection):
        return projection

    def __call__(self, qkv_BTSC, axis):
        return 2 * qkv_BTSC[..., : qkv_BTSC.shape[-1] // 3]

    def probabilities(self, qkv_BTSC, axis):
        return explain.probabilities(qkv_BTSC, self.num_heads, axis) / 2

    def keys_per_query(self, axis, length):
        return 0


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setitem(registry.ATTENTION, "double", f"{__name__}:Double")
    monkeypatch.setattr(cover.attention, "FORMS", (*cover.attention.EXACT, "double"))


@pytest.fixture(scope="module")
def before():
    return small.config()


def changed(name) -> ConfigDict:
    return small.config(**{name: EXAMPLES[name]})


def cached(function):
    """The same result for the same values of a config."""
    results = {}

    def call(model):
        key = str(model)
        if key not in results:
            results[key] = function(model)
        return results[key]

    return call


@cached
def shapes(model):
    return jax.eval_shape(cover.functional(model, {"own": 3}).init, jax.random.key(0))


def text(jaxpr) -> str:
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr))  # addresses of functions differ each time


@cached
def program(model):
    """The backbone's forward pass as text."""
    params, features = shapes(model), cover.functional(model, {}).features
    frames = jax.ShapeDtypeStruct((1, 2, model.size_px, model.size_px, 3), "float32")
    return text(jax.make_jaxpr(features)({"backbone": params["backbone"], "heads": {}}, frames))


@cached
def explained(model):
    frames = jax.ShapeDtypeStruct((1, 2, model.size_px, model.size_px, 3), "float32")
    return text(jax.make_jaxpr(lambda *args: explain.trace(args[0], model, args[1]))(shapes(model)["backbone"], frames))


def test_each_key_says_what_it_changes_and_has_an_example(before):
    assert EXAMPLES.keys() == CHANGES.keys()
    assert all(isinstance(change, C) for change in CHANGES.values())
    assert all(EXAMPLES[name] != before[name] for name in EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_key_changes_what_it_says(name, before):
    model, change = changed(name), CHANGES[name]
    assert (shapes(model) != shapes(before)) == (change is C.SHAPE)
    if name != "head" and name not in OF_THE_INPUT and change in (C.SHAPE, C.FUNCTION, C.ROUNDING):
        assert program(model) != program(before)
        assert explained(model) != explained(before)
    if change is C.INIT:
        assert program(model) == program(before)


@pytest.mark.parametrize("name", keys.that_change(schema.Model, C.SHAPE, C.FUNCTION))
def test_operations_are_counted_as_a_key_changes_them(name, before):
    same_work = {"head", "num_frames", "pre_norm", "gelu", "layer_norm_eps", *OF_THE_INPUT}  # frames: the dataset's
    assert (flops.of_clip(changed(name), 2) != flops.of_clip(before, 2)) == (name not in same_work)


@pytest.mark.parametrize("name", EXAMPLES)
def test_heads_are_kept_in_the_same_model_only(name, before):
    if CHANGES[name] in (C.SHAPE, C.FUNCTION, C.ROUNDING):
        with pytest.raises(ConfigError, match=f"--config.model.{name}="):
            kept_heads._check_model("run", before, changed(name))
    else:
        kept_heads._check_model("run", before, changed(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_run_continues_with_the_same_shapes_only(name):
    assert (f"model.{name}" in compatibility._FIXED_KEYS) == (CHANGES[name] is C.SHAPE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_warm_start_refuses_other_shapes_and_says_another_function(name, before):
    if CHANGES[name] is C.SHAPE and name not in init_from._ADAPTED:
        with pytest.raises(PretrainedError, match=f"config.model.{name}="):
            init_from._check_model("run", before, changed(name))
    else:
        init_from._check_model("run", before, changed(name))
        lines = init_from._function_lines(before, changed(name))
        assert bool(lines) == (CHANGES[name] is C.FUNCTION)
        assert all(f"config.model.{name}=" in line for line in lines)


@pytest.mark.parametrize("name", keys.that_change(schema.Model, C.SHAPE, C.FUNCTION))
def test_hugging_faces_config_holds_a_key_or_refuses_it(name, before):
    model = changed(name)
    if name in hugging_face_export.HELD:
        formats._check_hugging_face_holds(model)
        files = [
            lambda model: hugging_face_export.config(model, [], ""),
            lambda model: hugging_face_export.preprocessor_config(model, crop_share=1.0),
        ]
        assert name == "head" or any(file(model) != file(before) for file in files)
    else:
        with pytest.raises(PretrainedError, match=f"config.model.{name}=.*: not in Hugging Face's TimeSformer"):
            formats._check_hugging_face_holds(model)


def test_forms_of_attention_that_compute_the_same_change_nothing(before):
    assert not keys.differing(schema.Model, before, small.config(attention="einsum"), C.FUNCTION)
    assert set(schema.Model.attention.alike) == set(cover.attention.EXACT)
