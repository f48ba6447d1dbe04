"""Compiles the steps of a config for a TPU slice, and adds up what they cost: memory, time, MFU."""

import copy
import pathlib
import re
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.evaluation import eval_step
from cover_jax.models import cover, flops
from cover_jax.parallel import chips, sharding
from cover_jax.plan import hlo_cost, topologies
from cover_jax.plan.table import Plan, Program
from cover_jax.training import optimizer, train_step

WORK = {"matmul": "matmuls", "kernel": "kernels", "elementwise": "elementwise", "collective": "collectives"}


class Compiler:
    """A config's steps, compiled for one topology.

    Args:
        config: a validated config; every dataset must state its `num_classes`.
        topology: as in `topologies.parse`.
        dump_folder: as in `topologies.use_compiler_only`.

    Raises:
        ConfigError: a dataset without `num_classes`, or batches that the chips cannot share.
        TopologyError: as in `topologies.devices`.
    """

    def __init__(self, config: ConfigDict, topology: str, dump_folder: pathlib.Path):
        self.config, self.dump_folder = config, dump_folder
        self._bundles: dict[tuple[str, ...], int] = {}  # of one grid step of each kernel
        self.chip, self.num_chips = topologies.parse(topology)
        self.mesh = sharding.make_mesh(config.mesh, topologies.devices(topology))
        checks.validate_batches(config, sharding.num_batch_shards(self.mesh))
        num_classes = {name: _num_classes(name, dataset) for name, dataset in config.datasets.items()}
        self.model = cover.functional(
            config.model,
            num_classes,
            constrain=sharding.constrain_batch(self.mesh),
            qkv_sharding=sharding.qkv_sharding(self.mesh),
        )
        self.schedule = optimizer.make_schedule(config.optimizer, config.steps)
        key = jax.eval_shape(lambda: jax.random.key(0))
        self.tx = optimizer.make_optimizer(config.optimizer, self.schedule, jax.eval_shape(self.model.init, key))
        state = jax.eval_shape(train_step.make_init(self.model, self.tx, config.optimizer.ema_decay), key)
        self.shardings = sharding.state_shardings(state, self.model.axes, self.mesh)
        self.state = jax.tree.map(_with_sharding, state, self.shardings)
        self.class_names = {name: tuple(map(str, range(count))) for name, count in num_classes.items()}

    def train_program(self, names: tuple[str, ...], counts_for: tuple[str, ...], share: float) -> Program:
        """The training step on `names`, one dataset or, for a joint plan, all."""
        cut = sharding.cut_batch(self.mesh, self.config.optimizer.grad_accum_steps)
        step = train_step.make_train_step(self.config, self.model, self.class_names, self.tx, self.schedule, cut)
        step = jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, sharding.replicated(self.mesh)))
        batches = {name: self._batch(name) for name in names}
        needed = sum(flops.train_step(self.config, name) for name in names)
        return self._compile(step, (self.state, batches), names, counts_for, share, needed)

    def eval_program(self, name: str) -> Program:
        """The evaluation step on one dataset; its `share` is of its own evaluation."""
        step = eval_step.make_eval_step(self.config, self.model, name)
        step = jax.jit(step, out_shardings=sharding.replicated(self.mesh))
        batch = self._batch(name, evaluation=True)
        return self._compile(step, (self.state.eval_params, batch), (name,), (name,), 1.0, 0)

    def _batch(self, name: str, evaluation: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
        dataset = self.config.datasets[name]
        size, frames = dataset.batch_size, dataset.num_frames
        if evaluation:
            size, frames = dataset.eval_batch_size, dataset.num_frames * dataset.eval_clips
        shapes = {
            "frames": ((size, frames, *dataset.canvas_px, 3), jnp.uint8),
            "size_px": ((size, 2), jnp.int32),
            "label": ((size,), jnp.int32),
            "weight": ((size,), jnp.float32),
            "index": ((size,), jnp.int32),
            "seed": ((size,), jnp.uint32),
        }
        by_batch = sharding.batch_sharding(self.mesh)
        return {key: jax.ShapeDtypeStruct(*shape, sharding=by_batch) for key, shape in shapes.items()}

    def _compile(self, step, arguments, names, counts_for, share: float, needed: int) -> Program:
        parameters, extra = _bytes_per_chip(self.state.params), _bytes_per_chip((self.state.opt_state, self.state.ema))
        base = dict(
            datasets=names, counts_for=counts_for, share=share,
            parameters_gib=parameters / chips.GIB, optimizer_gib=extra / chips.GIB,
        )  # fmt: skip
        start = time.perf_counter()
        for notes in self.dump_folder.glob("*"):  # of another program, whose names may be the same
            notes.unlink()
        try:
            compiled = step.lower(*arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            wanted = _wanted_gib(str(error))
            if wanted is None:
                raise
            held = (parameters + extra) / chips.GIB
            return Program(**base, activations_gib=wanted - held, peak_gib=wanted, fits=False)
        memory = compiled.memory_analysis()
        return Program(
            **base,
            activations_gib=memory.temp_size_in_bytes / chips.GIB,
            peak_gib=_peak_bytes(memory) / chips.GIB,
            fits=True,
            **self._times_ms(hlo_cost.read(compiled.as_text())),
            tflop=needed / self.num_chips / 1e12,
            compile_s=time.perf_counter() - start,
        )

    def _times_ms(self, work: list[hlo_cost.Work]) -> dict[str, float]:
        # A program that was compiled before is not noted again.
        self._bundles |= hlo_cost.kernel_bundles(self.dump_folder, work)
        seconds = dict.fromkeys(WORK, 0.0)
        for one in work:
            match one.kind:
                case "kernel":
                    each = self._kernel_s(one)
                case "collective":
                    each = one.bytes / self.chip.axis_bytes_s
                case _:
                    each = one.cycles / self.chip.clock_hz
            seconds[one.kind] += one.trips * each
        return {f"{WORK[kind]}_ms": 1e3 * total for kind, total in seconds.items()}

    def _kernel_s(self, kernel: hlo_cost.Work) -> float:
        """The longer of a kernel's instructions, shared by the cores of a chip, and its traffic with the memory."""
        cycles = self._bundles[kernel.program] * kernel.grid_steps / self.chip.cores
        return max(cycles / self.chip.clock_hz, kernel.bytes / (self.chip.hbm_gbps * 1e9))


def make_plan(config: ConfigDict, topology: str, dump_folder: pathlib.Path, evaluation: bool = False) -> Plan:
    """Compiles a config for a topology; arguments and errors as in `Compiler`."""
    compiler = Compiler(config, topology, dump_folder)
    programs = tuple(compiler.train_program(*step) for step in _steps(config))
    evaluated = [name for name, dataset in config.datasets.items() if evaluation and dataset.eval_split]
    evaluations = tuple(compiler.eval_program(name) for name in evaluated)
    wrong = [program for program in programs + evaluations if not program.fits]
    mean = {} if wrong else _mean(config, programs, compiler)
    return Plan(
        topology=topology,
        mesh=dict(compiler.mesh.shape),
        chips=compiler.num_chips,
        batch_sizes={name: dataset.batch_size for name, dataset in config.datasets.items()},
        hbm_gib=compiler.chip.hbm_gib,
        programs=programs,
        evaluations=evaluations,
        fits=not wrong,
        advice=_advice(config, wrong[0], compiler.mesh, compiler.chip) if wrong else "",
        **mean,
    )


def scale_batches(config: ConfigDict, topology: str, clips_per_chip: int) -> ConfigDict:
    """The config with `clips_per_chip` examples of the dataset with the longest clips; the others keep their ratio."""
    config = copy.deepcopy(config)
    _, num_chips = topologies.parse(topology)
    longest = max(config.datasets.values(), key=lambda dataset: (dataset.num_frames, dataset.batch_size)).batch_size
    for dataset in config.datasets.values():
        for key in ("batch_size", "eval_batch_size"):
            dataset[key] = max(1, dataset[key] * clips_per_chip // longest) * num_chips
    return config


def _steps(config: ConfigDict) -> list[tuple[tuple[str, ...], tuple[str, ...], float]]:
    """What to compile: (datasets of one step, datasets that it stands for, its share of all steps).

    Steps on clips of one length and batch size differ by a thousandth of their work (resizing another canvas, a head of
    other width), so that the one with the largest canvas stands for all of them.
    """
    names = tuple(config.datasets)
    if config.plan == "joint":
        return [(names, names, 1.0)]
    groups: dict[tuple[int, int], list[str]] = {}
    for name, dataset in config.datasets.items():
        groups.setdefault((dataset.num_frames, dataset.batch_size), []).append(name)
    total = sum(dataset.weight for dataset in config.datasets.values())
    canvas = lambda name: config.datasets[name].canvas_px[0] * config.datasets[name].canvas_px[1]  # noqa: E731
    return [
        ((max(group, key=canvas),), tuple(group), sum(config.datasets[name].weight for name in group) / total)
        for group in groups.values()
    ]


def _mean(config: ConfigDict, programs: tuple[Program, ...], compiler: Compiler) -> dict[str, float]:
    step_ms = sum(program.share * program.compute_ms for program in programs)
    exposed_ms = step_ms + sum(program.share * program.collectives_ms for program in programs)
    tflop = sum(program.share * program.tflop for program in programs)
    examples = sum(p.share * sum(config.datasets[name].batch_size for name in p.datasets) for p in programs)
    return dict(
        step_ms=step_ms,
        exposed_step_ms=exposed_ms,
        mfu=tflop / (step_ms / 1e3) / compiler.chip.peak_tflops,
        mfu_exposed=tflop / (exposed_ms / 1e3) / compiler.chip.peak_tflops,
        clips_per_s=examples / (step_ms / 1e3),
        days=config.steps * step_ms / 1e3 / 86_400,
    )


def _advice(config: ConfigDict, program: Program, mesh: Mesh, chip: chips.Chip) -> str:
    """What to change so that a program fits, in the config's words."""
    name = program.datasets[0]
    held = program.parameters_gib + program.optimizer_gib
    said = (
        f"{', '.join(program.datasets)}: needs {program.peak_gib:.1f} GiB of a chip's {chip.hbm_gib:g}: "
        f"{held:.1f} hold parameters and optimizer state, {program.activations_gib:.1f} activations."
    )
    changes = []
    if held > chip.hbm_gib / 4:
        changes.append(f"raise config.mesh.fsdp (now {mesh.shape['fsdp']}), which divides parameters and optimizer")
    if config.model.remat != "full":
        changes.append(f"set config.model.remat='full' (now {config.model.remat!r})")
    batch_size, pieces = config.datasets[name].batch_size, config.optimizer.grad_accum_steps
    if batch_size > pieces * sharding.num_batch_shards(mesh):
        changes.append(
            f"raise config.optimizer.grad_accum_steps (now {pieces}), which keeps the batch, "
            f"or lower config.datasets.{name}.batch_size (now {batch_size})"
        )
    changes.append("take a chip with more memory, or shard further (config.mesh.tensor)")
    return f"{said} Change, in this order: {'; '.join(changes)}."


def _num_classes(name: str, dataset: ConfigDict) -> int:
    if not dataset.num_classes:
        raise ConfigError(
            f"config.datasets.{name}.num_classes=0: the plan opens no data, so it must be given, for example "
            f"--config.datasets.{name}.num_classes=400"
        )
    return dataset.num_classes


def _with_sharding(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _bytes_per_chip(tree) -> int:
    def one(leaf: jax.ShapeDtypeStruct) -> int:
        return jnp.dtype(leaf.dtype).itemsize * int(jnp.prod(jnp.array(leaf.sharding.shard_shape(leaf.shape))))

    return sum(one(leaf) for leaf in jax.tree.leaves(tree))


def _peak_bytes(memory) -> int:
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes


def _wanted_gib(message: str) -> float | None:
    """What a program that the compiler refused would have used; None where that was not the reason."""
    found = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", message)
    return float(found[1]) / {"K": 1 << 20, "M": 1 << 10, "G": 1}[found[2]] if found else None
