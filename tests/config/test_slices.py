"""Every full-size config on every size of TPU slice, in shapes: all sizes divide, or the error helps."""

import functools
import importlib
import pathlib
import re

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from configs import cover_l
from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.parallel import chips, sharding
from cover_jax.training import setup
from data_pipelines.stream.batch import eval_batch_rows

SLICES = [16, 32, 64, 128, 256, 512, 1024]
FOLDER = pathlib.Path(__file__).parents[2] / "configs"
FULL_SIZE = [path.stem for path in sorted(FOLDER.glob("cover_*.py"))]
ARGUMENTS = ["k600", "k700", "stage1", "stage2", "imagenet21k"]
PARTS = ["k400", "k600", "ssv2", "k400_imagenet", "k400_ssv2_mit", "k700_ssv2_mit_imagenet"]
CONFIGS = [*FULL_SIZE, *(f"cover_l:{one}" for one in ARGUMENTS), *(f"ablations:{one}" for one in PARTS)]
NUM_DEVICES = sorted({count * chip.devices for count in SLICES for chip in chips.CHIPS.values()})


def load(name: str):
    """The config of configs/FILE.py:ARGUMENT."""
    file, _, argument = name.partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(*filter(None, [argument]))
    config.model.init_from = "/weights"  # a second stage leaves it to whoever starts the run
    return config


@functools.cache
def parameters(variant: str):
    """Shapes and logical axes of a variant's parameters, with a small head."""
    config = load(FULL_SIZE[0])
    config.model.variant = variant
    model = setup.make_model(config.model, {"head": ("a", "b")})
    return jax.eval_shape(model.init, jax.random.key(0)), model.axes


def check_shapes(config, num_devices: int) -> None:
    """What a run checks at its start, without its devices."""
    checks.validate(config)
    shape = sharding.mesh_shape(config.mesh, num_devices)
    checks.validate_batches(config, shape)
    mesh = AbstractMesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * 3)
    for leaf in jax.tree.leaves(sharding.state_shardings(*parameters(config.model.variant), mesh)):
        assert leaf.mesh == mesh
    for dataset in config.datasets.values():
        for rows in (dataset.batch_size, eval_batch_rows(dataset, sharding.num_batch_shards(mesh))):
            assert sharding.batch_sharding(mesh).shard_shape((rows,)) == (rows // sharding.num_batch_shards(mesh),)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_full_size_config_starts_on_every_slice(name):
    """As it is, or with any of the meshes that the error names."""
    for num_devices in NUM_DEVICES:
        config = load(name)
        try:
            check_shapes(config, num_devices)
            continue
        except ConfigError as error:
            said = str(error)
        assert num_devices > min(dataset.batch_size for dataset in config.datasets.values()), said
        tensors = re.search(r"config\.mesh\.tensor=([\d or]+)", said)
        for tensor in map(int, tensors[1].split(" or ")) if tensors else ():
            config.mesh.tensor = tensor
            check_shapes(config, num_devices)
        if not tensors:  # then no other mesh of these devices serves
            assert "no config.mesh.tensor serves" in said
            for tensor in range(2, 17):
                config.mesh.tensor = tensor
                with pytest.raises(ConfigError):
                    check_shapes(config, num_devices)


def test_the_meshes_that_serve_are_named():
    config = load("cover_l")
    with pytest.raises(ConfigError, match=r"k400.batch_size=256: must be a multiple of 512.*tensor=2 or 4 or 8 or 16"):
        checks.validate_batches(config, sharding.mesh_shape(config.mesh, 512))
    config.mesh.data = 64
    with pytest.raises(ConfigError, match=r"tensor=2 or 4 or 8 or 16, with config.mesh.data=-1"):
        checks.validate_batches(config, sharding.mesh_shape(config.mesh, 512))


def test_fsdp_over_all_devices_keeps_data():
    config = load("cover_l")
    config.mesh.update({"data": 2, "fsdp": -1})
    with pytest.raises(ConfigError, match=r"config.mesh.tensor=2 or 4 or 8 or 16$"):
        checks.validate_batches(config, sharding.mesh_shape(config.mesh, 512))


@pytest.mark.parametrize("stage", cover_l.STAGES)
def test_a_stage_starts_with_one_mixed_clip_per_device(stage):
    """Neighbouring devices mix their clips, so 256 clips need no more than 256 devices."""
    config = cover_l.get_config(stage)
    assert config.datasets.ssv2.augment.mixup_alpha and config.datasets.ssv2.batch_size == 256
    checks.validate_batches(config, {"data": 32, "fsdp": 8, "tensor": 1})
    config.datasets.ssv2.batch_size = 3 * 256
    with pytest.raises(ConfigError, match=r"ssv2.batch_size=768: must be a multiple of 512: .*, mixed in pairs"):
        checks.validate_batches(config, {"data": 32, "fsdp": 8, "tensor": 1})
