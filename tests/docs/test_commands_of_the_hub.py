"""The pages' commands that label a clip with a model of the hub, word for word: a small one on 127.0.0.1 instead."""

import json
import pathlib

import pytest

from cover_jax.models import variants
from cover_jax.predict import __main__ as predict
from tests.data_pipelines.clips import write_clip
from tests.docs import pages
from tests.helpers import fake_hub

pytestmark = pytest.mark.slow

GOLDEN = pathlib.Path(__file__).parents[1] / "models" / "golden" / "pretrained" / "hf_timesformer"
MODEL = "facebook/timesformer-base-finetuned-k400"


def commands() -> list[pages.Command]:
    """The `predict` commands that name the model, each once."""
    found = (one for page, text in pages.all_pages().items() for one in pages.commands(page, text))
    return list({one.words: one for one in found if f"--workdir=hf://{MODEL}" in one.words}.values())


@pytest.mark.parametrize("command", commands(), ids=lambda one: one.page)
def test_a_command_labels_a_clip_as_it_stands(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", 60, 4, num_frames=9)
    assert command.module == "cover_jax.predict"
    with fake_hub.serve() as hub:
        fake_hub.use(monkeypatch, hub.endpoint, str(tmp_path / "cache"))
        for path in GOLDEN.iterdir():
            hub.files[MODEL, path.name] = path.read_bytes()
        predict.main([*command.words[3:], "--format=json"])
    (said,) = json.loads(capsys.readouterr().out)["clip.mp4"].values()
    assert {one["class"] for one in said} == {"ash", "bob", "cup", "dip", "eel"}
