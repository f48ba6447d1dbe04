"""Writes a small prepared dataset and a run's workdir, for `test_golden_run.py`: what they must still mean later.

Run at commit df6e831 (version 0.1.0), with Python 3.11 and jax 0.10.2, from the root of its checkout, whose modules it
imports. It is no part of the tests, and is kept to say how the files were made:

    PYTHONPATH=. python make_golden_run.py OUT

    OUT/data        three datasets as `data_pipelines.prepare` leaves them: clips as frames, clips as files, images
    OUT/run         the workdir of a run of 6 steps that was killed after 4: it has gone back once and has seen one
                    undecodable example; without its TensorBoard files
    OUT/media       a clip and an image to predict
    OUT/expected.json, OUT/expected.npz    what this commit reads there and does with it

What is only read is kept as SHA-256, what is computed with floats as arrays. All is made in FOLDER: preparing writes
the absolute path of the source into metadata.json, and this one says nothing of whoever ran it.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "1"  # on several, arrays are stored in parts, which take more room
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # as in the tests
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import av  # noqa: E402 - the environment must be set before anything imports JAX or TensorFlow
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from einops import reduce  # noqa: E402
from etils import epath  # noqa: E402
from PIL import Image  # noqa: E402

from configs import common, datasets  # noqa: E402
from cover_jax import config as config_lib  # noqa: E402
from cover_jax import evaluated, export, predict, train  # noqa: E402
from cover_jax.models import variants  # noqa: E402
from cover_jax.report import __main__ as report  # noqa: E402
from data_pipelines import doctor, host_tf, pipeline, prepare, records  # noqa: E402
from tests import tiny_run  # noqa: E402

FOLDER = pathlib.Path("/golden")
SIZE = ("golden", (8, 2, 2, 16))  # of the model: a name and its sizes, as in models/variants.py
HEIGHT_PX, WIDTH_PX, NUM_FRAMES, RATE = 32, 40, 3, 8
MOTIONS = {"moving left": -5, "moving right": 5}  # class -> px a frame
LEVELS = {"dark": 50, "grey": 120, "light": 200}  # class -> of its images
KILLED_AFTER, STEPS = 4, 6
SHORT_SIDE_PX = 32
BATCHES = {"train": 2, "validation": 1}  # split -> how many are looked at


def picture(rng: np.random.Generator, level: float, bar_px: float) -> np.ndarray:
    """A slope of grey with a bright bar on it, slightly coloured: smooth, so that it takes few bytes."""
    x, y = np.arange(WIDTH_PX), np.arange(HEIGHT_PX)[:, None]
    slope = level + rng.uniform(-1, 1) * (x - WIDTH_PX / 2) + rng.uniform(-1, 1) * (y - HEIGHT_PX / 2)
    bar = 80 * np.exp(-(((x - bar_px) / 4) ** 2))
    return np.clip((slope + bar)[..., None] * rng.uniform(0.8, 1, 3), 0, 255).astype(np.uint8)


def write_clip(path: pathlib.Path, seed: int, speed_px: int) -> None:
    """A clip of a bar that moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    level, start_px = np.random.default_rng(seed).uniform((40, 12), (150, 28))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = HEIGHT_PX, WIDTH_PX, "yuv420p", 200_000
        for i in range(NUM_FRAMES):
            frame = picture(np.random.default_rng(seed), level, start_px + i * speed_px)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_still(path: pathlib.Path, seed: int, level: int) -> None:
    """An image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(picture(rng, level, rng.uniform(0, WIDTH_PX))).save(path)


def write_source() -> None:
    """Folders of clips and images: one clip is damaged, one is validated on here and trained on there."""
    source, seed = FOLDER / "source", 0
    for name, per_split in (("clips", {"train": 3, "validation": 2}), ("files", {"train": 3, "validation": 2})):
        for split, count in per_split.items():
            for label, speed_px in MOTIONS.items():
                for i in range(count):
                    write_clip(source / name / split / label / f"{i}.mp4", seed := seed + 1, speed_px)
    (source / "clips" / "train" / "moving left" / "broken.mp4").write_bytes(b"no clip")
    seen = "moving right/1.mp4"
    shutil.copy(source / "clips" / "validation" / seen, source / "files" / "train" / "moving right" / "seen.mp4")
    for split, count in (("train", 4), ("validation", 2)):
        for label, level in LEVELS.items():
            for i in range(count):
                write_still(source / "stills" / split / label / f"{i}.png", seed := seed + 1, level)
    write_clip(FOLDER / "media" / "clip.mp4", 1000, MOTIONS["moving right"])
    write_still(FOLDER / "media" / "still.png", 1001, LEVELS["light"])


def prepare_all() -> None:
    """The three datasets, and the manifest of one."""
    shared = ["--data_dir=data", "--workers=1", f"--short_side_px={SHORT_SIDE_PX}"]
    for builder, name, more in (
        ("video_folder", "clips", []), ("video_folder", "files", ["--form=video"]), ("image_folder", "stills", []),
    ):  # fmt: skip
        prepare.main([builder, f"--name={name}", f"--source={FOLDER / 'source' / name}", *shared, *more])
    doctor.main(["video_folder/clips", "--data_dir=data"])
    (FOLDER / "data" / "video_folder" / "clips" / "1.0.0" / doctor.PAGE).unlink()
    shutil.rmtree("data/downloads")  # empty


def make_config():
    """A little of all that is kept: a mix, several views, repeats, an average, a frozen part."""
    config = common.get_config()
    config.seed, config.data_dir, config.steps, config.plan = 7, "data", STEPS, "interleave"  # a seed that mixes well
    config.log_every_steps, config.eval_every_steps, config.checkpoint_every_steps = 1, 4, 4
    config.best_metric, config.early_stop_evals, config.max_rollbacks = "mean_top1", 9, 1
    config.max_loss_ratio, config.loss_window_steps, config.input.max_bad_share = 100.0, 4, 0.5
    config.datasets.clips = datasets.folder("video_folder/clips", batch_size=8, eval_clips=2, eval_crops=3)
    config.datasets.files = datasets.folder("video_folder/files", batch_size=8, weight=2.0)
    config.datasets.stills = datasets.folder("image_folder/stills", batch_size=16, repeats=2)
    for dataset in config.datasets.values():
        dataset.eval_batch_size, dataset.canvas_px = 8, (32, 48)
    config.datasets.clips.num_frames = config.datasets.files.num_frames = 2
    config.model.update({"variant": "golden/8", "size_px": 16, "num_frames": 2, "dtype": "float32"})
    config.model.update({"temporal_init": "xavier", "time_embed_std": 0.5, "remat": "none"})
    config.optimizer.update({"name": "adamw", "learning_rate": 0.05, "weight_decay": 0.05})
    config.optimizer.update({"layer_decay": 0.9, "ema_decay": 0.5})
    config.optimizer.frozen = ".*(bias|scale)"  # has no moments, and so takes less room
    config_lib.validate(config)
    return config


class Faults:
    """An `order` for `tiny_run.Intercepted`: an undecodable example, a NaN, and the end."""

    def __init__(self):
        self._diverged = False

    def __call__(self, state, batches):
        step = int(state.step)
        if step == KILLED_AFTER:
            raise tiny_run.Killed
        if step == 1:
            for name, batch in batches.items():
                weight = batch["weight"]
                batches[name] = batch | {"weight": jax.device_put(weight.at[0].set(0.0), weight.sharding)}
        if step == 2 and not self._diverged:
            self._diverged = True
            return state.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
        return state


def train_until_killed() -> None:
    try:
        tiny_run.Intercepted(Faults()).train(make_config(), "run")
    except tiny_run.Killed:
        shutil.rmtree("run/tensorboard")


def sha256(array) -> str:
    """Of an array's type, shape and bytes."""
    array = np.asarray(array)
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def coarse(frames_BTHWC: np.ndarray) -> np.ndarray:
    """Means of squares of 8 px: of a decoded video the last bit of a level depends on the processor."""
    return reduce(frames_BTHWC.astype(np.float32), "b t (h 8) (w 8) c -> b t h w c", "mean").astype(np.float16)


def of_split(name: str, split: str, arrays: dict) -> dict:
    """What is read of a split: what is known of it, its records, its first batches."""
    config = make_config()
    dataset = config.datasets[name]
    opened = records.open_split(dataset.builder, split, "data")
    locate = records.locator(opened)
    raw = host_tf.tf.data.Dataset.range(opened.num_examples).flat_map(lambda i: records.read_from(*locate(i)).take(1))
    if split == "train":
        stream = pipeline.train_stream(opened, dataset, name=name, seed=config.seed, first_batch=0)
    else:
        stream = pipeline.eval_stream(opened, dataset)
    with stream:
        batches = [next(stream) for _ in range(BATCHES[split])]
    if name == "files":
        for i, batch in enumerate(batches):
            arrays[f"frames/{split}/{i}"] = coarse(batch.pop("frames"))
    return {
        "class_names": opened.class_names,
        "features": sorted(opened.features),
        "modality": opened.modality,
        "fingerprint": opened.fingerprint,
        "offsets": opened.offsets.tolist(),
        "records": [hashlib.sha256(record).hexdigest() for record in raw.as_numpy_iterator()],
        "batches": [{key: sha256(value) for key, value in batch.items()} for batch in batches],
    }


def of_state() -> dict[str, str]:
    """Path -> hash of each leaf that a run goes on from."""
    state, _ = train.Run(make_config(), "run").restore(set_aside=False)
    return {path: sha256(jax.device_get(leaf)) for path, leaf in tiny_run.by_path(state).items()}


def of_predictions() -> dict:
    """What stands in each file of WORKDIR/predictions."""
    found = {name: evaluated.load(epath.Path("run"), name) for name in make_config().datasets}
    return {
        name: {
            "step": one.step,
            "fingerprint": one.fingerprint,
            "columns": {key: sha256(column) for key, column in vars(one.predictions).items()},
            "accuracies": one.predictions.accuracies,
        }
        for name, one in found.items()
    }


def of_predict() -> dict:
    """Probabilities of each file, head by head."""
    predictor = predict.load("run", short_side_px=SHORT_SIDE_PX)
    return {
        path: {head: said.probabilities.tolist() for head, said in predictor(path).items()}
        for path in ("media/clip.mp4", "media/still.png")
    }


def of_export() -> dict[str, str]:
    """Hashes of what `--format=jax` writes for one head, but for the program and the card."""
    flags.FLAGS(["export", "--workdir=run", "--head=clips", "--format=jax", "--out=exported"])
    export.main(["export"])
    names = ("params.safetensors", "config.json")
    return {name: hashlib.sha256(pathlib.Path("exported", name).read_bytes()).hexdigest() for name in names}


def figures(page: str) -> list[str]:
    """Numbers, classes and files in the order in which a report shows them, from its accuracies to the run's curves."""
    text = re.sub(r"<[^>]*>", "\n", page.partition("<h2>Accuracy</h2>")[2].partition(">The run</h2>")[0])
    classes = "|".join([*MOTIONS, *LEVELS])
    return re.findall(rf"validation/.*|\b(?:{classes})\b|[\d.]+%|\b\d+\b", text)


def go_on(arrays: dict) -> list:
    """Takes the steps after the checkpoint; returns which, on which examples, and keeps what has come of them."""
    continued = tiny_run.Intercepted()
    state = continued.train(make_config(), "run")
    for path, leaf in tiny_run.by_path({"params": state.params}).items():
        arrays[path] = np.asarray(jax.device_get(leaf))
    for name in make_config().datasets:
        predictions = evaluated.load(epath.Path("run"), name).predictions
        arrays[f"label_probability/{name}"] = predictions.label_probability
    return continued.taken


def write_expected(out: pathlib.Path) -> None:
    """Reads a copy of the files, as the test does, and writes down what is found."""
    shutil.copytree(out, FOLDER / "copy")
    os.chdir(FOLDER / "copy")
    arrays = {}
    found = {
        "splits": {
            name: {split: of_split(name, split, arrays) for split in BATCHES} for name in make_config().datasets
        },
        "state": of_state(),
        "predictions": of_predictions(),
        "predict": of_predict(),
        "export": of_export(),
        "report": figures(report.of_run("run")),
        "taken": go_on(arrays),
    }
    (out / "expected.json").write_text(json.dumps(found, indent=1) + "\n")
    np.savez_compressed(out / "expected.npz", **arrays)


def main(out: pathlib.Path) -> None:
    if FOLDER.exists() or out.exists():
        sys.exit(f"error: {FOLDER} or {out} exists")
    variants.SIZES[SIZE[0]] = SIZE[1]
    FOLDER.mkdir()
    os.chdir(FOLDER)
    write_source()
    prepare_all()
    train_until_killed()
    out.mkdir(parents=True)
    for part in ("data", "run", "media"):
        shutil.copytree(FOLDER / part, out / part)
    write_expected(out)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).absolute())
