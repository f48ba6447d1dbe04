"""A training step of this model against Hugging Face's TimeSformer in torch: same weights, same frames, one ratio.

    pip install -r tests/benchmarks/requirements_model.txt
    python -m tests.benchmarks.model
    python -m tests.benchmarks.model --device=cuda B/16:8x224 L/16:16x448

Both compute logits first, which must agree; then they take turns, step by step. On a CPU in float32, each operation of
torch on its own; on a GPU in bfloat16 against `torch.compile` with fused attention.
"""

import argparse
import dataclasses
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both share one GPU

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from ml_collections import ConfigDict

from configs import common
from cover_jax.models import cover, flops, variants
from cover_jax.parallel import chips, compilation
from tests.benchmarks import measure, torch_timesformer
from tests.models import small

HEAD, CLASSES = "benchmark", 400
# Of the logits' differences, in units of their standard deviation. bfloat16 has 8 bits of mantissa.
LARGEST_DIFFERENCE = {"float32": 1e-5, "bfloat16": 0.1}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is computed: VARIANT:FRAMESxSIDE, such as "B/16:8x224", of square frames."""

    variant: str
    num_frames: int
    size_px: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        match = re.fullmatch(r"([^:]+):([1-9]\d*)x([1-9]\d*)", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not VARIANT:FRAMESxSIDE, for example B/16:8x224")
        return cls(match[1], int(match[2]), int(match[3]))

    def config(self, remat: str, dtype: str) -> ConfigDict:
        model = common.get_config().model
        values = {"variant": self.variant, "size_px": self.size_px, "num_frames": self.num_frames}
        model.update(values | {"remat": remat, "dtype": dtype})
        return model

    def flops(self, clips: int) -> int:
        """Of a training step: forward and twice that backward."""
        variant = variants.parse(self.variant)
        num_patches = (self.size_px // variant.patch_px) ** 2
        return 3 * clips * flops.forward(variant, self.num_frames, num_patches)


def our_step(
    model: cover.Functional, params: dict, frames: np.ndarray, labels: np.ndarray, options: Mapping | None = None
) -> Callable:
    """A training step at learning rate 0, which waits for its end and returns the logits, as a function of nothing.

    `options` are the compiler's, in place of those of `compilation.jit`.
    """
    tx = optax.sgd(0.0)

    def loss(params, frames_BTHWC, label_B):
        logits_BC = model.apply(params, frames_BTHWC, HEAD)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BC, label_B).mean(), logits_BC

    def step(state, frames_BTHWC, label_B):
        params, opt_state = state
        grads, logits_BC = jax.grad(loss, has_aux=True)(params, frames_BTHWC, label_B)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), logits_BC

    compiled = compilation.jit(step, donate_argnums=0)
    if options is not None:
        compiled = jax.jit(step, donate_argnums=0, compiler_options=dict(options))
    params = jax.tree.map(jnp.asarray, params)
    state = (params, tx.init(params))
    frames, labels = jnp.asarray(frames), jnp.asarray(labels)

    def one_step() -> np.ndarray:
        nonlocal state
        state, logits_BC = compiled(state, frames, labels)
        return np.asarray(jax.block_until_ready((state, logits_BC))[1])

    return one_step


def steps(shape: Shape, clips: int, remat: str, device: str) -> dict[str, Callable[[], np.ndarray]]:
    """The steps of both, on the same random weights and frames."""
    config = shape.config(remat, "bfloat16" if device == "cuda" else "float32")
    model = cover.functional(config, {HEAD: CLASSES})
    params = small.random_params(jax.eval_shape(model.init, jax.random.key(0)))
    frames = small.frames(clips, shape.num_frames, shape.size_px, shape.size_px)
    labels = np.arange(clips, dtype=np.int32)
    theirs = torch_timesformer.build(params, HEAD, config, CLASSES).to(device)
    if device == "cuda":
        theirs = torch_timesformer.fuse(theirs)
    return {
        "ours": our_step(model, params, frames, labels),
        "torch": torch_timesformer.make_step(theirs, frames, labels, device),
    }


def difference(jobs: Mapping[str, Callable[[], np.ndarray]]) -> float:
    """Largest difference of the logits, in their standard deviations. The first call of each also compiles it."""
    ours, theirs = jobs["ours"](), jobs["torch"]()
    return float(np.abs(ours - theirs).max() / theirs.std())


def timed(jobs: Mapping[str, Callable], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall seconds, and CPU seconds of all threads, of each round's step; all jobs by turns."""
    wall, cpu = {name: [] for name in jobs}, {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter(), time.process_time()
            job()
            wall[name].append(time.perf_counter() - start[0])
            cpu[name].append(time.process_time() - start[1])
    return wall, cpu


def compare(shape: Shape, arguments: argparse.Namespace) -> None:
    jobs = steps(shape, arguments.clips, arguments.remat, arguments.device)
    found, dtype = difference(jobs), "bfloat16" if arguments.device == "cuda" else "float32"
    if not found <= LARGEST_DIFFERENCE[dtype]:
        raise SystemExit(f"error: {shape}: the logits differ by {found:.2g} of their standard deviation")
    wall, cpu = timed(jobs, arguments.rounds)
    print(f"{shape.variant} {shape.num_frames} x {shape.size_px} px, {dtype}; logits differ by {found:.1e}")
    for what, seconds in (("wall", wall), ("CPU", cpu)):
        times = ", ".join(f"{name} {measure.milliseconds(seconds, name):.1f} ms" for name in jobs)
        print(f"  {what}: {times}; ours over torch {measure.ratio(seconds, 'ours', 'torch'):.2f}", flush=True)
    peak = chips.peak_flops(jax.devices())
    if peak:
        rates = {name: shape.flops(arguments.clips) / statistics.median(wall[name]) / peak for name in jobs}
        print("  MFU: " + ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [Shape.parse("B/16:8x112"), Shape.parse("B/16:8x224")]
    parser.add_argument("shapes", nargs="*", type=Shape.parse, default=default, help="VARIANT:FRAMESxSIDE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clips", type=int, default=1, help="clips a step")
    parser.add_argument("--threads", type=int, default=2, help="cores that both may use; on Linux")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each that are timed")
    parser.add_argument("--remat", default="none", help="config.model.remat of ours; torch recomputes nothing")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", arguments.device)
    if arguments.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])  # JAX has a thread for each core
        torch.set_num_threads(arguments.threads)
        torch.set_flush_denormal(True)  # JAX does; at learning rate 0 and a fixed batch neither should meet any
    for shape in arguments.shapes:
        compare(shape, arguments)


if __name__ == "__main__":
    main()
