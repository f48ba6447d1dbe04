"""The rows that train through the backbone's inputs: `configs/finetune_head.py`, then `configs/finetune.py` from it."""

import pathlib

import numpy as np
from etils import epath

from cover_jax.evaluation import saved_predictions
from tests.benchmarks.probes import clips, commands

SIZE_PX, NUM_FRAMES = 112, 2
HEAD_STEPS, ALL_STEPS = 60, 30


def _flags(data_dir: pathlib.Path, division: clips.Division, seed: int, steps: int) -> list[str]:
    of_records = clips.groups(data_dir)
    return [
        "--config.model.variant=S/14", f"--config.model.size_px={SIZE_PX}", f"--config.model.num_frames={NUM_FRAMES}",
        "--config.model.pixel_mean=(0.485, 0.456, 0.406)", "--config.model.pixel_std=(0.229, 0.224, 0.225)",
        "--config.model.dtype=float32", "--config.model.remat=none", "--config.optimizer.warmup_steps=5",
        f"--config.datasets.ucf101.num_frames={NUM_FRAMES}", "--config.datasets.ucf101.canvas_px=(128, 176)",
        f"--config.datasets.ucf101.train_split={clips.expression(of_records, division.train)}",
        f"--config.datasets.ucf101.eval_split={clips.expression(of_records, division.validation)}",
        "--config.input.leaks=ignore",  # no group is in both
        f"--config.steps={steps}", f"--config.eval_every_steps={steps}", f"--config.checkpoint_every_steps={steps}",
        f"--config.seed={seed}", f"--data_dir={data_dir}",
    ]  # fmt: skip


def head(workdir: pathlib.Path, data_dir: pathlib.Path, weights: str, seed: int) -> pathlib.Path:
    """Trains a new head on the frozen backbone. Returns its run's workdir."""
    return _train(workdir, data_dir, "finetune_head", weights, seed, HEAD_STEPS)


def all_layers(workdir: pathlib.Path, data_dir: pathlib.Path, weights: str, seed: int) -> pathlib.Path:
    """Trains all layers, from the run of `head`. Returns its run's workdir."""
    start = head(workdir, data_dir, weights, seed)
    return _train(workdir, data_dir, "finetune", str(start), seed, ALL_STEPS)


def _train(
    workdir: pathlib.Path, data_dir: pathlib.Path, config: str, init_from: str, seed: int, steps: int
) -> pathlib.Path:
    folder = workdir / f"{config}_seed{seed}"
    flags = _flags(data_dir, clips.Division.of(seed), seed, steps)
    commands.once(
        folder / "ended", "cover_jax.main", f"--config=configs/{config}.py:{clips.BUILDER}",
        f"--workdir={folder}", f"--config.model.init_from={init_from}", *flags,
    )  # fmt: skip
    return folder


def hits(folder: pathlib.Path) -> np.ndarray:
    """bool [N]: which validation clips a run labelled right, in the order of its split."""
    saved = saved_predictions.load(epath.Path(folder), "ucf101")
    assert saved is not None
    return saved.predictions.hits
