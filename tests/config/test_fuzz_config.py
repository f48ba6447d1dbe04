"""Any value for any key: refused before anything is compiled by a line that names the key, or the step can be built."""

import functools
import math

import pytest

pytest.importorskip("hypothesis", reason="pip install -e '.[test]'")

import jax  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from jax.sharding import AxisType  # noqa: E402

from configs import demo  # noqa: E402
from cover_jax.config import checks  # noqa: E402
from cover_jax.errors import ConfigError  # noqa: E402
from cover_jax.training import setup  # noqa: E402
from data_pipelines.stream import mixture  # noqa: E402
from tests.helpers import fuzz  # noqa: E402

pytestmark = pytest.mark.slow

KEYS = sorted(key for key, _ in checks.flatten(demo.get_config()))
INTEGERS = st.integers() | st.integers(-3, 40) | st.sampled_from([2**31, 2**63, 10**30])
NUMBERS = INTEGERS | st.floats() | st.sampled_from([1e-300, 1e300])
ANY = st.none() | st.booleans() | NUMBERS | st.text(max_size=12) | st.lists(NUMBERS, max_size=4).map(tuple)


def like(value):
    """Values of the same type, near and far."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, tuple):
        return st.lists(NUMBERS, min_size=len(value), max_size=len(value)).map(tuple)
    if isinstance(value, str):
        return st.text(max_size=20) | st.sampled_from(["a" * 5000, "(", "(a+)+$", "../x", "L/0", "B/16", "mu/-1", "//"])
    return INTEGERS if isinstance(value, int) else NUMBERS


@st.composite
def changes(draw):
    """A few keys of the demo -> other values."""
    now = dict(checks.flatten(demo.get_config()))
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    return {key: draw(like(now[key]) | ANY) for key in keys}


def changed(values: dict):
    """The demo with these values, and what is said of it; None: nothing."""
    config = demo.get_config().unlock()
    for key, value in values.items():
        *groups, last = key.split(".")
        parent = functools.reduce(lambda group, name: group[name], groups, config)
        with parent.ignore_type():
            parent[last] = value
    try:
        checks.validate(config)
        checks.validate_batches(config, {"data": 1, "fsdp": 1, "tensor": 1})
    except ConfigError as error:
        return config, str(error)
    return config, None


@fuzz.seeded(400)
@given(changes())
def test_what_is_refused_is_named(values):
    with fuzz.no_hang():
        _, said = changed(values)
    assert_named(said or "", values)


def assert_named(said: str, values: dict) -> None:
    for line in said.splitlines():
        assert line.startswith("config.") and any(key.split(".")[-1] in line for key in values), line


@fuzz.seeded(60)
@given(changes())
def test_what_is_not_refused_can_be_built(values):
    """Everything up to the compiler: plan, model, optimizer, shardings, and the step on batches of each dataset."""
    config, said = changed(values)
    if said is None and small_enough(config):
        with fuzz.no_hang():
            try:
                build(config)
            except ConfigError as error:  # of what only the model's parameters tell
                assert_named(str(error), values)


def small_enough(config) -> bool:
    """What only memory or time forbids: no check knows how much there is."""
    model, datasets = config.model, config.datasets.values()
    clips = [math.prod(d.canvas_px) * max(d.num_frames, 1) * d.batch_size for d in datasets]
    return max(clips) < 2**31 and model.size_px * model.num_frames < 2**16 and config.optimizer.grad_accum_steps < 100


def build(config) -> None:
    mix = mixture.Mixture({name: d.weight for name, d in config.datasets.items()}, config.plan, config.seed)
    assert mix.at(10**6)
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh((1, 1, 1), axes, (AxisType.Auto,) * 3, devices=jax.devices()[:1])
    assembled = setup.make_setup(config, {name: ("left", "right") for name in config.datasets}, mesh)
    for name in config.datasets:
        jax.eval_shape(assembled.train_step, assembled.state, {name: assembled.train_batch(name)})
