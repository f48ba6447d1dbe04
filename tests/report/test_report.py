"""A run's page: what it shows, what it says where something is missing, and what a browser makes of it."""

import base64
import io
import json
import math
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from configs import common, datasets
from cover_jax.checkpoint import metadata, restore, saver
from cover_jax.config import checks
from cover_jax.evaluation import saved_predictions
from cover_jax.loggers import metric_writers
from cover_jax.report import __main__ as report
from cover_jax.report import chart, classes, curves
from cover_jax.report import page as report_page
from cover_jax.tasks import metrics
from cover_jax.training import train_step
from data_pipelines.leaks import facts
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import records
from tests.data_pipelines import clips
from tests.helpers import browser

EVIL = "<b>&cat"
NAMES = (EVIL, "dog", "fox", "owl")
LEVELS = (40, 100, 160, 220)  # grey of each class's clips and images
DATASETS = {"stored": "video_folder/stored", "files": "video_folder/files", "stills": "image_folder/stills"}
LEAK = {
    "validation": "stored", "training": "files", "validation_examples": 2, "training_examples": 3, "by_origin": 0,
    "by_file": 3, "by_content": 0, "other_moments": 0, "unchecked": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    """Clips stored as frames and as files, and images: for validation one of each class, in the order of NAMES."""
    folder = tmp_path_factory.mktemp("data")
    for name, level in zip(NAMES, LEVELS, strict=True):
        clips.write_clip(folder / "clips" / "validation" / name / f"{level}.mp4", level, num_frames=8)
        clips.write_clip(folder / "clips" / "train" / name / f"{level + 5}.mp4", level, num_frames=8)
        for split in ("train", "validation"):
            still = folder / "stills" / split / name / f"{level}.png"
            still.parent.mkdir(parents=True)
            Image.new("L", (40, 30), level).save(still)
    flags = [f"--data_dir={folder / 'prepared'}", "--workers=1"]
    prepare.main(["video_folder", "--name=stored", f"--source={folder / 'clips'}", *flags])
    prepare.main(["video_folder", "--name=files", f"--source={folder / 'clips'}", "--form=video", *flags])
    prepare.main(["image_folder", "--name=stills", f"--source={folder / 'stills'}", *flags])
    return str(folder / "prepared")


def make_config(data_dir: str, heads=DATASETS):
    config = common.get_config()
    config.data_dir, config.steps, config.model.variant = data_dir, 40, "mu/8"
    for name, builder in heads.items():
        config.datasets[name] = datasets.folder(builder)
    return config


def save_checkpoint(workdir, config, class_names) -> None:
    about = {"examples": 4, "excluded": 1, "fingerprint": "", "manifest": {"train": dict(
        listed=6, found=4, missing=2, refused=0, damaged=0)}}  # fmt: skip
    meta = {
        "heads": {name: list(class_names) for name in config.datasets},
        "data": {name: {"builder": dataset.builder, **about} for name, dataset in config.datasets.items()},
        "leaks": [LEAK],
        "history": {"rollbacks": [{"step": 12, "to_step": 10, "plan_steps": [10, 12], "reason": "a loss > 3 < 9"}]},
        "config": json.loads(config.to_json()),
        "versions": metadata.versions(),
    }
    counter = jnp.zeros((), jnp.int32)
    state = train_step.TrainState(counter + 40, {"kernel": jnp.ones(2)}, {}, {}, counter, counter)
    with saver.open_manager(str(workdir), 2, "mean_top1", 60) as manager:
        saver.start_save(manager, state, meta, {})


def say(label, top1, label_probability) -> metrics.Predictions:
    label, top1 = np.array(label), np.array(top1)
    sure = np.array(label_probability)
    return metrics.Predictions(np.arange(len(label)), label, top1, np.ones_like(label), sure, np.full(len(label), 0.75))


def save_evaluation(workdir, data_dir: str, name: str) -> None:
    """Of four examples all but the third are right; the third is the worst and the second the best."""
    split = records.open_split(DATASETS[name], "validation", data_dir)
    labels = [facts.load_facts(split)["label"][i] for i in range(4)]
    order = np.argsort(labels)  # index of each class's example
    label, top1 = np.arange(4)[labels], np.where(np.array(labels) == 2, 0, labels)
    sure = np.empty(4)
    sure[order] = [0.5, 0.9, 0.125, 0.6]
    saved_predictions.save(
        epath.Path(workdir), name, saved_predictions.SavedPredictions(say(label, top1, sure), 40, split.fingerprint)
    )


def write_curves(workdir) -> None:
    writer = metric_writers.SummaryWriter(str(workdir / "tensorboard"))
    for step in range(10, 50, 10):
        for name in DATASETS:
            writer.write_scalars(step, {f"train/{name}/loss": 50 / step, f"train/{name}/top1": step / 50})
        writer.write_scalars(step, {"train/learning_rate": 1e-3 * step})
        writer.write_images(step, {"input": np.zeros((1, 4, 4, 3))})
    for kind, value in (("top1", 0.75), ("loss", 0.85)):
        writer.write_scalars(40, {f"validation/{name}/{kind}": value for name in DATASETS})
    writer.close()


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder, make_config(data_dir), NAMES)
    for name in DATASETS:
        save_evaluation(folder, data_dir, name)
    write_curves(folder)
    return folder


@pytest.fixture(scope="module")
def page(workdir) -> str:
    report.main([f"--workdir={workdir}"])
    return (workdir / report.PAGE).read_text()


@pytest.fixture(scope="module")
def page_of_many(tmp_path_factory) -> str:
    """Of 600 classes with long names, whose data is not here."""
    folder, config = tmp_path_factory.mktemp("many"), common.get_config()
    config.datasets.k600 = datasets.kinetics(600)
    names = [f"doing something rather long-winded, number {i}" for i in range(600)]
    save_checkpoint(folder, config, names)
    rng = np.random.default_rng(0)
    label = rng.integers(1, 600, 20_000)  # none of class 0
    right = rng.random(len(label)) < label / 600
    predictions = say(label, np.where(right, label, (label + 7) % 600), right)
    saved_predictions.save(epath.Path(folder), "k600", saved_predictions.SavedPredictions(predictions, 40, "gone"))
    return report_page.render_run(str(folder), str(folder))


def test_the_page_stands_alone_and_escapes_names(page):
    assert EVIL not in page and "&lt;b&gt;&amp;cat" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page) and "<script" not in page and "url(" not in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["page", "page_of_many"])
def test_a_browser_shows_all_of_it_on_a_phone_and_a_desktop(which, scheme, request):
    for seen, width_px in zip(browser.look(request.getfixturevalue(which), scheme), browser.WIDTHS_PX, strict=True):
        assert (seen["width_px"], seen["overflow_px"], seen["dark"]) == (width_px, 0, scheme == "dark")
        assert seen["images"] == (12 if which == "page" else 1)  # as many as there are examples, or the matrix
        assert (seen["undecoded"], seen["without_alt"]) == (0, 0)
        assert seen["least_contrast"][0] >= 4.5, seen["least_contrast"]  # as WCAG's level AA asks for
        levels = [int(heading[1]) for heading in seen["headings"]]
        assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) == 1
        assert len(seen["charts"]) == (7 if which == "page" else 0) and all(seen["charts"])


def test_the_browser_sees_what_is_wrong():
    bad = (
        '<p style="width:2000px; color:#999">pale</p><img src="data:image/png;base64,AAAA">'
        "<script>console.error('said')</script>"
    )
    with pytest.raises(AssertionError, match="said"):
        browser.look(bad, "light")
    seen, _ = browser.look(bad.partition("<script>")[0], "light")
    assert seen["overflow_px"] > 1500 and seen["undecoded"] == 1 and seen["without_alt"] == 1
    assert seen["least_contrast"] == [pytest.approx(2.85, abs=0.01), "pale"]


@pytest.mark.parametrize("name", DATASETS)
def test_the_worst_and_best_examples_are_shown(page, name):
    section = page.partition(f">{name}</h2>")[2].partition("</section>")[0]
    worst, best = section.partition("Worst:")[2].split("Best:")
    for part, label, text in ((worst, 2, "<b>fox</b> 12.5%<br>taken for <b>&lt;b&gt;&amp;cat</b> 75.0%"),
                              (best, 1, "<b>dog</b> 90.0%")):  # fmt: skip
        jpeg, caption = re.search(r"base64,(.*?)\"><figcaption>(.*?)<br><span", part).groups()
        assert caption == text
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg))).convert("L"))
        assert abs(float(np.median(image)) - LEVELS[label]) < 6  # video codecs change grey a little
        assert image.shape[1] / image.shape[0] == pytest.approx(4 / 3 if name == "stills" else 4.5, rel=0.05)


def test_accuracies_confusions_data_and_config_are_told(page):
    assert page.count('<p class="value">75.0 <small>± 21.7%</small></p>') == 3 and "top-5" not in page
    assert "top-1 of 4 examples, 4 classes" in page and "chance 25.0%, loss 0.847; step 40" in page
    assert "± one standard error over validation examples" in page
    assert "<b>100.0 ± 43.3%</b>" in page  # 1 of 1
    assert page.count('"Loss: training from 5 at step 10 to 1.25 at step 40; validation from 0.85') == 3
    assert '<th scope="row">fox</th><td>&lt;b&gt;&amp;cat</td><td class="number">1</td>' in page
    assert "train 4 of 6 listed (2 missing)" in page
    assert "2 validation examples of stored are also 3 training examples of files (3 by file)" in page
    assert "leaks: 3 examples left out of training" in page
    row = r'<th scope="row">model.variant</th><td>&#34;mu/8&#34;</td><td>&#34;B/16&#34;</td>'
    assert page.index(row) < page.index("The whole config")
    assert "model.head</th>" not in page.partition("The whole config")[0]
    assert metadata.versions()["jax"] in page
    assert '<th scope="row">12</th><td>10</td><td>a loss &gt; 3 &lt; 9</td>' in page


def test_of_many_classes_the_worst_and_best_come_first(page_of_many):
    worst, best, everyone = (page_of_many.partition(title)[2] for title in ("Worst classes", "Best classes", "All 599"))
    first = [re.search(r'<th scope="row">.*?number (\d+)</th>', part)[1] for part in (worst, best, everyone)]
    assert int(first[0]) < 60 and int(first[1]) > 540 and int(first[2]) == 1
    assert worst.partition("</table>")[0].count("<tr>") == best.partition("</table>")[0].count("<tr>") == 16
    assert "No validation examples of 1 classes: doing something rather long-winded, number 0<" in page_of_many
    assert len(page_of_many) < 1_000_000


def test_the_columns_of_a_larger_matrix_have_the_numbers_of_its_rows():
    names = [f"class {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    section = classes.section(say([0, 1, 25], [0, 25, 25], [0.5] * 3), names)
    assert '<th scope="row" title="26 class z">26 class z</th>' in section
    assert '<th scope="col" title="26 class z">26</th>' in section
    assert re.search('title="class b as class z">1</td>', section) and "by the numbers of the rows" in section


def test_a_head_of_19167_classes_is_readable_and_small():
    """As of ImageNet-21k: one of a hundred of its 13.15 M images, and names of a wnid and words."""
    rng = np.random.default_rng(0)
    names = [f"n{i:08d} {'something with words, ' * (i % 3)}number {i}" for i in range(19_167)]
    label = rng.integers(0, 19_000, 131_000)
    top1 = np.where(rng.random(len(label)) < 0.4, label, rng.integers(0, 19_167, len(label)))
    section = classes.section(say(label, top1, rng.random(len(label))), names)
    assert len(section) < 2_500_000
    assert "Worst classes" in section and "Most confused pairs" in section and section.count("<tr>") < 60
    everyone = section.partition("All 18,")[2].partition("<pre>")[2].partition("</pre>")[0]
    seen, right = np.sum(label == 7), np.sum((label == 7) & (top1 == 7))
    assert f"{right / seen:6.1%} of {seen:<6} {names[7]}" in everyone.splitlines()
    assert re.search("No validation examples of [0-9]+ classes: n.* and [0-9]+ more", section)


def test_where_something_is_missing_the_page_says_so(workdir, data_dir, page_of_many, tmp_path):
    assert "No pictures: dataset &#39;kinetics/600&#39; is not prepared" in page_of_many
    assert "There are no curves" in page_of_many
    save_checkpoint(tmp_path, make_config(data_dir), NAMES)
    bare = report_page.render_run(str(tmp_path))
    assert "No evaluation yet of files, stills, stored: --mode=evaluate makes one." in bare
    found = saved_predictions.load(epath.Path(workdir), "stored")
    saved_predictions.save(
        epath.Path(tmp_path), "stored", saved_predictions.SavedPredictions(found.predictions, 30, "another")
    )
    changed = report_page.render_run(str(tmp_path))
    assert "No pictures: the prepared data of video_folder/stored has changed since" in changed
    assert "No evaluation yet of files, stills" in changed and "The newest checkpoint is of step 40." in changed


def test_errors_are_one_line(data_dir, tmp_path, capsys):
    with pytest.raises(SystemExit, match="error: .*: no checkpoints; is .* the --workdir of a run"):
        report.main([f"--workdir={tmp_path}"])
    save_checkpoint(tmp_path, make_config(data_dir), NAMES)
    (tmp_path / saved_predictions.FOLDER).mkdir()
    (tmp_path / saved_predictions.FOLDER / "files.npz").write_bytes(b"no archive")
    message = "error: .*files.npz is damaged: .*; run --mode=evaluate on its workdir to write it"
    with pytest.raises(SystemExit, match=message):
        report.main([f"--workdir={tmp_path}"])
    shutil.rmtree(tmp_path / "checkpoints" / "40" / "meta")
    with pytest.raises(SystemExit) as ended:
        report.main([f"--workdir={tmp_path}"])
    assert ended.value.code == restore.CheckpointDamagedError.exit_code
    assert "error: " in capsys.readouterr().err


def test_a_damaged_record_is_told_and_the_others_shown(workdir, data_dir, monkeypatch):
    def read(split, index, *_, original=facts.some_frames):
        if index == 0:
            raise facts.DAMAGE[0](None, None, "bad checksum")
        return original(split, index, *_)

    monkeypatch.setattr(facts, "some_frames", read)
    page = report_page.render_run(str(workdir), data_dir)
    assert page.count("cannot be read: DataLossError") == 3 and page.count("<img") == 9


def test_the_command(workdir, tmp_path):
    out = tmp_path / "new" / "page.html"
    command = [sys.executable, "-m", "cover_jax.report", f"--workdir={workdir}", f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert out.read_text().startswith("<!doctype html>")


def test_an_evaluation_is_kept_as_it_is(tmp_path):
    predictions = say([0, 2, 1], [0, 1, 1], [0.5, 0.25, 0.125])
    saved_predictions.save(epath.Path(tmp_path), "mine", saved_predictions.SavedPredictions(predictions, 7, "abc"))
    found = saved_predictions.load(epath.Path(tmp_path), "mine")
    assert (found.step, found.fingerprint) == (7, "abc")
    for field in ("index", "label", "top1", "hit5", "label_probability", "top1_probability"):
        np.testing.assert_array_equal(getattr(found.predictions, field), getattr(predictions, field))
    assert saved_predictions.load(epath.Path(tmp_path), "other") is None


def test_confused_pairs_by_hand():
    pairs = classes.confused_pairs(say([0, 0, 1, 2, 2, 2, 1], [0, 1, 0, 0, 1, 1, 1], [0] * 7))
    assert pairs == [classes.Pair(2, 1, 2), classes.Pair(0, 1, 1), classes.Pair(1, 0, 1), classes.Pair(2, 0, 1)]


def test_of_a_step_done_again_the_last_value_counts(tmp_path):
    for values in ((1.0, 2.0, 3.0), (5.0, 6.0)):
        writer = metric_writers.SummaryWriter(str(tmp_path))
        for step, value in enumerate(values, 4 - len(values)):
            writer.write_scalars(step, {"loss": value})
        writer.close()
    assert curves.read(epath.Path(tmp_path)) == {"loss": [(1, 1.0), (2, 5.0), (3, 6.0)]}


def test_charts_leave_out_what_is_not_finite_and_average_what_is_too_much():
    drawn = chart.draw("Loss", {"training": [(1, 4.0), (2, math.nan), (3, 2.0), (4, math.inf)]})
    assert 'aria-label="Loss: training from 4 at step 1 to 2 at step 3"' in drawn and "nan" not in drawn
    assert chart.draw("Loss", {"training": [(1, math.nan)]}) == ""
    many = chart.draw("Loss", {"training": [(step, step % 2) for step in range(100_000)]})
    assert 'aria-label="Loss: training from 0.5 at step 333 to 0.5' in many and len(many) < 8_000
    assert "<circle" in chart.draw("Loss", {"training": [(1, 1.0)]})  # a lone point has no line


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 2.31, [0, 0.5, 1, 1.5, 2, 2.5]), (50, 500, [0, 100, 200, 300, 400, 500])],
)
def test_ticks_are_round(low, high, expected):
    assert chart._ticks(low, high) == pytest.approx(expected)


def test_only_what_differs_from_the_defaults_is_told():
    config = make_config("")
    config.model.pixel_std = (0.5, 0.5, 0.25)
    restored = metadata.config_of({"config": json.loads(config.to_json())})  # with lists for tuples
    changed = dict((key, (value, default)) for key, value, default in checks.differences(restored))
    assert changed["model.variant"] == ("mu/8", "B/16") and changed["steps"] == (40, 1000)
    assert list(changed["model.pixel_std"][0]) == [0.5, 0.5, 0.25]
    assert "datasets.stills.num_frames" in changed and "model.pixel_mean" not in changed
    assert not checks.differences(common.get_config())
