"""The plan: what is counted, what is read from a compiled program, and one real compilation for a slice of four."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import jax.extend
import numpy as np
import pytest

from configs import cover_l, demo
from cover_jax import errors
from cover_jax.models import flops, variants
from cover_jax.parallel import chips
from cover_jax.plan import __main__ as plan_command
from cover_jax.plan import compiler, hlo_cost, step_time, table, topologies
from cover_jax.training import optimizer
from tests.helpers import small
from tests.models import small as small_model

# Operations


def dot_flops(jaxpr) -> int:
    """Operations of all matrix products of a jaxpr, inner jaxprs included, but for sums in the form of one.

    Of branches, such as one per platform, one runs.
    """
    total = 0
    for eqn in jaxpr.eqns:
        if "bias_gradient" in str(eqn.source_info.name_stack):
            continue
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = [eqn.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * eqn.outvars[0].aval.size * int(np.prod(depth))
        inner = [dot_flops(sub) for sub in jax.extend.core.jaxprs_in_params(eqn.params)]
        total += max(inner) if eqn.primitive.name == "cond" else sum(inner) * eqn.params.get("length", 1)
    return total


@pytest.mark.parametrize("num_frames", [4, 1])
def test_operations_are_those_of_the_model_s_matrix_products(num_frames):
    config = small_model.config(remat="none", num_frames=num_frames)
    model = small_model.model(remat="none", num_frames=num_frames)
    frames = small_model.frames(1, num_frames, 16, 16)
    traced = jax.make_jaxpr(model.features)(small_model.params(remat="none", num_frames=num_frames), frames)
    assert dot_flops(traced.jaxpr) == flops.forward(variants.parse(config.variant), num_frames, 4)


def test_a_step_of_cover_l_needs_35_tflop_a_clip_and_1_9_an_image():
    config = cover_l.get_config()
    for name, needed in (("k400", 35.24e12), ("imagenet", 1.96e12)):
        assert flops.train_step(config, name) / config.datasets[name].batch_size == pytest.approx(needed, rel=0.01)


@pytest.mark.parametrize(("frozen", "passes"), [("", 3), ("backbone/.*", 1)])
def test_nothing_goes_back_through_a_frozen_backbone(frozen, passes):
    config = small.config(model__remat="none", optimizer__frozen=frozen)
    trainer = small.Trainer(config)
    traced = trainer.jitted.trace(trainer.state, {"video": trainer.put(small.batch(config, "video"))})
    needed = flops.train_step(config, "video", optimizer.trains_backbone(config.optimizer, trainer.state.params))
    assert needed == passes * 8 * flops.forward(variants.parse(config.model.variant), 2, 4)
    assert dot_flops(traced.jaxpr.jaxpr) == pytest.approx(needed, rel=0.01)  # the rest: heads and resizing


# Chips


@pytest.mark.parametrize(
    ("name", "count"),
    [("v5e:16x16", 256), ("v5p:4x4x4", 64), ("v6e:1x1", 1), ("v4:2x2x1", 4), ("v5e:4x4*3", 48), ("tpu7x:4x4x4", 64)],
)
def test_topology_names(name, count):
    chip, found = topologies.parse(name)
    assert found == count
    assert chip is chips.CHIPS[name.split(":")[0]]


@pytest.mark.parametrize("name", ["v5e", "v5e:16", "v9:2x2", "v5e:0x2", "16x16", "v5e:2x2x2x2"])
def test_a_topology_that_cannot_be_is_refused(name):
    with pytest.raises(topologies.TopologyError, match=f"--topology={name}.*v4, v5e, v5p, v6e, tpu7x"):
        topologies.parse(name)


def test_clocks_follow_from_peak_and_matrix_units():
    """Published clocks: v4 1.05 GHz (arXiv 2304.01433, table 4)."""
    assert chips.CHIPS["v4"].clock_hz == pytest.approx(1.05e9, rel=0.01)
    assert all(0.9e9 < chip.clock_hz < 2.5e9 for chip in chips.CHIPS.values())


# The compiled program's text

HLO = """HloModule jit_step

%fused (p: bf16[8,8]) -> bf16[8,8] {
  %p = bf16[8,8]{1,0} parameter(0)
  ROOT %c = bf16[8,8]{1,0} convolution(%p, %p), dim_labels=bf_io->bf
}

%condition (s: (s32[])) -> pred[] {
  %s = (s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[]{:T(128)} constant(24)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%body (s: (s32[])) -> (s32[]) {
  %s = (s32[]) parameter(0)
  %x = bf16[8,8]{1,0} constant({...})
  %m = bf16[8,8]{1,0} fusion(%x), kind=kOutput, calls=%fused, metadata={op_name="a/dot"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %k.1 = bf16[4,8]{1,0:T(8,128)(2,1)} custom-call(%m, %x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"grid_steps":"6"
}}, metadata={op_name="b/kernel"}
  ROOT %t = (s32[]) tuple(%s)
}

ENTRY %main (p: f32[16]) -> f32[16] {
  %p = f32[16]{0} parameter(0)
  %w = (s32[]) while(%t), condition=%condition, body=%body
  %e = f32[16]{0} add(%p, %p), backend_config={"window_config":{"estimated_cycles":"7"}}
  %g = f32[64]{0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={0}
  %r = (f32[16]{0}, f32[8]{0}) all-reduce(%p, %q), replica_groups={{0,1},{2,3}}, to_apply=%add
  %a = (f32[16]{0}, f32[64]{0}) all-gather-start(%p), replica_groups=[2,4]<=[8]
  %d = f32[64]{0} all-gather-done(%a)
  %v = (bf16[8]{0}, bf16[8]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}
  ROOT %s = f32[4]{0} reduce-scatter(%p), replica_groups=[2,4]<=[8], to_apply=%add
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def work():
    return {one.name: one for one in hlo_cost.read(HLO)}


def test_a_loop_s_work_counts_as_often_as_it_runs(work):
    assert (work["m"].kind, work["m"].trips, work["m"].cycles, work["m"].op_name) == ("matmul", 24, 100, "a/dot")
    assert (work["e"].kind, work["e"].trips, work["e"].cycles) == ("elementwise", 1, 7)


def test_a_kernel_has_its_grid_and_its_traffic(work):
    kernel = work["k.1"]
    assert (kernel.kind, kernel.trips, kernel.grid_steps, kernel.op_name) == ("kernel", 24, 6, "b/kernel")
    assert kernel.bytes == 2 * (64 + 64 + 32)


@pytest.mark.parametrize(
    ("name", "bytes"),
    [
        ("g", 256 * 3 // 4),  # three quarters come from elsewhere
        ("r", 2 * 96 // 2),  # there and back, half of it each
        ("a", 256 * 3 // 4),  # the result, not the operand beside it
        ("v", 16),
        ("s", 16 * 3),  # the operand is four times the result
    ],
)
def test_collectives(work, name, bytes):
    assert (work[name].kind, work[name].bytes) == ("collective", bytes)
    assert "d" not in work


def test_bundles_of_a_kernel(tmp_path, work):
    (tmp_path / "123-k.1-00-schedule-analysis_final_bundles.txt").write_text("x:\n\ttotal scheduled bundles:    6290\n")
    (tmp_path / "123-k.1-01-final_bundles.txt").write_text("total scheduled bundles: 1")
    assert hlo_cost.kernel_bundles(tmp_path, list(work.values())) == {work["k.1"].program: 6290}


MOVED = "%k.2 = bf16[4,8]{1,0:T(8,128)(2,1)S(1)}"


def test_kernels_of_one_program_are_noted_once(tmp_path, work):
    """The second runs on arrays that only stand elsewhere in memory."""
    (tmp_path / "123-k.1-00-schedule-analysis_final_bundles.txt").write_text("x:\n\ttotal scheduled bundles:    6290\n")
    again = {one.name: one for one in hlo_cost.read(HLO.replace("%k.1 = bf16[4,8]{1,0:T(8,128)(2,1)}", MOVED))}
    assert hlo_cost.kernel_bundles(tmp_path, list(work.values()))[again["k.2"].program] == 6290


# Seconds

# A chip with round figures: 1 GHz, 100 GB/s of memory, 10 GB/s along an axis of the torus.
CHIP = chips.Chip(
    hbm_gib=1, hbm_gbps=100, peak_tflops=2, links=2, ici_gbps=10, cores=2, mxu_macs=1000, source="made up"
)


def instruction(kind: str, **costs) -> hlo_cost.Work:
    costs = {"cycles": 0, "bytes": 0, "grid_steps": 0, **costs}
    return hlo_cost.Work("name", kind, trips=10, program=("kernel",), op_name="", **costs)


def test_each_kind_of_work_takes_the_time_of_what_binds_it():
    assert CHIP.clock_hz == 1e9 and CHIP.axis_bytes_s == 10e9
    work = [
        instruction("matmul", cycles=2_000_000),
        instruction("elementwise", cycles=300_000),
        instruction("elementwise", cycles=100_000),
        instruction("collective", bytes=50_000_000),
        instruction("kernel", bytes=100_000, grid_steps=8),  # 1,000 bundles each, on two cores: 4 us against 1 us
        instruction("kernel", bytes=10_000_000, grid_steps=8),  # its traffic takes longer: 100 us
    ]
    work += [instruction("collective", bytes=2_000_000, is_async=True)]
    found = step_time.of_work(work, CHIP, {("kernel",): 1000})
    assert (found.matmuls_ms, found.elementwise_ms, found.kernels_ms) == pytest.approx((20, 4, 1.04))
    assert (found.sync_collectives_ms, found.async_collectives_ms) == pytest.approx((50, 2))
    assert found.grid_steps_ms == pytest.approx(2 * 8 * 10 * 0.35e-3 / 2)  # two kernels, ten times, on two cores
    assert step_time.of_work(work, CHIP).kernels_ms == pytest.approx(10 * (1e-3 + 0.1))  # their traffic alone


def test_mfu_with_all_transfers_hidden_with_the_asynchronous_ones_and_with_none():
    time = step_time.StepTime(
        matmuls_ms=6, kernels_ms=3, elementwise_ms=1, sync_collectives_ms=4, async_collectives_ms=6
    )
    assert (time.all_hidden_ms, time.step_ms, time.none_hidden_ms) == (10, 14, 20)
    assert time.mfus(0.01, CHIP) == pytest.approx((0.5, 0.01 / 0.014 / 2, 0.25))
    assert time.mfus(0.01, dataclasses.replace(CHIP, devices=2)) == pytest.approx((1.0, 0.01 / 0.014, 0.5))


def test_transfers_that_take_longer_than_the_computation_do_not_hide():
    time = step_time.StepTime(matmuls_ms=5, sync_collectives_ms=4, async_collectives_ms=6)
    assert (time.all_hidden_ms, time.step_ms, time.none_hidden_ms) == (10, 10, 15)


def test_a_device_of_two_per_chip_has_half_of_all():
    half = dataclasses.replace(CHIP, devices=2)
    work = [instruction("collective", bytes=50_000_000), instruction("kernel", bytes=100_000, grid_steps=8)]
    found = step_time.of_work(work, half, {("kernel",): 1000})
    assert (found.sync_collectives_ms, found.kernels_ms) == pytest.approx((100, 10 * 8e-3))


# The plan


def test_batches_scale_with_the_longest_clips_and_keep_their_ratio():
    scaled = compiler.scale_batches(cover_l.get_config(), "v5e:4x4", 2)
    sizes = {name: dataset.batch_size for name, dataset in scaled.datasets.items()}
    assert sizes == {"k400": 32, "ssv2": 32, "mit": 32, "imagenet": 128}


def test_datasets_of_one_shape_are_compiled_once_and_shares_add_up():
    steps = compiler._steps(cover_l.get_config())
    assert [(names, sorted(counts_for)) for names, counts_for, _ in steps] == [
        (("imagenet",), ["imagenet"]),
        (("k400",), ["k400", "mit", "ssv2"]),
    ]
    assert [share for _, _, share in steps] == pytest.approx([0.15, 0.85])


def test_a_joint_step_is_one_program():
    config = demo.get_config()
    config.plan = "joint"
    names = ("appearance", "images", "motion")
    assert [(sorted(got), share) for got, _, share in compiler._steps(config)] == [(list(names), 1.0)]


def test_a_refused_program_says_what_it_wanted():
    message = "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm."
    assert compiler._wanted_gib(message) == 20.5
    assert compiler._wanted_gib("Used 512.0M of 15.75G hbm") == 0.5
    assert compiler._wanted_gib("Mosaic failed to compile TPU kernel") is None


def test_advice_names_the_keys_to_change():
    config = cover_l.get_config()
    config.model.remat = "none"
    mesh = jax.make_mesh((8, 1, 1), ("data", "fsdp", "tensor"))
    program = table.Program(
        datasets=("k400",), counts_for=("k400",), share=1.0, parameters_gib=4.0, optimizer_gib=4.0,
        activations_gib=12.5, peak_gib=20.5, fits=False,
    )  # fmt: skip
    said = compiler.advice(config, program, mesh, chips.CHIPS["v5e"].hbm_gib)
    assert "20.5 GiB of a device's 16" in said
    assert "config.mesh.fsdp (now 1)" in said
    assert "config.model.remat='full' (now 'none')" in said
    assert "config.optimizer.grad_accum_steps (now 1)" in said and "config.datasets.k400.batch_size (now 256)" in said


CONFIG = """
from configs import common, datasets

def get_config():
    config = common.get_config()
    config.datasets.clips = datasets.digits("motion", weight=1.0, batch_size=8, num_classes=8)
    config.model.update({"variant": "mu/8", "size_px": 16, "num_frames": 4})
    config.mesh.fsdp = 2
    return config
"""


def run_plan(folder, *arguments: str) -> subprocess.CompletedProcess:
    """The command as a user runs it: libtpu must be loaded after it has been configured."""
    (folder / "small.py").write_text(CONFIG)
    command = [sys.executable, "-m", "cover_jax.plan", f"--config={folder}/small.py", *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


SLICES = """
import tempfile
from configs import common, cover_l
from cover_jax.errors import ConfigError
from cover_jax.parallel import sharding
from cover_jax.plan import topologies
from cover_jax.training import setup
topologies.use_compiler_only(tempfile.mkdtemp())
devices, mesh = topologies.devices("v5e:4x4*2"), common.get_config().mesh
mesh.fsdp = 8
print([sorted({device.slice_index for device in row.flat}) for row in sharding.make_mesh(mesh, devices).devices])
mesh.fsdp = 32
try:
    sharding.make_mesh(mesh, devices)
except ConfigError as error:
    print(error)
CUBES = ["2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"]
SQUARES = ["4x4", "4x8", "8x8", "8x16", "16x16", "16x16*2", "16x16*4"]
for generation in ("v4", "v5e", "v5p", "v6e", "tpu7x"):
    sizes = []
    for shape in SQUARES if generation in ("v5e", "v6e") else CUBES:
        devices, config = topologies.devices(f"{generation}:{shape}"), cover_l.get_config()
        config.mesh.tensor = max(1, len(devices) // 256)
        sizes.append(setup.make_mesh(config, devices).size)
    print(generation, sizes)
"""


@pytest.mark.tpu_compiler
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install '.[plan]'")
def test_slices_divide_the_data_axis_alone_and_every_slice_has_a_mesh():
    done = subprocess.run([sys.executable, "-c", SLICES], capture_output=True, text=True, timeout=120)
    rows, refusal, *sizes = done.stdout.splitlines()
    assert rows == "[[0], [0], [1], [1]]"
    assert refusal.startswith("config.mesh.data=1: must be a multiple of the 2 slices")
    chips = [16, 32, 64, 128, 256, 512, 1024]
    assert sizes == [f"{one} {chips}" for one in ("v4", "v5e", "v5p", "v6e")] + [f"tpu7x {[2 * n for n in chips]}"]


@pytest.mark.tpu_compiler
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install '.[plan]'")
def test_plan_of_a_small_config(tmp_path):
    """A run's whole command; the evaluation's batch of 3 is no multiple of the 4 chips."""
    of_run = ["--workdir=/nowhere/run", "--distributed", "--mode=train", "--config.datasets.clips.eval_batch_size=3"]
    done = run_plan(tmp_path, "--topology=v5e:2x2", f"--json={tmp_path}/plan.json", *of_run)
    assert done.returncode == 0, done.stderr
    assert "ignored, because nothing is run: --workdir, --mode, --distributed\n" in done.stderr
    (found,) = json.loads((tmp_path / "plan.json").read_text())
    (program,) = found["programs"]
    assert found["fits"] and found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert 0 < program["parameters_gib"] <= program["optimizer_gib"] < program["peak_gib"] < 1
    assert min(program[f"{part}_ms"] for part in ("matmuls", "elementwise", "sync_collectives")) > 0
    assert 0 < found["mfu_none_hidden"] <= found["mfu"] < found["mfu_all_hidden"] < 1
    of_clip = 4 * 16 * 16 * 3 + 6 * 4  # its frames, and six numbers
    assert program["host_mib"] == pytest.approx(2 * of_clip / 2**20)
    assert "| v5e:2x2 | 2x2x1 | 2 |" in re.sub(" +", " ", done.stdout)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5x:2x2"], "must be GENERATION:SHAPE"),
        (["--topology=v5e:2x2", "--config.datasets.clips.num_classes=0"], "datasets.clips.num_classes=0: the plan"),
        (["--topology=v5e:2x2", "--config.model.dtype=float64"], "config.model.dtype='float64'"),
        (["--topology=v5e:2x2", "--mesh=2x2"], "--mesh=2x2: must be DATAxFSDPxTENSOR"),
        (["--topology=v5e:2x2", "--clips_per_chip=0"], "--clips_per_chip=0: must be numbers of clips"),
    ],
)
def test_a_plan_that_cannot_be_says_why(tmp_path, capsys, arguments, message):
    if message.startswith("datasets") and importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install '.[plan]'")
    assert message in refusal(tmp_path, capsys, *arguments)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--mode=trian", "--mode=trian: must be one of"),
        ("--num_processes=two", "--num_processes=two: must be a whole number"),
        ("--workdir=FILE", "small.py: is a file; it must be a folder"),
        ("--out=a", "--out=a: is for --tables"),
    ],
)
def test_the_flags_of_a_run_are_checked(tmp_path, capsys, argument, message):
    argument = argument.replace("FILE", f"{tmp_path}/small.py")
    assert message in refusal(tmp_path, capsys, "--topology=v5e:2x2", argument)


def refusal(folder, capsys, *arguments: str) -> str:
    """What the command says before it ends with the code of a wrong config."""
    (folder / "small.py").write_text(CONFIG)
    with pytest.raises(SystemExit) as ended:
        plan_command.main([f"--config={folder}/small.py", *arguments])
    assert ended.value.code == errors.CONFIG
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said
