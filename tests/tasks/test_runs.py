"""Miniatures of Charades and EPIC-KITCHENS beside an ordinary dataset: from preparing to export, in one run."""

import io
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from PIL import Image
from sklearn.metrics import average_precision_score

from configs import common, datasets
from cover_jax.checkpoint import restore
from cover_jax.evaluation import saved_predictions
from cover_jax.export import __main__ as export
from cover_jax.predict import __main__ as predict
from cover_jax.preprocess import model_input
from cover_jax.report import __main__ as report
from cover_jax.training import loop, setup
from data_pipelines.doctor import __main__ as doctor
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import records
from data_pipelines.stream.host_tf import tf
from tests.data_pipelines import publishers
from tests.data_pipelines.records_of import records_of
from tests.helpers import tiny_run

pytestmark = pytest.mark.slow

CHARADES = {
    "train": {f"AAAA{i}": [i % 5, 155 + i % 2][: 1 + i % 2] for i in range(7)} | {"AAAA7": [], "lost1": [0]},
    "test": {f"BBBB{i}": [i % 3, 156][: 1 + i % 2] for i in range(6)},
}


def get_config(data_dir, **changes):
    config = tiny_run.config(data_dir, keep=("images",), plan="joint", steps=3, checkpoint_every_steps=3, **changes)
    config.datasets.images.eval_split = "validation"
    config.best_metric = "mean"
    dataset = config.datasets.charades = common.dataset()
    dataset.update({"builder": "charades", "task": "multilabel", "num_frames": 4, "batch_size": 8, "loss_weight": 0.1})
    dataset.update({"eval_batch_size": 8, "num_classes": 157, "label_smoothing": 0.1})
    dataset.augment.mixup_alpha = 0.8
    config.datasets.epic = datasets.epic_kitchens(num_frames=4, batch_size=8, eval_batch_size=8, label_smoothing=0.1)
    config.datasets.epic.heads = "verb:97, noun:300:0.5"
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """prepared/, and the run in run/."""
    folder = tmp_path_factory.mktemp("tasks")
    tiny_run.prepare_data(folder / "prepared")
    source = publishers.charades(folder / "charades", CHARADES)
    prepare.main(["charades", f"--manual_dir={source}", f"--data_dir={folder / 'prepared'}", "--workers=1"])
    source = publishers.epic_kitchens(folder / "epic")
    prepare.main(["epic_kitchens", f"--manual_dir={source}", f"--data_dir={folder / 'prepared'}", "--workers=1"])
    loop.train(get_config(folder / "prepared"), str(folder / "run"))
    return folder


def test_the_records_have_all_classes_of_a_video(folder):
    split = records.open_split("charades", "train", str(folder / "prepared"))
    assert split.several_labels and len(split.class_names) == 157 and split.num_examples == 8


def test_evaluation_saves_what_scikit_learn_needs_for_the_same_map(folder):
    workdir = epath.Path(folder / "run")
    said = saved_predictions.load(workdir, "charades").predictions
    found = sorted(np.flatnonzero(row).tolist() for row in said.targets)  # TFDS has stored them in another order
    assert found == sorted(CHARADES["test"].values())
    present = said.targets.any(axis=0)
    means = average_precision_score(said.targets[:, present], said.scores[:, present])
    accuracies = restore.newest(str(workdir))[2]
    assert accuracies["charades/map"] == pytest.approx(means)
    of_datasets = [accuracies[name] for name in ("charades/map", "images/top1", "epic/joint_top1")]
    assert accuracies["mean"] == pytest.approx(np.mean(of_datasets))
    assert accuracies["mean_map"] == accuracies["charades/map"] and accuracies["mean_top1"] == accuracies["images/top1"]


def test_predict_gives_each_class_a_probability_of_its_own(folder, capsys):
    clip = str(folder / "charades/Charades_v1_480/BBBB1.mp4")
    predict.main([f"--workdir={folder / 'run'}", "--head=charades", "--top=157", "--format=json", clip])
    ((said,),) = (by_head.values() for by_head in json.loads(capsys.readouterr().out).values())
    found = {row["class"]: row["probability"] for row in said}
    saved = saved_predictions.load(epath.Path(folder / "run"), "charades").predictions
    (row,) = np.flatnonzero(saved.targets[:, CHARADES["test"]["BBBB1"]].all(axis=1))
    np.testing.assert_allclose([found[name] for name in publishers.CHARADES_CLASSES], saved.scores[row], atol=1e-6)
    assert sum(found.values()) > 2  # softmax would give 1


def test_the_report_has_the_average_precision_of_each_class(folder):
    report.main([f"--workdir={folder / 'run'}"])
    page = (folder / "run/report.html").read_text()
    assert "average precision" in page and "Doing thing 002" in page and "mAP of 6 examples" in page
    assert page.count('aria-label="Confusion matrix"') == 1  # that of images; heads of many classes have pictures
    assert "joint top-1 of 7 examples" in page and "97 + 300 classes" in page and "noun: noun:2" in page


def test_exported_files_say_that_a_clip_may_have_several_classes(folder, capsys):
    for model_format in ("hugging_face", "jax"):
        out = folder / model_format
        export.main([f"--workdir={folder / 'run'}", "--head=charades", f"--format={model_format}", f"--out={out}"])
    theirs = json.loads((folder / "hugging_face/config.json").read_text())
    assert theirs["problem_type"] == "multi_label_classification" and len(theirs["id2label"]) == 157
    assert json.loads((folder / "jax/config.json").read_text())["probabilities"] == "sigmoid of the logits"
    capsys.readouterr()
    clip = str(folder / "charades/Charades_v1_480/BBBB1.mp4")
    found = []
    for source in ("run", "hugging_face"):  # what is exported says the same
        head = ["--head=charades"] if source == "run" else []
        predict.main([f"--workdir={folder / source}", *head, "--top=157", "--format=json", clip])
        ((said,),) = (by_head.values() for by_head in json.loads(capsys.readouterr().out).values())
        found.append({row["class"]: row["probability"] for row in said})
    assert found[1] == pytest.approx(found[0], abs=1e-4) and sum(found[1].values()) > 2  # softmax would give 1
    card = (folder / "hugging_face/README.md").read_text()
    assert "logits.sigmoid()" in card and "mAP" in card and "softmax" not in card and "chance" not in card


def test_the_doctor_counts_all_labels(folder, capsys):
    doctor.main(["charades", f"--data_dir={folder / 'prepared'}", f"--out={folder / 'doctor'}"])
    printed = capsys.readouterr().out
    assert "labels per clip 0 to 2" in printed
    found = json.loads((folder / "doctor/charades/manifest.json").read_text())["splits"]["train"]
    assert found["classes"]["Doing thing 000"] == [3, 2]  # listed, of which a video is missing
    assert found["classes"]["Turning right"][1] == 3


def test_the_wrong_task_is_refused_by_name(folder):
    config = get_config(folder / "prepared")
    config.datasets.charades.task = "multiclass"
    with pytest.raises(ValueError, match="charades.task='multiclass': the prepared charades has several labels"):
        loop.train(config, str(folder / "wrong"))


def test_actions_are_cut_out_of_their_videos(folder):
    found = records_of("epic_kitchens", "train", folder / "prepared")
    assert len(found) == 7
    record = found["P01/videos/P01_01.mp4#t=1.8,2.55"]
    assert record["labels"].tolist() == [2, 97 + 2] and record["source_id"] == b"P01_01"
    levels = [np.asarray(Image.open(io.BytesIO(jpeg))).mean() for jpeg in record["frames"]]
    assert levels[0] == pytest.approx(20 + 2 * 22, abs=4)  # frame 22 of 12 per second is the first after 1.8 s
    assert levels == sorted(levels) and levels[-1] == pytest.approx(20 + 2 * 30, abs=6)


def test_each_head_has_its_accuracies_and_all_together_theirs(folder):
    workdir = epath.Path(folder / "run")
    said = saved_predictions.load(workdir, "epic").predictions
    accuracies = restore.newest(str(workdir))[2]
    assert said.labels.shape == (7, 2) and set(said.labels[:, 0]) <= {0, 1, 2, 3}
    right = said.top1 == said.labels
    assert accuracies["epic/joint_top1"] == pytest.approx(right.all(axis=1).mean())
    assert accuracies["epic/verb_top1"] == pytest.approx(right[:, 0].mean())
    assert accuracies["epic/noun_top1"] == pytest.approx(right[:, 1].mean())
    assert {"epic/noun_top5", "epic/verb_mean_class_error", "epic/loss"} <= accuracies.keys()


def test_predict_names_a_class_of_each_head(folder, capsys):
    clip = str(folder / "epic/P02/videos/P02_01.mp4")
    predict.main([f"--workdir={folder / 'run'}", "--head=epic", "--top=300", "--format=json", clip])
    (by_head,) = json.loads(capsys.readouterr().out).values()
    assert list(by_head) == ["epic/verb", "epic/noun"]
    for head, said in by_head.items():
        assert sum(row["probability"] for row in said) == pytest.approx(1, abs=1e-4)
        assert all(row["class"].startswith(f"{head.removeprefix('epic/')}: ") for row in said)


def test_several_heads_are_exported_for_jax_and_refused_for_hugging_face(folder):
    command = [f"--workdir={folder / 'run'}", "--head=epic", f"--out={folder / 'epic_out'}"]
    with pytest.raises(SystemExit, match="one classifier; take one of them by --head=epic/verb or --head=epic/noun"):
        export.main([*command, "--format=hugging_face"])
    export.main([*command, "--format=jax"])
    about = json.loads((folder / "epic_out/config.json").read_text())
    assert about["heads"] == "verb:97, noun:300:0.5" and len(about["class_names"]) == 397
    assert "np.split(logits, [97], axis=-1)" in (folder / "epic_out/README.md").read_text()


def test_one_of_several_heads_is_exported_as_a_classifier_of_its_own(folder, capsys):
    out, trained = folder / "epic_noun", restore.load_trained(str(folder / "run"), "newest")
    command = [f"--workdir={folder / 'run'}", "--format=hugging_face", f"--out={out}"]
    with pytest.raises(SystemExit, match="epic/adverb: must be one of charades, epic, images, epic/verb, epic/noun"):
        export.main([*command, "--head=epic/adverb"])
    export.main([*command, "--head=epic/noun"])
    weights, of_run = safetensors.numpy.load_file(out / "model.safetensors"), trained.params["heads"]["epic"]
    np.testing.assert_array_equal(weights["classifier.weight"], of_run["kernel"][:, 97:].T)
    np.testing.assert_array_equal(weights["classifier.bias"], of_run["bias"][97:])
    about, card = json.loads((out / "config.json").read_text()), (out / "README.md").read_text()
    names = [name.removeprefix("noun: ") for name in trained.class_names["epic"][97:]]
    assert list(about["id2label"].values()) == names and "problem_type" not in about
    assert re.search(rf"top-1 +\| {100 * trained.accuracies['epic/noun_top1']:.1f} ±", card)
    assert "joint top-1" not in card
    assert "3 steps on epic, together with charades, images. This is its head `epic_noun`, with 300 classes" in card
    capsys.readouterr()
    found = []
    for source in ("run", "epic_noun"):  # the exported model says the same
        head = ["--head=epic"] if source == "run" else []
        clip = str(folder / "epic/P02/videos/P02_01.mp4")
        predict.main([f"--workdir={folder / source}", *head, "--top=300", "--format=json", clip])
        (by_head,) = json.loads(capsys.readouterr().out).values()
        said = by_head["epic/noun"] if source == "run" else next(iter(by_head.values()))
        found.append({row["class"].removeprefix("noun: "): row["probability"] for row in said})
    assert found[1] == pytest.approx(found[0], abs=1e-4) and len(found[1]) == 300


@pytest.mark.parametrize("head", ["charades", "epic"])
def test_a_saved_model_gives_the_logits_of_the_run(folder, head):
    out = folder / f"{head}_saved"
    export.main([f"--workdir={folder / 'run'}", f"--head={head}", "--format=saved_model", f"--out={out}"])
    trained = restore.load_trained(str(folder / "run"), "newest")
    model, names = trained.config.model, trained.class_names[head]
    frames = np.random.default_rng(0).integers(0, 256, (2, model.num_frames, *[model.size_px] * 2, 3), np.uint8)
    (found,) = tf.saved_model.load(str(out)).signatures["serving_default"](frames=tf.constant(frames)).values()
    normalization = model_input.Normalization.of(model, trained.dataset(head))
    functions = setup.make_model(model, {head: names}, head_specs={head: trained.head_spec(head)})
    params = {"backbone": trained.params["backbone"], "heads": {head: trained.params["heads"][head]}}
    with jax.default_matmul_precision("highest"):
        normalised = model_input.normalize(frames.astype(np.float32), normalization)
        expected = jax.jit(functions.apply, static_argnums=2)(params, normalised, head)
    assert found.shape == (2, len(names))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    card = (out / "README.md").read_text()
    assert ("tf.nn.sigmoid(logits)" if head == "charades" else "tf.split(logits, [97, 300], axis=-1)") in card


def test_other_heads_than_those_of_the_data_are_refused(folder):
    config = get_config(folder / "prepared")
    config.datasets.epic.heads = "noun:300, verb:97"
    with pytest.raises(ValueError, match="the prepared epic_kitchens has verb:97, noun:300"):
        loop.train(config, str(folder / "wrong"))
