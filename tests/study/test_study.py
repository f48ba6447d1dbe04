"""A study: which runs it has, what the table makes of them, and that no run is done twice."""

import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from flax import traverse_util

from configs.studies import common, demo, digits, real, regime, ucf101
from cover_jax import errors
from cover_jax.errors import ConfigError
from cover_jax.models import flops
from cover_jax.study import design, execute, plots, results, summary, table
from tests.helpers import tiny_study
from tests.helpers.jobs import saved_steps

WORKDIR = pathlib.Path("/none")


def result(setting, seed, draw, hits, curve=((2, 0.5),)):
    """Results of a run on `images`, as results.py writes them."""
    top1 = hits.count("1") / len(hits)
    of_images = {"hits": hits, "validated_on": "a", "curves": list(curve), "top1": top1}
    of_datasets = {key: {"images": value} for key, value in of_images.items()}
    versions = {"python": "3.11.7", "jax": "0.10.2"}
    return {"setting": setting, "seed": seed, "draw": draw, "seconds": 1.0, "versions": versions, **of_datasets}


# Which runs


def test_each_replicate_has_a_run_of_each_setting_on_its_draw_from_its_seed():
    runs = design.runs(tiny_study.get_config(), WORKDIR)
    assert [(r.setting, r.seed, r.draw) for r in runs] == [
        (setting, seed, draw) for seed, draw in ((3, 1), (4, 2)) for setting in ("start", "after", "other")
    ]
    after = runs[4]
    assert after.config.seed == 4
    assert after.config.steps == 4
    assert after.config.datasets.images.train_split == "train[32:48]"
    assert after.start == runs[3].folder
    assert after.config.model.init_from == str(runs[3].folder)
    assert len({run.folder for run in runs}) == 6
    assert [run.config.optimizer.name for run in runs[3:]] == ["adamw", "adamw", "sgd"]


def test_quick_has_its_settings_and_those_that_they_start_from():
    quick = design.runs(design.quick(tiny_study.get_config()), WORKDIR)
    assert [(run.setting, run.seed) for run in quick] == [("start", 3), ("after", 3)]


def test_a_study_without_quick_settings_has_nothing_quick():
    with pytest.raises(ConfigError, match="--quick: quick_settings has none of start, other"):
        design.quick(design.only(tiny_study.get_config(), ["other", "start"]))


def test_settings_that_are_asked_for_and_those_that_they_start_from():
    study = design.only(tiny_study.get_config(), ["after"])
    assert [run.setting for run in design.runs(study, WORKDIR)] == ["start", "after"] * 2
    study = design.only(digits.get_config(), ["joint", "appearance"])
    assert {run.setting for run in design.runs(study, WORKDIR)} == {"start", "appearance", "joint"}
    assert study.differences.to_dict() == {"joint": ("appearance",)}
    with pytest.raises(ConfigError, match="there is no join; there are start, "):
        design.only(digits.get_config(), ["join"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(seeds=(0,)), "seeds=(0,), draws=(1, 2): must be equally many"),
        (lambda s: s.update(seeds=(0, 0), draws=(1, 1)), "two replicates are the same"),
        (lambda s: s.settings.after.update(start="other"), "settings.after.start='other': must be a setting before it"),
        (lambda s: s.settings.after.update(datasets=("clips",)), "settings.after.datasets: clips not in run.datasets"),
        (lambda s: s.settings.after.update(step=1), "settings.after.step: unknown or missing"),
        (lambda s: s.settings.after.changes.update(model={"size": 8}), "did you mean config.model.size_px?"),
        (lambda s: s.settings.after.update(steps=0), "settings.after: config.steps=0: must be greater than 0"),
        (lambda s: s.update(quick_settings=("slow",)), "quick_settings: no setting is called 'slow'"),
        (lambda s: s.update(quick_replicates=0), "quick_replicates=0: must be at least 1"),
        (lambda s: s.differences.update(later=("start",)), "differences: no setting is called 'later'"),
        (lambda s: s.differences.update(after=("begin",)), "differences.after: no setting is called 'begin'"),
        (lambda s: s.examples_per_draw.update(clips=3), "examples_per_draw.clips: not in run.datasets: images"),
        (
            lambda s: s.settings.after.changes.update(datasets={"clips": {}}),
            "settings.after.changes.datasets: clips not in settings.after.datasets",
        ),
        (lambda s: s.examples_per_draw.__delitem__("images"), "examples_per_draw.images: missing"),
        (lambda s: s.update(replicates=3), "replicates: unknown"),
        (lambda s: s.settings.after.update(label="the start"), "after.label='the start': settings.start has it, in"),
        (lambda s: s.settings.other.update(changes={"steps": "2"}), "settings.other.changes: "),
    ],
)
def test_a_study_that_cannot_be(change, message):
    study = tiny_study.get_config()
    change(study)
    with pytest.raises(ConfigError, match=re.escape(message)):
        design.runs(study, WORKDIR)


def test_a_draw_may_be_what_another_dataset_leaves_out():
    study = tiny_study.get_config()
    study.run.datasets.rest = study.run.datasets.images.copy_and_resolve_references()
    study.examples_per_draw.rest, study.left_out_per_draw = 0, {"rest": 16}
    study.draws = (0, 2)
    study.settings.both = common.setting("both", ("images", "rest"), 4)
    splits = [run.config.datasets.rest.train_split for run in design.runs(study, WORKDIR) if run.setting == "both"]
    assert splits == ["train[16:]", "train[48:]+train[:32]"]
    study.left_out_per_draw.rest = 8
    overlap = "settings.both, draw 0: train[0:16] of images overlaps train[8:] of rest, both of "
    with pytest.raises(ConfigError, match=re.escape(overlap)):
        design.runs(study, WORKDIR)
    study.examples_per_draw.rest = 16
    with pytest.raises(ConfigError, match=r"left_out_per_draw.rest: examples_per_draw.rest must be 0"):
        design.check(study)
    study.left_out_per_draw = {"missing": 16}
    with pytest.raises(ConfigError, match=r"left_out_per_draw.missing: not in run.datasets: images, rest"):
        design.check(study)


# The published studies


PUBLISHED = {
    "demo": demo.get_config(), "demo:few": demo.get_config("few"), "digits": digits.get_config(),
    "real:cpu": real.get_config("cpu"), "real:gpu": real.get_config("gpu"), "regime": regime.get_config(),
    "ucf101": ucf101.get_config(), "ucf101:vit": ucf101.get_config("vit"),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_study_is_valid_and_leaves_out_the_draw_that_settings_were_chosen_on(name):
    config = PUBLISHED[name]
    assert design.runs(config, WORKDIR) and design.runs(design.quick(config), WORKDIR)
    assert (set(config.draws) == {0}) if name == "regime" else (0 not in config.draws)


CHANGED = {
    "": set(),
    "time_embed": {"model.time_embed_std"},
    "temporal": {"model.temporal_init"},
    "temporal_time_embed": {"model.time_embed_std", "model.temporal_init"},
    "width": {"model.variant"},
    "frames": {"model.num_frames", "datasets.appearance.num_frames", "datasets.motion.num_frames"},
    "clips_half": {"datasets.appearance.train_split", "datasets.motion.train_split"},
    "clips_twice": {"datasets.appearance.train_split", "datasets.motion.train_split"},
    "steps_half": {"steps"},
    "steps_twice": {"steps"},
    "batch_half": {"datasets.images.batch_size"},
    "batch_twice": {"datasets.images.batch_size"},
    "motion_weight": {"datasets.motion.loss_weight"},
    "images_weight": {"datasets.images.loss_weight"},
    "interleave": {"plan", "steps"},
}


def test_the_regime_changes_one_thing_of_the_digits_at_a_time():
    study = regime.get_config()
    runs = {run.setting: run for run in design.runs(study, WORKDIR)[: len(study.settings)]}
    assert CHANGED.keys() == regime.CHANGES.keys()
    for name, change in regime.CHANGES.items():
        found = set()
        for setting in change.concerns:
            run = runs[regime.key(setting, name)]
            found |= unlike(run.config, runs[setting].config)
            assert run.start.parent.name == (f"start_{name}" if change.model else "start")
        assert found == CHANGED[name], name


def test_the_regime_begins_with_settings_of_the_digits():
    published, study = design.runs(digits.get_config(), WORKDIR), regime.get_config()
    for run in design.runs(study, WORKDIR)[: len(regime.SETTINGS) + 1]:
        (other,) = (one.config for one in published if (one.setting, one.seed) == (run.setting, run.seed))
        of_the_draw = {f"datasets.{name}.train_split" for name in ("appearance", "motion")}
        assert unlike(run.config, other) <= of_the_draw, run


def unlike(one, other) -> set[str]:
    """The keys in which two configs differ, but for where they begin."""
    ours, theirs = (traverse_util.flatten_dict(config.to_dict(), sep=".") for config in (one, other))
    return {name for name in set(ours) | set(theirs) if ours.get(name) != theirs.get(name)} - {"model.init_from"}


@pytest.mark.parametrize("name", ["demo:few", "digits"])
def test_clips_of_the_same_kind_are_in_none_of_the_draws(name):
    config = PUBLISHED[name]
    related = config.run.datasets.related
    (kind,) = [one for one, dataset in config.run.datasets.items()
               if one != "related" and dataset.builder == related.builder]  # fmt: skip
    first, examples = int(re.fullmatch(r"train\[(\d+):\]", related.train_split)[1]), config.examples_per_draw[kind]
    assert examples > 0 and first >= examples * (1 + max(config.draws))


def test_a_draw_that_has_clips_of_another_dataset_of_the_run_is_refused():
    study = digits.get_config()
    study.draws = (1, 2, 3, 4, 6)
    overlap = r"settings.related, draw 6: train\[360:420\] of appearance overlaps train\[360:\] of related, both of di"
    with pytest.raises(ConfigError, match=overlap):
        design.runs(study, WORKDIR)


def test_settings_without_a_dataset_in_common_have_no_difference():
    study = digits.get_config()
    study.differences.motion = ("appearance",)
    with pytest.raises(ConfigError, match=r"differences.motion: 'appearance' has none of its datasets"):
        design.runs(study, WORKDIR)


def test_a_study_of_another_name_is_refused():
    for study in (demo, real, ucf101):
        with pytest.raises(ValueError, match=r"\.py:all_of_it: 'all_of_it' must be one of "):
            study.get_config("all_of_it")


def test_controls_of_the_digits_are_equal_in_what_they_control_for():
    runs = {run.setting: run.config for run in design.runs(digits.get_config(), WORKDIR)[: len(digits.settings())]}

    for target, setting in {"appearance": "joint", "motion": "joint", "related": "related"}.items():
        assert 1 <= work(runs[f"{target}_compute"]) / work(runs[f"{setting}_images"]) < 1.05
    for name, config in runs.items():
        if not name.startswith("start") and not name.endswith("_compute"):
            assert config.plan == "joint" and config.steps == runs["appearance"].steps, name
    images = {name: config.steps for name, config in runs.items() if "images" in config.datasets}
    assert images["start_longer"] == images["appearance_images"] == images["related_images"]
    longer = {name for name, config in runs.items() if "start_longer" in config.model.init_from}
    assert longer == {"appearance_exposure", "related_exposure"}
    batch_sizes = {config.datasets.images.batch_size for config in runs.values() if "images" in config.datasets}
    assert len(batch_sizes) == 1


def test_controls_of_the_few_clips_are_equal_in_what_they_control_for():
    study = demo.get_config("few")
    runs = {run.setting: run for run in design.runs(study, WORKDIR)[: len(study.settings)]}
    assert 1 <= work(runs["joint_compute"].config) / work(runs["demo"].config) < 1.05
    images = {name: run.config.steps for name, run in runs.items() if "images" in run.config.datasets}
    assert images["images"] == images["demo"] == images["appearance_images"]
    for name in ("joint_exposure", "appearance_exposure"):
        assert runs[name].start == runs["images"].folder
        assert runs[name].config.steps == runs[name.removesuffix("_exposure")].config.steps


@pytest.mark.parametrize("size", ["scratch", "vit"])
def test_on_ucf101_no_group_of_a_draw_is_in_what_it_is_trained_with(size):
    """A group has PER_GROUP examples of each of these datasets, one after another."""
    runs = design.runs(ucf101.get_config(size), WORKDIR)
    found = {(run.setting, run.draw): groups_of(run.config) for run in runs}
    for draw in range(1, 6):
        drawn = set(range(3 * draw, 3 * draw + 3))
        of_settings = {setting: groups for (setting, other), groups in found.items() if other == draw}
        assert of_settings[ucf101.CLIPS] == {ucf101.CLIPS: drawn}
        assert of_settings["more"] == {ucf101.CLIPS: set(range(18))}
        for setting, groups in of_settings.items():
            assert setting == "more" or groups.pop(ucf101.CLIPS, drawn) == drawn
            assert setting == "more" or all(groups[name] == set(range(18)) - drawn for name in groups)


def groups_of(config) -> dict[str, set[int]]:
    """Dataset -> the training groups, of 18, that it is trained on."""
    found = {}
    for name in config.datasets.keys() & ucf101.PER_GROUP.keys():
        examples = range(18 * ucf101.PER_GROUP[name])
        parts = re.findall(r"train(?:\[(\d*):(\d*)\])?", config.datasets[name].train_split)
        slices = [examples[int(a or 0) : int(b) if b else None] for a, b in parts]
        found[name] = {i // ucf101.PER_GROUP[name] for part in slices for i in part}
    return found


def test_controls_of_ucf101_are_equal_in_what_they_control_for():
    runs = {run.setting: run.config for run in design.runs(ucf101.get_config(), WORKDIR)}
    assert 1 <= work(runs["clips_compute"]) / work(runs["all"]) < 1.05
    assert runs["clips_frames"].steps == runs["clips_unrelated"].steps == runs["start"].steps == runs["clips"].steps
    batches = {name: config.datasets for name, config in runs.items()}
    assert batches["clips_frames"].frames.batch_size == batches["clips_unrelated"].unrelated.batch_size


def work(config) -> float:
    """Of all steps of a run."""
    return config.steps * sum(flops.train_step(config, dataset) for dataset in config.datasets)


# Table


def test_means_and_paired_differences_by_hand():
    study = tiny_study.get_config()
    found = [result("start", 3, 1, "1010"), result("start", 4, 2, "1110"), result("start", 5, 3, "0000")]
    found += [result("after", 4, 2, "1111"), result("after", 3, 1, "1110")]
    start, after = table.tables(study, found)["images"]
    assert (start.setting, start.label, start.differences) == ("start", "the start", {})
    assert after.top1.value == pytest.approx(7 / 8)
    # Over replicates .75 and 1: an eighth. Over examples 1, 1, 1, .5: .25 / 2, an eighth as well. The rest, six times
    # 1/8 and twice 3/8 with 3 degrees of freedom, is an eighth too, and in both of them.
    assert after.top1.error == pytest.approx(1 / 8)
    assert after.top1.degrees == pytest.approx(1 / (1 + 1 / 3 + 1 / 3))
    # "1110" - "1010" and "1111" - "1110": 0100 and 0001. Seed 5 has no partner.
    difference = after.differences["start"]
    assert difference.value == pytest.approx(0.25) and difference.count == 2
    assert difference.error == pytest.approx(math.hypot(0, math.sqrt(1 / 12) / 2))  # over examples 0, .5, 0, .5
    text = table.markdown(study, {"images": [start, after]}, {"images": 4})
    assert "images, 4 validation examples:" in text
    assert re.search(r"\| from it +\| +2 \| +87.5 ± 12.5 \|", text)
    assert re.search(r"\| from it +\| the start +\| +2 \| +\+25.0 ± 14.4 \|", text)


def test_a_difference_is_clear_outside_student_s_interval():
    assert table.Mean(0.05, 0.01, 3, 2).is_clear  # t is 4.303 with two degrees of freedom
    assert not table.Mean(0.04, 0.01, 3, 2).is_clear
    assert not table.Mean(-0.27, 0.1, 5, 4).is_clear  # 2.776 with four
    assert table.Mean(-0.28, 0.1, 5, 4).is_clear


def test_how_many_replicates_show_a_difference():
    """Twice the error takes a quarter of the squares, of which the examples' part stays."""
    of = table.Mean(0.02, 0.05, 5, 4, of_examples=0.0)
    assert (of.replicates_for(0.1), of.replicates_for(0.05), of.replicates_for(0.025)) == (5, 20, 80)
    of = table.Mean(0.02, 0.05, 5, 4, of_examples=0.04**2)
    assert of.replicates_for(0.1) == 5 and of.replicates_for(0.09) == 11  # 5 x .0009 / .000425
    assert of.replicates_for(0.08) is None  # half of it is the examples' part


def test_unclear_differences_say_what_5_points_would_take():
    study = tiny_study.get_config()
    right, wrong = "1" * 40, "0" * 40
    found = [result("start", seed, 1, right if seed % 2 else wrong) for seed in range(4)]
    found += [result("after", seed, 1, wrong if seed % 2 else right) for seed in range(4)]
    of_datasets = table.tables(study, found)
    (line,) = table.power_lines(study, of_datasets)
    needed = of_datasets["images"][1].differences["start"].replicates_for(0.05)
    assert line == f"images: from it, minus the start: 5 points at two standard errors takes {needed} replicates"
    assert not table.power_lines(study, table.tables(study, found[:2]))  # too few replicates to tell


@pytest.mark.parametrize("spread", [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0.3, 0.3, 1), (1, 1, 1)])
def test_where_there_is_no_difference_about_one_of_twenty_is_called_clear(spread):
    """Whatever varies: replicates, examples (as much as their means do), or what is left."""
    of_replicates, of_examples, of_rest = spread
    random, clear, trials = np.random.default_rng(0), 0, 1000
    for _ in range(trials):
        values = of_replicates * random.normal(size=(5, 1)) / np.sqrt(60)
        values = values + of_examples * random.normal(size=(1, 60)) / np.sqrt(5)
        clear += table.mean_of(values + of_rest * random.normal(size=(5, 60))).is_clear
    assert 0.01 < clear / trials < 0.065


def test_replicates_that_agree_have_the_error_of_the_examples():
    """Their own agreement may be chance, and a table that calls +0.3 ± 0.0 clear would be read as evidence."""
    same = table.mean_of(np.array([[1, 0, 0, 0]] * 5))
    assert same.value == 0.25 and same.error == pytest.approx(0.25) and not same.is_clear


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_replicates_are_never_clear(count):
    of = table.mean_of(np.ones((count, 4)))
    assert of.error == 0 and not of.is_clear


def test_settings_that_are_validated_on_other_examples_are_not_compared():
    found = [result("start", 3, 1, "10"), result("after", 3, 1, "11") | {"validated_on": {"images": "b"}}]
    with pytest.raises(ConfigError, match="settings.after: validates images on other examples"):
        table.tables(tiny_study.get_config(), found)


def test_curves_are_means_at_each_step():
    curves = plots.means_by_step(
        [result("start", 3, 1, "0", [(2, 0.1), (4, 0.3)]), result("start", 4, 2, "0", [(2, 0.2)])], "images"
    )
    assert [(step, of.value, of.count) for step, of in curves["start"]] == [
        (2, pytest.approx(0.15), 2), (4, pytest.approx(0.3), 1)
    ]  # fmt: skip


def test_plots_name_settings_and_datasets(tmp_path):
    found = [result("start", 3, 1, "0101"), result("start", 4, 2, "0111"), result("after", 3, 1, "1111")]
    summary.write(tiny_study.get_config(), found, tmp_path, "part_")
    for name in ("part_accuracy.svg", "part_curves.svg"):
        drawn = (tmp_path / name).read_text()
        assert drawn.startswith("<svg xmlns=") and "the start" in drawn and "images: validation" in drawn
    assert (tmp_path / "part_table.md").read_text().endswith("\n\n3 runs with python 3.11.7, jax 0.10.2\n")
    rows = json.loads((tmp_path / "part_table.json").read_text())["images"]
    assert rows[0]["top1"]["value"] == pytest.approx(5 / 8)


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_two_curves_of_a_panel_look_the_same(name):
    study = PUBLISHED[name]
    every = {setting: [(2, table.Mean(0.5, 0.1, 2, 1))] for setting in study.settings}
    drawn = plots.learning_curves(study, {"images": every})
    looks = re.findall(r'<polyline (stroke=[^>]*) points="\d+,\d+ \d+,\d+"/>', drawn)  # in the legend
    assert len(set(looks)) == len(looks) == len(study.settings)


# Resuming


def save_results(run, **changes):
    run.folder.mkdir(parents=True)
    found = result(run.setting, run.seed, run.draw, "01") | {"config": json.loads(run.config.to_json())}
    (run.folder / results.FILE).write_text(json.dumps(found | changes))


def test_a_run_with_results_is_not_repeated(tmp_path, monkeypatch):
    runs = design.runs(tiny_study.get_config(), tmp_path)
    save_results(runs[0])
    save_results(runs[2])
    trained = []

    def train(missing, workdir, workers):
        for run in missing:
            trained.append(run)
            save_results(run)
            yield run

    monkeypatch.setattr(execute, "all_of", train)
    assert len(execute.results_of(runs, tmp_path, workers=1)) == 6
    assert trained == [runs[1], *runs[3:]]


def test_a_study_s_folder_may_be_moved(tmp_path):
    run = design.runs(tiny_study.get_config(), tmp_path / "before")[1]
    save_results(run)
    (tmp_path / "before").rename(tmp_path / "after")
    moved = design.runs(tiny_study.get_config(), tmp_path / "after")[1]
    assert results.load(moved)["hits"] == {"images": "01"}
    moved.config.model.init_from = str(tmp_path / "after" / "runs" / "other" / "seed3_draw1")
    with pytest.raises(ConfigError, match="config.model.init_from='runs/start/seed3_draw1', not 'runs/oth"):
        results.load(moved)


def test_results_of_another_config_are_refused(tmp_path):
    run = design.runs(tiny_study.get_config(), tmp_path)[0]
    save_results(run, config=json.loads(run.config.to_json()) | {"steps": 77})
    with pytest.raises(ConfigError, match=r"results.json: was made with config.steps=77, not 2; use anoth"):
        results.load(run)


def start_study(folder, *flags):
    command = [
        sys.executable, "-m", "cover_jax.study", "--config=tests/helpers/tiny_study.py",
        f"--workdir={folder / 'study'}", "--quick", "--workers=1", f"--config.run.data_dir={folder / 'data'}", *flags,
    ]  # fmt: skip
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.mark.slow
def test_the_command_killed_and_continued(tmp_path):
    """Killed in the midst of a run, it leaves no process that the next start would find at work."""
    after = tmp_path / "study/runs/after/seed3_draw1"
    endless = start_study(tmp_path, "--config.settings.after.steps=100000")
    while not saved_steps(after):
        assert endless.poll() is None, endless.communicate()[1]
        time.sleep(0.1)
    endless.kill()
    endless.communicate(timeout=60)  # its output ends when the last process that holds it does
    assert (tmp_path / "study/runs/start/seed3_draw1" / results.FILE).exists()

    changed = start_study(tmp_path)
    assert "was made with config.steps=100000, not 4; use another --workdir" in changed.communicate()[1]
    assert changed.returncode == errors.CONFIG
    shutil.rmtree(after)

    first = start_study(tmp_path)
    printed, said = first.communicate()
    assert first.returncode == 0, said
    assert "2 runs, 1 of them done before" in printed and re.search(r"\| from it +\| +1 \|", printed)
    assert "initialised from" in read(after / execute.LOG)
    before = json.loads(read(after / results.FILE))
    assert [step for step, _ in before["curves"]["images"]] == [2, 4]
    (after / results.FILE).unlink()  # as if it had been killed after its last checkpoint
    again = start_study(tmp_path)
    assert again.communicate() and again.returncode == 0
    assert "all steps are trained" in read(after / execute.LOG)
    assert json.loads(read(after / results.FILE))["hits"] == before["hits"]


def read(path):
    return path.read_text() if path.exists() else ""
