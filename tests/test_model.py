"""`cover_jax.load`, and the programs of its page, as they stand there."""

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import cover_jax
from cover_jax.models import cover, variants
from tests.data_pipelines.clips import write_clip

ROOT = pathlib.Path(__file__).parent.parent
FAMILIES = ROOT / "tests" / "models" / "golden" / "families"
GOLDEN = ROOT / "tests" / "models" / "golden" / "pretrained" / "hf_timesformer"


@pytest.fixture(autouse=True)
def golden_variant(monkeypatch):
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))


def frames(count=3, height=12, width=24):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def test_features_are_what_the_head_reads_and_attention_sums_to_less_than_one():
    model = cover_jax.load(str(GOLDEN), eval_crops=1)
    (features_D,) = model.features([frames()])
    head = model.trained.params["heads"]["classifier"]
    (prediction,) = model.predict([frames()])
    probabilities = jax.nn.softmax(features_D @ head["kernel"] + head["bias"])
    np.testing.assert_allclose(prediction["classifier"].probabilities, probabilities, atol=1e-5, rtol=0)
    shares_KThw = model.attention(frames())
    assert shares_KThw.shape == (1, 3, 3, 3)
    assert (shares_KThw > 0).all() and 0.1 < shares_KThw.sum() < 1


def test_a_backbone_without_a_classifier_has_features():
    backbone = cover_jax.load(str(GOLDEN.parent / "hf_dinov2"), backbone_only=True)
    assert backbone.class_names == {}
    side_px = backbone.trained.config.model.size_px
    picture = frames(1, side_px, side_px)
    config = backbone.trained.config.model
    normalised = (picture[None] / 255 - config.pixel_mean) / config.pixel_std
    expected = jax.jit(cover.functional(config, {}).features)(backbone.trained.params, normalised.astype(np.float32))
    np.testing.assert_allclose(backbone.features([picture]), expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="pool='mean': must be one of cls, patches"):
        backbone.features([picture], pool="mean")


def test_registers_are_no_patches(monkeypatch):
    monkeypatch.setitem(variants.SIZES, "tiny", (16, 2, 2, 32))
    backbone = cover_jax.load(str(FAMILIES / "hf_dinov2_registers"), backbone_only=True)
    config = backbone.trained.config.model
    rows = config.size_px // variants.parse(config.variant).patch_px
    shares_KThw = backbone.attention(frames(1, config.size_px, config.size_px))
    assert config.registers and shares_KThw.shape == (1, 1, rows, rows) and 0 < shares_KThw.sum() < 1


def test_one_clip_is_not_taken_for_several():
    model = cover_jax.load(str(GOLDEN))
    for clip in ("clip.mp4", frames()):
        with pytest.raises(ValueError, match="must be a list"):
            model.predict(clip)


def test_the_package_loads_nothing_before_it_is_used():
    program = "import sys, cover_jax; print(sorted({'jax', 'numpy', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
    assert {"Model", "load"} <= set(cover_jax.__all__)


@pytest.mark.slow
def test_the_programs_of_the_page_run(tmp_path, capsys):
    write_clip(tmp_path / "clip.mp4", 60, 4, num_frames=9)
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "cover_jax" / "PYTHON.md").read_text(), re.DOTALL)
    scope = {}
    for program in programs:
        program = program.replace("hf://facebook/timesformer-base-finetuned-k400", str(GOLDEN))
        exec(program.replace("clip.mp4", str(tmp_path / "clip.mp4")), scope)
    printed = capsys.readouterr().out
    assert "classifier" in printed
    losses = [float(line.rpartition(" ")[2]) for line in printed.splitlines() if line.startswith("loss")]
    assert len(losses) == 5 and losses[-1] < losses[0]
