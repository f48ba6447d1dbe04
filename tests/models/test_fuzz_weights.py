"""Damaged and hostile files of weights: one line says what is wrong, and nothing in them runs, hangs or is taken."""

import io
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="pip install -e '.[test]'")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from cover_jax.models import variants  # noqa: E402
from cover_jax.models.pretrained import loader  # noqa: E402
from cover_jax.models.pretrained.errors import PretrainedError  # noqa: E402
from tests.helpers import fuzz  # noqa: E402
from tests.models import test_pretrained as known  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def golden_variant():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))
        yield


def load_or_refuse(path: pathlib.Path):
    """What is loaded; None where it is refused in one line."""
    with fuzz.no_hang():
        try:
            return loader.load(str(path), known.model_config(), {"head": known.CLASSES})
        except PretrainedError as error:
            message = str(error)
    assert message.startswith(str(path)) and len(message.splitlines()) == 1, message
    return None


def google_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **known.google_weights())
    return buffer.getvalue()


WHOLE = {
    "vit.npz": google_npz,
    "timesformer.pyth": lambda: (known.TORCH / "timesformer.pyth").read_bytes(),
    "model.safetensors": lambda: (known.TORCH / "timm_vit" / "model.safetensors").read_bytes(),
}


@pytest.mark.parametrize("name", WHOLE)
def test_damaged_files(name, tmp_path):
    """Zip archives have checksums: what is loaded from a damaged one is what was saved."""
    whole, path = WHOLE[name](), tmp_path / name
    path.write_bytes(whole)
    expected = load_or_refuse(path).params

    @fuzz.seeded(150)
    @given(fuzz.damage(len(whole)))
    def check(damage):
        path.write_bytes(damage(whole))
        loaded = load_or_refuse(path)
        if loaded is not None and not name.endswith(".safetensors"):
            for key, array in loaded.params.items():
                np.testing.assert_array_equal(array, expected[key], err_msg=key)

    check()


def repacked(whole: bytes, edit) -> bytes:
    """A zip archive whose members `edit(name, bytes)` changed, with checksums that fit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as before, zipfile.ZipFile(buffer, "w") as after:
        for name in before.namelist():
            after.writestr(name, edit(name, before.read(name)))
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "ending"), [("vit.npz", "cls.npy"), ("timesformer.pyth", "data.pkl")])
def test_damage_that_the_checksums_do_not_show(name, ending, tmp_path):
    whole, path = WHOLE[name](), tmp_path / name
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        size = next(info.file_size for info in archive.infolist() if info.filename.endswith(ending))

    @fuzz.seeded(150)
    @given(fuzz.damage(size))
    def check(damage):
        path.write_bytes(repacked(whole, lambda name, data: damage(data) if name.endswith(ending) else data))
        load_or_refuse(path)

    check()


OPCODES = sorted(getattr(pickle, name) for name in pickle.__all__ if isinstance(getattr(pickle, name), bytes))


@fuzz.seeded(300)
@given(st.lists(st.tuples(st.sampled_from(OPCODES), st.binary(max_size=9)), max_size=12))
def test_any_pickle(tmp_path, program):
    pickled = b"\x80\x04" + b"".join(opcode + argument for opcode, argument in program) + b"."
    load_or_refuse(known.torch_archive(tmp_path / "model.pyth", pickled))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=6,
)
KEYS = ["id2label", "label_names", "hidden_act", "num_attention_heads", "pretrained_cfg", "qkv_bias"]


@fuzz.seeded(100)
@given(st.dictionaries(st.sampled_from(KEYS), JSON) | JSON)
def test_any_config_beside_the_weights(tmp_path, config):
    (tmp_path / "model.safetensors").write_bytes(WHOLE["model.safetensors"]())
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_or_refuse(tmp_path / "model.safetensors")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "\x00", '{"id2label": 5'])
def test_hostile_json(tmp_path, text):
    (tmp_path / "model.safetensors").write_bytes(WHOLE["model.safetensors"]())
    (tmp_path / "config.json").write_text(text)
    assert load_or_refuse(tmp_path / "model.safetensors") is None


PARTS = st.sampled_from(
    ["_orig_mod", "module", "model", "teacher", "student", "ema", "backbone", "head", "blocks", "0"]
)


@fuzz.seeded(150)
@given(st.lists(st.lists(PARTS, max_size=3), min_size=1, max_size=2))
def test_any_wrapping(tmp_path, wrappings):
    """What is loaded from one copy or two is the model, or the file is refused in one line."""
    tensors = known.timm_tensors()
    wrapped = {".".join([*parts, name]): array for parts in wrappings for name, array in tensors.items()}
    known.save(tmp_path / "model.safetensors", wrapped)
    loaded = load_or_refuse(tmp_path / "model.safetensors")
    assert loaded is not None or len(wrappings) > 1
    if loaded is not None:
        np.testing.assert_array_equal(loaded.params["backbone/cls_token"], tensors["cls_token"])
