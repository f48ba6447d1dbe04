"""A checkpoint says what it is of, and is refused where it does not fit."""

import copy

import jax
import numpy as np
import pytest

from cover_jax import errors
from cover_jax.checkpoint import __main__ as checkpoint
from cover_jax.checkpoint import compatibility, fingerprint, layout, restore, saver
from cover_jax.parallel import sharding
from tests.helpers import small

CONTENT = {"split": "train", "records": 9, "in_order": "o", "as_set": "s", "shards": "01234567", "settings": {}}
META = {
    "heads": {"a": ["run", "sit"], "b": ["x"]},
    "data": {"a": {"builder": "video_folder/a", "examples": 9, "fingerprint": "f"}},
    "config": {
        "seed": 0,
        "plan": "joint",
        "steps": 5,
        "allow_changed_mix": False,
        "datasets": {"a": {"batch_size": 8, "label_smoothing": 0.0, "weight": 1.0}},
    },
    "contents": {"a": {"train": CONTENT, "validation": CONTENT}},
    "versions": {"jax": "0.10.1"},
}


def changed(*path, value):
    meta = copy.deepcopy(META)
    parent = meta
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return meta


def test_the_same_run_is_accepted():
    assert compatibility.check_same_run(META, copy.deepcopy(META), "here") == []


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (changed("heads", "a", value=["sit", "run"]), "head a: class 0 is 'run' in the checkpoint, 'sit' now"),
        (changed("heads", "a", value=["run"]), "head a: 2 classes in the checkpoint, 1 now"),
        (changed("heads", value={"a": ["run", "sit"]}), "heads: a, b in the checkpoint, a now"),
        (changed("data", "a", "fingerprint", value="g"), "prepared data of video_folder/a has changed"),
        (
            changed("contents", "a", "train", value=CONTENT | {"in_order": "other"}),
            "dataset a: the prepared train data of video_folder/a has changed: the same records in another order",
        ),
        (
            changed("contents", "a", "validation", value=CONTENT | {"in_order": "p", "as_set": "q", "shards": "0" * 8}),
            "the prepared validation data of video_folder/a has changed: records with other content in shard 0",
        ),
        (changed("config", "seed", value=1), "config.seed: 0 in the checkpoint, 1 now"),
        (changed("config", "datasets", "a", "batch_size", value=4), "config.datasets.a.batch_size: 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_run_is_refused(meta, reason):
    with pytest.raises(compatibility.CheckpointMismatchError, match="start in an empty --workdir") as error:
        compatibility.check_same_run(META, meta, "here")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("now", "is_same"),
    [("verb:97,noun:300", True), ("verb:97:1, noun:300:1.0", True), ("noun:300, verb:97", False), ("", False),
     ("verb:97, noun:300:0.5", False)],
)  # fmt: skip
def test_the_heads_of_a_dataset_are_compared_by_what_they_mean(now, is_same):
    before, after = copy.deepcopy(META), copy.deepcopy(META)
    before["config"]["datasets"]["a"]["heads"], after["config"]["datasets"]["a"]["heads"] = "verb:97, noun:300", now
    if is_same:
        assert compatibility.check_same_run(before, after, "here") == []
        return
    with pytest.raises(compatibility.CheckpointMismatchError, match="config.datasets.a.heads: 'verb:97, noun:300' in"):
        compatibility.check_same_run(before, after, "here")


def of_mix(*heads, **config):
    """META with datasets a and others, and what is given here in its config."""
    meta = copy.deepcopy(META)
    meta["heads"] = {name: META["heads"].get(name, ["y"]) for name in heads}
    meta["config"]["datasets"] = {name: META["config"]["datasets"]["a"] for name in heads}
    meta["config"].update(config)
    return meta


def test_another_mix_is_refused_unless_it_is_asked_for():
    for now in (of_mix("a", "c"), of_mix("a", "b", plan="interleave")):
        allow = "allow the changed mix with --config.allow_changed_mix"
        with pytest.raises(compatibility.CheckpointMismatchError, match=allow):
            compatibility.check_same_run(of_mix("a", "b"), now, "here")
        now["config"]["allow_changed_mix"] = True
        assert compatibility.check_same_run(of_mix("a", "b"), now, "here")
    with pytest.raises(compatibility.CheckpointMismatchError) as error:
        compatibility.check_same_run(of_mix("a"), of_mix("a", "b", seed=1, allow_changed_mix=True), "here")
    assert str(error.value).splitlines()[1:] == ["config.seed: 0 in the checkpoint, 1 now"]


def test_what_a_dataset_that_stays_is_may_not_change_with_the_mix():
    now = of_mix("a", "b", allow_changed_mix=True)
    now["config"]["datasets"]["a"] = now["config"]["datasets"]["a"] | {"batch_size": 4, "weight": 2.0}
    now["heads"]["a"] = ["sit", "run"]
    with pytest.raises(compatibility.CheckpointMismatchError) as error:
        compatibility.check_same_run(of_mix("a"), now, "here")
    assert str(error.value).splitlines()[1:] == [
        "head a: class 0 is 'run' in the checkpoint, 'sit' now",
        "config.datasets.a.batch_size: 8 in the checkpoint, 4 now",
    ]


def test_a_key_that_is_newer_than_the_checkpoint_had_its_default():
    now = changed("config", "datasets", "a", value=META["config"]["datasets"]["a"] | {"weight_schedule": ""})
    assert compatibility.check_same_run(META, now, "here") == []
    now["config"]["datasets"]["a"]["weight_schedule"] = "3:2"
    with pytest.raises(compatibility.CheckpointMismatchError, match="with --config.allow_changed_mix") as error:
        compatibility.check_same_run(META, now, "here")
    line = "config.datasets.a.weight_schedule: '' in the checkpoint, '3:2' now"
    assert str(error.value).splitlines()[1:] == [line]
    now["config"]["allow_changed_mix"] = True
    assert line in compatibility.check_same_run(META, now, "here")


def test_other_data_is_accepted_by_name_if_it_is_asked_for():
    meta = changed("contents", "a", "train", value=CONTENT | {"in_order": "other"})
    with pytest.raises(compatibility.CheckpointMismatchError, match="with --config.allow_changed_mix"):
        compatibility.check_same_run(META, meta, "here")
    meta["config"]["allow_changed_mix"] = True
    assert "dataset a: the prepared train data of video_folder/a has changed: the same records in another order" in (
        compatibility.check_same_run(META, meta, "here")
    )


def test_the_records_of_another_split_are_not_compared():
    meta = changed("contents", "a", "validation", value=CONTENT | {"split": "test", "in_order": "other"})
    assert compatibility.check_same_run(META, meta, "here") == []


def test_the_data_of_checkpoints_without_checksums_cannot_be_checked():
    before = {key: value for key, value in META.items() if key != "contents"}
    assert compatibility.check_same_run(before, META, "here") == []
    assert compatibility.describe_unchecked(before).startswith("whether the records of a are those of before cannot be")
    assert compatibility.describe_unchecked(META) == ""


def test_other_versions_are_told():
    (line,) = compatibility.check_same_run(META, changed("versions", value={"jax": "0.10.2", "new": "1"}), "here")
    assert line.startswith("versions: jax 0.10.1 -> 0.10.2; numbers may differ in their last bits")


def test_a_renamed_checkpoint_is_refused_by_name_and_verify_finds_it(tmp_path, capsys):
    save(tmp_path, [0.2, 0.9])
    folder = tmp_path / "checkpoints"
    (folder / "2").rename(folder / "7")
    holds = f"{folder / '7'}: holds the state of another step than 7"
    for read in (lambda: restore.load_trained(str(tmp_path)), lambda: restore.newest(str(tmp_path))):
        with pytest.raises(restore.RenamedCheckpointError, match=holds):
            read()
    with pytest.raises(restore.RenamedCheckpointError, match=holds):
        restore.restore_newest(str(tmp_path), lambda saved: None, META, set_aside=True)
    with pytest.raises(SystemExit) as ended:
        checkpoint.main(["verify", f"--workdir={tmp_path}"])
    assert ended.value.code == errors.DAMAGED and holds in capsys.readouterr().out


def test_what_may_change_is_told():
    meta = changed("config", "datasets", "a", "label_smoothing", value=0.1)
    assert compatibility.check_same_run(META, meta, "here") == [
        "config.datasets.a.label_smoothing: 0.0 in the checkpoint, 0.1 now"
    ]


def save(folder, accuracies, ema_decay=0.9):
    """Checkpoints of a run, one for each accuracy; returns its trainer."""
    trainer = small.Trainer(small.config(optimizer__ema_decay=ema_decay))
    manager = saver.open_manager(str(folder), keep=1, best_metric="mean_top1", save_timeout_s=60)
    for accuracy in accuracies:
        trainer("video")
        saver.start_save(manager, trainer.state, META, None if accuracy is None else {"mean_top1": accuracy})
    manager.close()
    return trainer


def test_a_state_that_differs_between_hosts_is_not_saved(tmp_path, monkeypatch):
    exchange = saver.hosts.exchange

    def of_two_hosts(mine: str) -> list[str]:
        """The fingerprints of a second host differ; what else is exchanged does not."""
        return [mine, mine.replace('", ""]', 'f", ""]')] if mine.endswith('", ""]') else exchange(mine)

    monkeypatch.setattr(saver.hosts, "exchange", of_two_hosts)
    with pytest.raises(fingerprint.ReplicasDifferError, match=r"step 1 is not saved: .* of host 0 \(host 1\)"):
        save(tmp_path, [0.5])
    assert layout.saved_steps(str(tmp_path)) == []


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_every_leaf_comes_back_bit_for_bit_on_another_mesh(tmp_path, ema_decay):
    trainer = save(tmp_path, [0.5], ema_decay)
    other = small.Trainer(small.config(optimizer__ema_decay=ema_decay, mesh__fsdp=4, mesh__tensor=2, mesh__data=1))
    found, saved = restore.restore_newest(
        str(tmp_path), lambda saved: sharding.abstract(other.state, other.shardings), META, set_aside=False
    )
    assert {key: saved[key] for key in META} == META
    assert jax.tree.structure(found) == jax.tree.structure(trainer.state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(trainer.state))
    assert jax.tree.map(lambda x: x.sharding, found) == other.shardings


def test_latest_and_best_are_kept(tmp_path):
    save(tmp_path, [0.2, 0.9, 0.4, None])
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {2, 4}
