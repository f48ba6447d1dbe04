"""The page of training clips: the code of training, one draw per clip, and what it leaves out is said."""

import pathlib
import shutil

import numpy as np
import pytest

from configs import common, datasets
from cover_jax.preprocess import model_input
from cover_jax.preview import __main__ as preview
from cover_jax.preview import page
from cover_jax.training import inputs

DATA = pathlib.Path(__file__).parents[1] / "golden" / "run" / "data"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = shutil.copytree(DATA, tmp_path_factory.mktemp("golden") / "data")  # indices may be written anew
    config = common.get_config()
    config.data_dir, config.model.size_px, config.model.variant = str(data), 16, "mu/8"
    config.datasets.stills = datasets.folder("image_folder/stills")
    config.datasets.stills.canvas_px, config.datasets.stills.augment.flip = (32, 48), "never"
    return config


@pytest.fixture(scope="module")
def batch(config):
    split, _ = inputs.open_dataset(config, "stills")
    return page._first_batch(page._without_mixing(config, 3), "stills", split), split.class_names


def seen(config, batch, **augment):
    dataset = config.datasets.stills.copy_and_resolve_references()
    dataset.augment.update({"crop": "none", "color_prob": 0.0, "randaugment_layers": 0, "erase_prob": 0.0} | augment)
    return page.seen_clips(batch[0], config.model, dataset, batch[1])["frames"]


def test_clips_are_seen_as_training_has_them(config, batch):
    plain = seen(config, batch)
    square = model_input.evaluate(batch[0], size_px=16, clips=1, crops=1, normalization=model_input.SHARES)
    np.testing.assert_allclose(plain, square, atol=1e-5)
    np.testing.assert_array_equal(seen(config, batch, mixup_alpha=0.8), plain)  # left out, and 3 clips are no pairs
    assert np.abs(seen(config, batch, erase_prob=1.0) - plain).max() > 0.1


def test_the_command(config, tmp_path, monkeypatch, capsys):
    config.datasets.stills.augment.mixup_alpha = 0.8
    monkeypatch.setattr(preview.cover_flags, "load", lambda _: config)
    out = tmp_path / "new" / "page.html"
    preview.main(["--config=stills", f"--out={out}", "--clips=3"])
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text()
    assert text.count("<img") == 6 and text.count("seen by the model") >= 3
    assert "Not shown: mixup, which training adds." in text
    with pytest.raises(SystemExit) as ended:
        preview.main(["--config=stills", "--clips=0"])
    assert ended.value.code == 43 and "--clips=0: must be positive" in capsys.readouterr().err
