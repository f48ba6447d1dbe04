"""The model card (README.md) of an exported model: type, data, accuracy, loading, limits."""

import pathlib
import re
from collections.abc import Iterable, Sequence

from etils import epath
from huggingface_hub import EvalResult, ModelCardData
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata
from cover_jax.tasks import metrics, registry
from data_pipelines.output.text_tables import markdown_code, markdown_table, markdown_text

FILE = "README.md"
_FOLDERS = ("data_dir", "compare_with")  # config keys
_ERROR_NOTE = (
    f"{metrics.ERROR_NOTE}, as if these were independent. Clips that were cut from one video are not, and another seed "
    "of the training may change the result more."
)

# Format -> its description, and a program that loads the model and predicts. Its {names} are filled in.
FORMATS = {
    "hugging_face": "a Hugging Face TimeSformer",
    "jax": "a `jax.export` program with its parameters; it runs on CPU, GPU and TPU, and needs only jax",
    "saved_model": "a TensorFlow SavedModel; it needs only TensorFlow, or a serving system for it",
}
NORMALIZE = 'frames = (clips / 255 - about["pixel_mean"]) / about["pixel_std"]'
STANDARDIZE = """\
frames = clips - clips.mean((1, 2, 3, 4), keepdims=True)
frames /= np.maximum(frames.std((1, 2, 3, 4), keepdims=True), 1)"""
FRAMEWORKS = {"hugging_face": "torch", "jax": "jax", "saved_model": "tensorflow"}
LOADING = {
    "hugging_face": """\
import numpy as np
import torch
from transformers import AutoImageProcessor, TimesformerForVideoClassification

folder = "."  # where this file is
processor = AutoImageProcessor.from_pretrained(folder)
model = TimesformerForVideoClassification.from_pretrained(folder).eval()

frames = np.zeros(({num_frames}, 240, 320, 3), np.uint8)  # one clip: put your own here
with torch.no_grad():
    logits = model(**processor(list(frames), return_tensors="pt")).logits
probabilities = {probabilities}[0]
best = int(probabilities.argmax())
print(model.config.id2label[best], float(probabilities[best]))
""",
    "jax": """\
import json

import jax
import numpy as np
import safetensors.numpy
from jax import export

folder = "."  # where this file is
program = export.deserialize(open(f"{{folder}}/model.jax_export", "rb").read())
params = safetensors.numpy.load_file(f"{{folder}}/params.safetensors")
about = json.load(open(f"{{folder}}/config.json"))

clips = np.zeros((1, {num_frames}, {size_px}, {size_px}, 3), np.uint8)  # any number of clips: put your own here
{normalize}
logits = program.call(params, frames.astype(np.float32))
probabilities = {probabilities}
best = int(probabilities[0].argmax())
print(about["class_names"][best], float(probabilities[0, best]))
""",
    "saved_model": """\
import json

import numpy as np
import tensorflow as tf

folder = "."  # where this file is
program = tf.saved_model.load(folder).signatures["serving_default"]
about = json.load(open(f"{{folder}}/config.json"))

clips = np.zeros((1, {num_frames}, {size_px}, {size_px}, 3), np.uint8)  # any number of clips: put your own here
logits = program(frames=tf.constant(clips))["logits"]
probabilities = {probabilities}.numpy()
best = int(probabilities[0].argmax())
print(about["class_names"][best], float(probabilities[0, best]))
""",
}


def write(trained: metadata.TrainedModel, head: str, model_format: str, out: str) -> None:
    """Writes the card into the folder of an exported model.

    Args:
        trained: the model, from `published.load.load`.
        head: the exported head.
        model_format: one of FORMATS.
        out: the folder, local or gs://.
    """
    (epath.Path(out) / FILE).write_text(text(trained, head, model_format))


def text(trained: metadata.TrainedModel, head: str, model_format: str) -> str:
    """The text of the card; arguments as in `write`."""
    config, names = trained.config, trained.class_names[head]
    sections = {
        "Accuracy": _accuracy(trained, head),
        "How to load it": _loading(config.model, trained.dataset(head), model_format),
        "Data": _data(trained),
        "Limits": _limits(trained, head),
        "Config": _config(config),
        "Classes": "\n".join(f"{i}. {markdown_text(name)}" for i, name in enumerate(names)),
        "Versions": _escaped_table(("package", "version"), trained.meta["versions"].items()),
    }
    if _is_published(trained):  # this project has neither trained nor evaluated it
        del sections["Accuracy"], sections["Data"]
    front = f"---\n{_front_matter(trained, head)}\n---\n\n" if model_format == "hugging_face" else ""
    body = "\n".join(f"## {title}\n\n{content}\n" for title, content in sections.items())
    return f"{front}# {head}: CoVeR {config.model.variant}\n\n{_what(trained, head, model_format)}\n\n{body}"


def _is_published(trained: metadata.TrainedModel) -> bool:
    return "published" in trained.meta


def _what(trained: metadata.TrainedModel, head: str, model_format: str) -> str:
    if _is_published(trained):
        return (
            "A TimeSformer with divided space-time attention (arXiv 2102.05095): "
            f"`{_start(trained.config)}`, with {len(trained.class_names[head])} classes, as "
            f"{FORMATS[model_format]}. cover-jax has only converted it, and neither trained nor evaluated it."
        )
    config, own = trained.config, trained.dataset_name(head)
    others = ", ".join(name for name in config.datasets if name != own)
    if own in trained.meta.get("kept", {}):
        sets = f"{others}; its head {own} was trained by an earlier run and kept unchanged"
    else:
        sets = f"{own}, together with {others}" if others else own
    return (
        f"A TimeSformer with divided space-time attention (arXiv 2102.05095), trained as CoVeR (arXiv 2112.07175) by "
        f"cover-jax for {trained.step} steps on {sets}. This is its head `{head}`, with "
        f"{len(trained.class_names[head])} classes, as {FORMATS[model_format]}. It starts from "
        f"{f'`{_start(config)}`' if config.model.init_from else 'random values'}."
    )


def _accuracy(trained: metadata.TrainedModel, head: str) -> str:
    found, dataset = _values(trained, head), trained.dataset(head)
    if not found:
        return f"Not known: the checkpoint of step {trained.step} was not evaluated on {head}."
    views = dataset.eval_clips * dataset.eval_crops
    where = f"`{dataset.eval_split}` of {dataset.builder}, {trained.accuracies[f'{head}/examples']:.0f} examples"
    rows = [(title, metrics.percent(value, error)) for title, (value, error) in found.items()]
    guess = registry.of(dataset).chance(len(trained.class_names[head]))
    chance = [] if guess is None else [("chance", f"{guess:.1%}")]
    seen = f"the mean of {views} views of each" if views > 1 else "one view of each"
    table = _escaped_table(("measure", "value"), [*rows, *chance])
    return f"On {where}, {seen}:\n\n{table}\n\n{_ERROR_NOTE}"


def _values(trained: metadata.TrainedModel, head: str) -> dict[str, tuple[float, float | None]]:
    """Title -> (accuracy, its standard error), 0..1; {} if the checkpoint has no accuracy of this head.

    Checkpoints of an older version have no errors, and top-5 of any number of classes. Of these the error is None where
    the number of examples alone does not give it.
    """
    task = registry.of(trained.dataset(head))
    stored = {kind: trained.accuracies.get(f"{head}/{kind}") for kind in (*task.titles, "examples")}
    if stored["examples"] is None:
        return {}
    found = {}
    for kind, title in task.titles.items():
        value = stored[kind]
        if value is None or (kind == "top5" and len(trained.class_names[head]) <= metrics.TOP_K):
            continue
        found[title] = (
            value,
            trained.accuracies.get(f"{head}/{kind}_error", task.error_of(kind, value, stored["examples"])),
        )
    return found


def _loading(model: ConfigDict, dataset: ConfigDict, model_format: str) -> str:
    num_frames = dataset.num_frames if model_format == "hugging_face" else model.num_frames
    normalize = STANDARDIZE if dataset.standardize else NORMALIZE
    task = registry.of(dataset)
    code = LOADING[model_format].format(
        num_frames=num_frames, size_px=model.size_px, normalize=normalize,
        probabilities=task.in_code(FRAMEWORKS[model_format]),
    )  # fmt: skip
    if dataset.standardize:
        normalized = "Then all values of a clip together are normalised to mean 0 and standard deviation 1"
    else:
        normalized = (
            f"Values from 0 to 1 are normalised with mean {_numbers(model.pixel_mean)} and standard deviation "
            f"{_numbers(model.pixel_std)}"
        )
    return (
        f"```python\n{code}```\n\n{_frames(dataset, num_frames)} Each is resized so that its shorter side has "
        f"{model.size_px} px, and its centre is cropped. {normalized}. The program above does this."
    )


def _frames(dataset: ConfigDict, num_frames: int) -> str:
    if dataset.num_frames == 1:
        return "Images are clips of one frame." if num_frames == 1 else f"An image is repeated {num_frames} times."
    if dataset.sample_fps:
        return f"A clip is {num_frames} frames, {dataset.sample_fps:g} per second, from the middle of a video."
    return f"A clip is {num_frames} frames: the middle frame of each of {num_frames} equal parts of a video."


def _data(trained: metadata.TrainedModel) -> str:
    table = _escaped_table(metadata.DATA_COLUMNS, metadata.data_rows(trained.meta))
    lines = metadata.leak_lines(trained.meta, trained.config)
    return f"{table}\n\n" + "\n".join(f"- {markdown_text(line)}" for line in lines)


def _limits(trained: metadata.TrainedModel, head: str) -> str:
    num_frames, own_frames = trained.config.model.num_frames, trained.dataset(head).num_frames
    lines = [
        registry.of(trained.dataset(head)).limits(len(trained.class_names[head])),
        "Its accuracy holds for data like its validation set. On other data it was not measured.",
        "Leaks were searched between datasets, not between the training and validation set of one dataset.",
        "Its training data and the weights that it starts from have their own licenses.",
    ]
    if _is_published(trained):
        lines = [lines[0], "It has the license of the weights that it was made from."]
    if own_frames != num_frames:
        lines.append(f"Its head was trained on clips of {own_frames} frames, not of {num_frames}.")
    return "\n".join(f"- {line}" for line in lines)


def _without_folder(config: ConfigDict) -> ConfigDict:
    """The config with the name alone of local weights that the model started from."""
    shown = config.copy_and_resolve_references()
    shown.model.init_from = _start(config)
    return shown


def _start(config: ConfigDict) -> str:
    """The weights that the model started from: a URL, or the name of a local file or run."""
    start: str = config.model.init_from
    return start if "://" in start else pathlib.PurePath(start).name


def _config(config: ConfigDict) -> str:
    """The config values that differ from the defaults, except folders of the machine that trained the model."""
    shown = [row for row in metadata.config_rows(_without_folder(config)) if row[0] not in _FOLDERS]
    rows = [[markdown_code(cell) for cell in row] for row in shown]
    return f"Values that differ from the defaults:\n\n{markdown_table(metadata.CONFIG_COLUMNS, rows)}"


def _front_matter(trained: metadata.TrainedModel, head: str) -> str:
    """The metadata of the card for the Hugging Face hub, as YAML."""
    dataset = trained.dataset(head)
    task = "image-classification" if dataset.num_frames == 1 else "video-classification"
    of_head = registry.of(dataset)
    types = {title: of_head.hub_metrics[kind] for kind, title in of_head.titles.items()}
    results = [
        EvalResult(
            task_type=task, dataset_type=dataset.builder, dataset_name=head, dataset_split=dataset.eval_split,
            metric_type=types[title], metric_name=title, metric_value=round(value, 4),
        )
        for title, (value, _) in _values(trained, head).items()
    ]  # fmt: skip
    base = re.match(r"hf://([^/]+/[^/@]+)", trained.config.model.init_from)
    return ModelCardData(
        base_model=base and base[1], library_name="transformers", pipeline_tag="video-classification",
        tags=["timesformer", "cover", task], model_name=head, eval_results=results or None,
    ).to_yaml()  # fmt: skip


def _escaped_table(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    return markdown_table(columns, [[markdown_text(cell) for cell in row] for row in rows])


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
