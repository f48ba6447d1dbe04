"""Compiles the steps of a config for a TPU slice, and adds up what they cost: memory, time, MFU."""

import copy
import dataclasses
import pathlib
import re
import time
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cover_jax.errors import ConfigError
from cover_jax.models.kernels import divided_attention
from cover_jax.parallel import backend, chips, sharding
from cover_jax.plan import hlo_cost, step_time, topologies
from cover_jax.plan.table import Plan, Program, mean_step
from cover_jax.tasks.head_list import HeadList
from cover_jax.training import setup
from cover_jax.training.train_step import TrainState
from data_pipelines.stream import mixture


class Step(NamedTuple):
    """A kind of training step.

    Attributes:
        datasets: the datasets of one call: one dataset or, for a joint plan, all.
        counts_for: all datasets whose steps are assumed to cost the same.
        share: share of all steps.
    """

    datasets: tuple[str, ...]
    counts_for: tuple[str, ...]
    share: float


class Compiler:
    """A config's steps, compiled for one topology.

    Args:
        config: a validated config; every dataset must state its `num_classes`.
        topology: as in `topologies.parse`.
        dump_folder: as in `topologies.use_compiler_only`.

    Raises:
        ConfigError: a dataset has no `num_classes`, or batches do not divide evenly over the chips.
        TopologyError: as in `topologies.devices`.
    """

    def __init__(self, config: ConfigDict, topology: str, dump_folder: pathlib.Path):
        devices = topologies.devices(topology)
        self.config = config = backend.with_dtype(config, devices[0])
        self.dump_folder = dump_folder
        self._bundles: dict[tuple[str, ...], int] = {}  # bundles per grid step of each kernel
        self.chip, self.num_chips = topologies.parse(topology)
        self.num_devices = self.num_chips * self.chip.devices
        mesh = setup.make_mesh(config, devices)
        class_names = {name: _class_names(name, dataset) for name, dataset in config.datasets.items()}
        self.setup = setup.make_setup(config, class_names, mesh)

    def train_program(self, step: Step) -> Program:
        """Compiles a training step."""
        batches = self.setup.train_batches(step.datasets)
        needed_flops = sum(map(self.setup.step_flops, step.datasets))
        return self._compile(self.setup.train_step, self.setup.state, batches, step, needed_flops)

    def eval_program(self, name: str) -> Program:
        """Compiles the evaluation step on one dataset. Its `share` is that of its own evaluation."""
        step, jitted = Step((name,), (name,), 1.0), self.setup.eval_steps[name]
        return self._compile(jitted, self.setup.state.eval_params, self.setup.eval_batch(name), step, needed_flops=0)

    def _compile(self, jitted: Any, held: Any, batches: Any, step: Step, needed_flops: int) -> Program:
        base: dict[str, Any] = step._asdict() | {"host_mib": _bytes_per_device(batches) / (1 << 20)}
        start = time.perf_counter()
        _clear(self.dump_folder)
        try:
            compiled = jitted.lower(held, batches).compile()
        except jax.errors.JaxRuntimeError as error:
            return Program(**base, **program_memory(self.setup.state, error))
        work = hlo_cost.read(compiled.as_text())
        # The compiler does not note a kernel again that an earlier program had.
        self._bundles |= hlo_cost.kernel_bundles(self.dump_folder, work)
        return Program(
            **base,
            **program_memory(self.setup.state, compiled),
            **dataclasses.asdict(step_time.of_work(work, self.chip, self._bundles)),
            tflop=needed_flops / self.num_devices / 1e12,
            compile_s=time.perf_counter() - start,
        )


def program_memory(state: TrainState, compiled: jax.stages.Compiled | BaseException) -> dict[str, Any]:
    """The memory of a compiled program on one device, or of one that the compiler refused: fields of `Program`.

    Args:
        state: shapes and shardings of the state.
        compiled: the program, or the error of its compilation.

    Raises:
        The error, if the compiler did not refuse the program for its memory.
    """
    parameters, extra = _bytes_per_device(state.params), _bytes_per_device((state.opt_state, state.ema))
    held = {"parameters_gib": parameters / chips.GIB, "optimizer_gib": extra / chips.GIB}
    if isinstance(compiled, BaseException):
        wanted = _wanted_gib(str(compiled))
        if wanted is None:
            raise compiled
        return held | {"activations_gib": wanted - sum(held.values()), "peak_gib": wanted, "fits": False}
    memory: Any = compiled.memory_analysis()
    activations, peak = memory.temp_size_in_bytes / chips.GIB, _peak_bytes(memory) / chips.GIB
    return held | {"activations_gib": activations, "peak_gib": peak, "fits": True}


def kernel_times(
    topology: str, shape: tuple[str, int, int, int], dump_folder: pathlib.Path
) -> list[step_time.StepTime]:
    """Times of the fused attention's forward and backward kernel, for one clip and 16 heads.

    Args:
        topology: of the chip, such as v5e:1x1.
        shape: axis ("time" or "space"), frames of the clip, tokens of a frame, channels of a head.
        dump_folder: as in `topologies.use_compiler_only`.
    """
    (axis, num_frames, num_tokens, head_dim), num_heads = shape, 16
    where = jax.sharding.SingleDeviceSharding(topologies.devices(topology)[0])
    qkv_BTSC = jax.ShapeDtypeStruct((1, num_frames, num_tokens, 3 * num_heads * head_dim), jnp.bfloat16, sharding=where)

    def total(qkv_BTSC: jax.Array) -> jax.Array:
        attended = divided_attention.attend(qkv_BTSC, num_heads, head_dim, cast("divided_attention.Axis", axis))
        return jnp.sum(attended.astype(jnp.float32))

    _clear(dump_folder)
    compiled: Any = jax.jit(jax.grad(total)).lower(qkv_BTSC).compile()
    work = hlo_cost.read(compiled.as_text())
    bundles, chip = hlo_cost.kernel_bundles(dump_folder, work), topologies.parse(topology)[0]
    passes = [[one for one in work if one.kind == "kernel" and name in one.name] for name in ("forward", "backward")]
    return [step_time.of_work(kernels, chip, bundles) for kernels in passes]


def _clear(dump_folder: pathlib.Path) -> None:
    """Removes the notes of an earlier program, whose names may be the same."""
    for notes in dump_folder.glob("*"):
        notes.unlink()


def make_plan(config: ConfigDict, topology: str, dump_folder: pathlib.Path, evaluation: bool = False) -> Plan:
    """Compiles a config for a topology; arguments and errors as in `Compiler`."""
    compiler = Compiler(config, topology, dump_folder)
    programs = tuple(map(compiler.train_program, _steps(compiler.setup.config)))
    evaluated = [name for name, dataset in config.datasets.items() if evaluation and dataset.eval_split]
    evaluations = tuple(compiler.eval_program(name) for name in evaluated)
    wrong = [program for program in programs + evaluations if not program.fits]
    hbm_gib = compiler.chip.hbm_gib / compiler.chip.devices
    mean = {} if wrong else mean_step(config, programs, compiler.chip)
    return Plan(
        topology=topology,
        mesh=dict(compiler.setup.mesh.shape),
        chips=compiler.num_chips,
        devices=compiler.num_devices,
        batch_sizes={name: dataset.batch_size for name, dataset in config.datasets.items()},
        hbm_gib=hbm_gib,
        programs=programs,
        evaluations=evaluations,
        fits=not wrong,
        advice=advice(config, wrong[0], compiler.setup.mesh, hbm_gib) if wrong else "",
        **mean,
    )


def scale_batches(config: ConfigDict, topology: str, clips_per_chip: int) -> ConfigDict:
    """The config with `clips_per_chip` for the dataset with the longest clips. Other batches keep their ratio.

    A TPU7x chip counts as two: JAX shows two devices.
    """
    config = copy.deepcopy(config)
    chip, num_chips = topologies.parse(topology)
    longest = max(config.datasets.values(), key=lambda dataset: (dataset.num_frames, dataset.batch_size)).batch_size
    for dataset in config.datasets.values():
        for key in ("batch_size", "eval_batch_size"):
            dataset[key] = max(1, dataset[key] * clips_per_chip // longest) * num_chips * chip.devices
    return config


def _steps(config: ConfigDict) -> list[Step]:
    """The kinds of steps to compile.

    Steps on clips of the same length and batch size differ by a thousandth of their work (canvas size, width of the
    head). So the step with the largest canvas represents all of them.
    """
    names = tuple(config.datasets)
    if config.plan == "joint":
        return [Step(names, names, 1.0)]
    groups: dict[tuple[int, int], list[str]] = {}
    for name, dataset in config.datasets.items():
        groups.setdefault((dataset.num_frames, dataset.batch_size), []).append(name)
    counts = mixture.Mixture.of(config.datasets, config.plan, config.seed).counts(config.steps)
    canvas = lambda name: config.datasets[name].canvas_px[0] * config.datasets[name].canvas_px[1]  # noqa: E731
    return [
        Step((max(group, key=canvas),), tuple(group), sum(counts[name] for name in group) / config.steps)
        for group in groups.values()
    ]


def advice(config: ConfigDict, program: Program, mesh: Mesh, hbm_gib: float) -> str:
    """What to change in the config so that a program fits."""
    name = program.datasets[0]
    held = program.parameters_gib + program.optimizer_gib
    reason = (
        f"{', '.join(program.datasets)}: needs {program.peak_gib:.1f} GiB of a device's {hbm_gib:g} GiB: "
        f"{held:.1f} for parameters and optimizer state, {program.activations_gib:.1f} for activations."
    )
    changes = []
    if held > hbm_gib / 4:
        changes.append(f"raise config.mesh.fsdp (now {mesh.shape['fsdp']}), which divides parameters and optimizer")
    if config.model.remat != "full":
        changes.append(f"set config.model.remat='full' (now {config.model.remat!r})")
    batch_size, pieces = config.datasets[name].batch_size, config.optimizer.grad_accum_steps
    if batch_size > pieces * sharding.num_batch_shards(mesh):
        changes.append(
            f"raise config.optimizer.grad_accum_steps (now {pieces}), which keeps the batch, "
            f"or lower config.datasets.{name}.batch_size (now {batch_size})"
        )
    changes.append("use a chip with more memory, or shard more (config.mesh.tensor)")
    return f"{reason} Change, in this order: {'; '.join(changes)}."


def _class_names(name: str, dataset: ConfigDict) -> tuple[str, ...]:
    """Placeholder class names: no data is opened."""
    if heads := HeadList.parse(dataset.heads):
        return tuple(map(str, range(sum(head.num_classes for head in heads))))
    if not dataset.num_classes:
        raise ConfigError(
            f"config.datasets.{name}.num_classes=0: the plan opens no data, so it must be given, for example "
            f"--config.datasets.{name}.num_classes=400"
        )
    return tuple(map(str, range(dataset.num_classes)))


def _bytes_per_device(tree) -> int:
    def one(leaf: jax.ShapeDtypeStruct) -> int:
        return jnp.dtype(leaf.dtype).itemsize * int(jnp.prod(jnp.array(leaf.sharding.shard_shape(leaf.shape))))

    return sum(one(leaf) for leaf in jax.tree.leaves(tree))


def _peak_bytes(memory) -> int:
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes


def _wanted_gib(message: str) -> float | None:
    """Memory that a refused program needed; None if the compiler refused it for another reason."""
    found = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", message)
    return float(found[1]) / {"K": 1 << 20, "M": 1 << 10, "G": 1}[found[2]] if found else None
