"""config.input.leaks decides whether the run trains on what another of its datasets is validated on."""

import numpy as np
import pytest

from configs import demo
from cover_jax.checkpoint import compatibility, metadata
from cover_jax.training import inputs
from data_pipelines.builders import digits
from data_pipelines.leaks import search
from data_pipelines.prepare import build
from data_pipelines.stream import records

LEAKING = np.array([[0, 3], [1, 3], [2, 4]])


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Training and validation splits of a small `digits/motion`, under two names."""
    data_dir = str(tmp_path_factory.mktemp("digits"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "CLIPS", {"motion": {"train": 16, "validation": 8}})
        build.prepare_if_self_contained("digits/motion", data_dir)
    opened = [records.open_split("digits/motion", split, data_dir) for split in ("train", "validation")]
    return [dict.fromkeys(("appearance", "motion"), split) for split in opened]


def trained_on(splits, mode: str, monkeypatch):
    """The training split of `motion`, and what the checkpoint says of leaks, where two of its clips leak."""
    none = np.zeros((0, 2), np.int64)
    found = search.Leaks("appearance", "motion", {"origin": none, "file": LEAKING, "content": none}, 0, "")
    monkeypatch.setattr(search, "find_leaks", lambda *args, **kwargs: [found])
    config = demo.get_config()
    config.input.leaks = mode
    left, told = inputs.without_leaks(config, *splits)
    assert left["appearance"] is splits[0]["appearance"]
    return left["motion"], told


def test_excluded_by_default():
    assert demo.get_config().input.leaks == "exclude"


@pytest.mark.parametrize(
    ("mode", "examples", "said"), [("exclude", 14, True), ("report", 16, True), ("ignore", 16, False)]
)
def test_each_mode(splits, mode, examples, said, monkeypatch, capsys):
    split, told = trained_on(splits, mode, monkeypatch)
    assert split.num_examples == examples
    line = "leaks: 3 validation examples of appearance are also 2 training examples of motion (3 by file)"
    assert (line in capsys.readouterr().out) == said
    assert [(leak["training_examples"], leak["by_file"]) for leak in told] == ([(2, 3)] if said else [])


def test_a_checkpoint_with_other_exclusions_is_refused(splits, monkeypatch):
    def meta(mode):
        left = {"motion": trained_on(splits, mode, monkeypatch)[0]}
        return metadata.make_meta(demo.get_config(), left, {"motion": {}}, [])

    assert not compatibility.check_same_run(meta("exclude"), meta("exclude"), "here")
    with pytest.raises(compatibility.CheckpointMismatchError) as error:
        compatibility.check_same_run(meta("exclude"), meta("report"), "here")
    assert (
        "14 training examples without 2 that are left out as leaks (config.input.leaks) in the checkpoint, 16"
        in str(error.value)
    )
