"""An exported model is pushed to the hub, here one on 127.0.0.1, and comes back; what the hub refuses is one line."""

import pathlib
import shutil

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

from cover_jax.export import __main__ as export
from cover_jax.models import variants
from cover_jax.published import load
from tests.helpers import fake_hub

GOLDEN = pathlib.Path(__file__).parents[1] / "models" / "golden" / "pretrained" / "hf_timesformer"
FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture(autouse=True)
def golden_variant(monkeypatch):
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with fake_hub.serve() as hub:
        fake_hub.use(monkeypatch, hub.endpoint, str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
        yield hub


def push(source, *flags):
    export.main([f"--workdir={source}", "--format=hugging_face", "--push_to=org/mine", *flags])


def test_a_pushed_model_is_private_without_local_paths_and_comes_back(hub, tmp_path, capsys):
    source = shutil.copytree(GOLDEN, tmp_path / "weights")
    push(source)
    assert capsys.readouterr().out == f"{hub.endpoint}/org/mine\n"
    assert hub.private == {"org/mine": True}
    assert {path for _, path in hub.files} == FILES
    for (_, path), data in hub.files.items():
        assert str(tmp_path).encode() not in data, path
    card = ModelCard(hub.files["org/mine", "README.md"].decode())
    assert card.data.pipeline_tag == "video-classification"
    assert "cover-jax has only converted it" in card.text and "## Data" not in card.text
    before, after = load.load(str(source)), load.load("hf://org/mine")
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    assert after.class_names == before.class_names
    assert after.dataset("classifier").eval_crops == before.dataset("classifier").eval_crops == 3
    push(source, "--public")
    assert hub.private == {"org/mine": False}


@pytest.mark.parametrize(
    ("token", "refusal", "message"),
    [
        ("", 0, "needs a token: `hf auth login`"),
        ("hf_wrong", 0, r"the hub does not accept the token \(401\)"),
        (fake_hub.TOKEN, 403, r"the token may not write there \(403\)"),
        (fake_hub.TOKEN, 404, r"the hub knows no such user or organisation \(404\)"),
    ],
)
def test_what_the_hub_refuses_is_one_line(token, refusal, message, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", token)
    hub.refusal = refusal
    with pytest.raises(SystemExit, match=rf"^error: --push_to=org/mine: {message}[^\n]*$") as ended:
        push(GOLDEN)
    assert ended.value.code == 43


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=hugging_face"], "--out: must be given, or --push_to"),
        (["--format=jax", "--push_to=org/mine"], "--push_to=org/mine: needs --format=hugging_face"),
        (["--format=hugging_face", "--out=x", "--public"], "--public: needs --push_to"),
        (["--format=hugging_face", "--push_to=mine"], "--push_to=mine: must be ORG/REPO"),
        (["--format=hugging_face", "--out=hf://org/mine"], "--out=hf://org/mine: must be a local path or gs://"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message):
    with pytest.raises(SystemExit, match=message):
        export.main([f"--workdir={GOLDEN}", *flags])
