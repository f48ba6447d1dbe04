"""config.input.leaks decides whether the run trains on what another of its datasets is validated on."""

import concurrent.futures
import json
import threading

import numpy as np
import pytest

from configs import demo
from cover_jax.checkpoint import compatibility, metadata
from cover_jax.training import inputs
from data_pipelines.builders import digits
from data_pipelines.leaks import kept, search
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
    found = kept.Leaks("appearance", "motion", {"origin": none, "file": LEAKING, "content": none}, 0, "")
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


def test_a_run_that_was_begun_with_copies_of_its_own_goes_on_with_them(splits, monkeypatch, capsys):
    none = np.zeros((0, 2), np.int64)
    own = kept.Leaks("motion", "motion", {"origin": none, "file": LEAKING, "content": none}, 0, "")
    monkeypatch.setattr(search, "find_leaks", lambda *args, **kwargs: [own])
    fresh, told = inputs.without_leaks(demo.get_config(), *splits)
    assert fresh["motion"].num_examples == 14
    line = "leaks: 3 validation examples of motion are also 2 of its own training examples (3 by file)"
    assert line in capsys.readouterr().out
    began = {"motion": {"fingerprint": splits[0]["motion"].fingerprint}}
    goes_on, _ = inputs.without_leaks(demo.get_config(), *splits, began)
    assert goes_on["motion"].fingerprint == splits[0]["motion"].fingerprint
    assert (
        "motion: trains without 0 examples that were found as leaks when the run began; 2 are found now; "
        "--config.allow_changed_mix=True leaves these out from here on" in capsys.readouterr().out
    )
    other, _ = inputs.without_leaks(
        demo.get_config(), *splits, {"motion": {"fingerprint": fresh["motion"].fingerprint}}
    )
    assert other["motion"].num_examples == 14


@pytest.mark.parametrize("allowed", [False, True])
def test_what_the_doctor_finds_beside_a_run_changes_nothing_in_it_unless_allowed(splits, allowed, monkeypatch, capsys):
    """The run began with copies found by their files; when it starts again, content has given more, and one less."""
    began = trained_on(splits, "exclude", monkeypatch)[0]
    meta = metadata.make_meta(demo.get_config(), {"motion": began}, {"motion": {}}, [])
    found_now = np.array([[0, 3], [5, 6], [6, 7]])
    none = np.zeros((0, 2), np.int64)
    now = kept.Leaks("motion", "motion", {"origin": none, "file": none, "content": found_now}, 0, "")
    monkeypatch.setattr(search, "find_leaks", lambda *args, **kwargs: [now])
    config = demo.get_config()
    config.allow_changed_mix = allowed
    goes_on = inputs.without_leaks(config, *splits, json.loads(json.dumps(meta["data"])))[0]["motion"]
    said = "motion: trains without 2 examples that were found as leaks when the run began; 3 are found now"
    assert (said in capsys.readouterr().out) == (not allowed)
    assert (goes_on.fingerprint == began.fingerprint) == (not allowed)
    assert goes_on.excluded.tolist() == ([3, 6, 7] if allowed else [3, 4])


def test_a_damaged_or_foreign_list_of_exclusions_is_not_used(splits, monkeypatch):
    """The data has become smaller, or all of it would be excluded: it is refused as changed data, not here."""
    monkeypatch.setattr(search, "find_leaks", lambda *args, **kwargs: [])
    for indices in ([99], range(16)):
        data = {"fingerprint": "other", "excluded_records": metadata._packed(np.array(indices))}
        left, _ = inputs.without_leaks(demo.get_config(), *splits, {"motion": data})
        assert left["motion"].num_examples == 16


def test_other_hosts_wait_for_the_first_host_without_a_collective(splits, monkeypatch, capsys):
    """The first host searches for as long as it takes. Each of its lines restarts the timeout on both hosts."""
    host, phases = threading.local(), []
    both = threading.Barrier(2, timeout=60)
    texts = {}

    def exchange(mine: str) -> list[str]:
        texts[host.index] = mine
        both.wait()
        every = [texts[0], texts[1]]
        both.wait()
        return every

    def find_leaks(train_splits, eval_splits, frames_features, load_facts, tell):
        assert host.index == 0
        tell("reading facts")
        tell("comparing")
        none = np.zeros((0, 2), np.int64)
        return [kept.Leaks("appearance", "motion", {"origin": none, "file": LEAKING, "content": none}, 0, "")]

    monkeypatch.setattr(search, "find_leaks", find_leaks)
    monkeypatch.setattr(inputs.jax, "process_index", lambda: host.index)
    monkeypatch.setattr(inputs.hosts, "exchange", exchange)
    monkeypatch.setattr(inputs.process, "enter_phase", lambda name, detail: phases.append((host.index, name, detail)))
    monkeypatch.setattr(inputs.multihost_utils, "assert_equal", lambda *_: None)

    def start(index: int):
        host.index = index
        return inputs.without_leaks(demo.get_config(), *splits)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        (first, told), (second, told_second) = pool.map(start, range(2))
    assert first["motion"].fingerprint == second["motion"].fingerprint != splits[0]["motion"].fingerprint
    assert told == told_second and told[0]["by_file"] == 3
    assert sorted(phases) == [
        (0, "start", "comparing"), (0, "start", "reading facts"),
        (1, "start", "the first host: comparing"), (1, "start", "the first host: reading facts"),
    ]  # fmt: skip
    assert "leaks: comparing\n" in capsys.readouterr().out
