"""Which form of the training step is fastest on a GPU: what was left to try, measured by turns in one process.

    pip install -r tests/benchmarks/requirements_model.txt
    python -m tests.benchmarks.gpu B/16:8x224 L/16:16x448 --clips=8 --dump=/tmp/xla

It needs a GPU with cuDNN's attention, Ampere or later. It prints one row per experiment: the median of a step's wall
time, and the medians of its ratios to the step as it is and to torch's, both of the same round.
"""

import argparse
import dataclasses
import importlib.metadata
import statistics
from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
import numpy as np
import torch

from cover_jax.models import attention, cover, variants
from tests.benchmarks import measure, model, torch_timesformer
from tests.models import small

AS_IT_IS = "as it is"


class Wrapped:
    """cuDNN's attention behind the methods of a form that `attention.reads_parts` does not know."""

    def __init__(self, cudnn: attention.Attend):
        self.cudnn = cudnn
        self.order_columns = cudnn.order_columns

    def __call__(self, qkv_BTSC: jax.Array, axis: attention.Axis) -> jax.Array:
        """Of one product: query, key and value are cut out of it, frames and positions are swapped after it."""
        return self.cudnn(qkv_BTSC, axis)


class EinsumOverTime(Wrapped):
    """cuDNN in each frame; over time, where 8 or 16 tokens fill a small part of its tiles, einsum."""

    def __call__(self, qkv_BTSC: jax.Array, axis: attention.Axis) -> jax.Array:
        if axis == "time":
            return attention.attend(qkv_BTSC, self.cudnn.num_heads, axis)
        return super().__call__(qkv_BTSC, axis)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What differs from the step as it is: config.model.remat, the form of attention, the compiler's options."""

    remat: str = "none"
    form: str = "cudnn"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def model(self, shape: model.Shape, dtype: str) -> cover.Functional:
        variant = variants.parse(shape.variant)
        attend = attention.Attend("cudnn", variant.num_heads, variant.width // variant.num_heads)
        forms = {
            "cudnn": attend,
            "einsum": dataclasses.replace(attend, form="einsum"),
            "one product": Wrapped(attend),
            "einsum over time": EinsumOverTime(attend),
        }
        with mock.patch.object(cover, "choose_attention", return_value=forms[self.form]):
            return cover.functional(shape.config(self.remat, dtype), {model.HEAD: model.CLASSES})


EXPERIMENTS = {
    AS_IT_IS: Experiment(),
    "remat=attention": Experiment(remat="attention"),
    "remat=full": Experiment(remat="full"),
    "query, key and value by one product": Experiment(form="one product"),
    "einsum over time": Experiment(form="einsum over time"),
    "einsum over time and space": Experiment(form="einsum"),
    "Triton for any product": Experiment(options={"xla_gpu_triton_gemm_any": True}),
    "cuBLAS for all products": Experiment(options={"xla_gpu_enable_triton_gemm": False}),
    "no command buffers": Experiment(options={"xla_gpu_enable_command_buffer": ""}),
    "command buffers around loops": Experiment(
        options={"xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,WHILE"}
    ),
    "no latency-hiding scheduler": Experiment(options={"xla_gpu_enable_latency_hiding_scheduler": False}),
}


def table(shape: model.Shape, arguments: argparse.Namespace) -> None:
    """All experiments on one shape. One that the compiler refuses has a row that says so."""
    params = small.random_params(jax.eval_shape(Experiment().model(shape, "bfloat16").init, jax.random.key(0)))
    frames = small.frames(arguments.clips, shape.num_frames, shape.size_px, shape.size_px)
    labels = np.arange(arguments.clips, dtype=np.int32)
    built = torch_timesformer.build(params, model.HEAD, shape.config("none", "bfloat16"), model.CLASSES)
    steps = {"torch": torch_timesformer.make_step(torch_timesformer.fuse(built.cuda()), frames, labels, "cuda")}
    logits, refused = {"torch": steps["torch"]()}, {}
    for name, experiment in EXPERIMENTS.items():
        options = dict(experiment.options)
        if arguments.dump and name == AS_IT_IS:
            options["xla_dump_to"] = f"{arguments.dump}/{shape.variant.replace('/', '_')}"
        step = model.our_step(experiment.model(shape, "bfloat16"), params, frames, labels, options)
        try:
            logits[name] = step()
        except jax.errors.JaxRuntimeError as error:
            refused[name] = str(error).splitlines()[0]
        else:
            steps[name] = step
    wall, _ = model.timed(steps, arguments.rounds)
    print(f"\n{shape.variant} {shape.num_frames} x {shape.size_px} px, {arguments.clips} clips, bfloat16\n")
    print("| experiment | ms | over as it is | over torch | largest difference of logits from torch's |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in steps:
        ratios = [measure.ratio(wall, name, other) if other in wall else float("nan") for other in (AS_IT_IS, "torch")]
        differs = float(np.abs(logits[name] - logits["torch"]).max() / logits["torch"].std())
        row = [
            name,
            f"{1000 * statistics.median(wall[name]):.1f}",
            *(f"{ratio:.2f}" for ratio in ratios),
            f"{differs:.1e}",
        ]
        print(f"| {' | '.join(row)} |", flush=True)
    for name, reason in refused.items():
        print(f"| {name} | refused: {reason} | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [model.Shape.parse("B/16:8x224"), model.Shape.parse("L/16:16x448")]
    parser.add_argument("shapes", nargs="*", type=model.Shape.parse, default=default, help="VARIANT:FRAMESxSIDE")
    parser.add_argument("--clips", type=int, default=8, help="clips a step; 32 is the other number to try")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each that are timed")
    parser.add_argument("--dump", default="", help="folder for the compiler's texts of the step as it is")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cuda")
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "torch", "transformers")}
    print(f"{jax.devices()[0].device_kind}, {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {versions}")
    for shape in arguments.shapes:
        table(shape, arguments)


if __name__ == "__main__":
    main()
