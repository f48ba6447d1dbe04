"""A model small enough that a test of it is mostly compilation, and parameters that need no initialisation compiled."""

import dataclasses
import functools

import jax
import numpy as np
from flax import traverse_util

from configs import common
from cover_jax.models import cover

CLASSES = {"videos": 5, "images": 3}


def config(**overrides):
    """config.model of a 4-patch, 4-frame model in float32, with the given values replaced."""
    config = common.get_config().model
    config.update({"variant": "mu/8", "size_px": 16, "num_frames": 4, "dtype": "float32"})
    config.update(overrides)
    return config


@functools.cache
def model(**overrides) -> cover.Functional:
    """The model of that config, `apply` and `features` jitted; the same one each time, so that it compiles once."""
    functions = cover.functional(config(**overrides), CLASSES)
    apply = jax.jit(functions.apply, static_argnames="head")
    jitted = {"features": jax.jit(functions.features), "apply": apply, "tokens": jax.jit(functions.tokens)}
    return dataclasses.replace(functions, **jitted)


def random_params(shapes, seed: int = 0):
    """Arrays for a nested dict of shapes; none at the zero or one that it starts from, which would hide a mistake."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        values = rng.standard_normal(shape).astype(np.float32)
        if path[-1] == "kernel":
            return values / np.sqrt(shape[-2])
        return 0.3 * values + (path[-1] == "scale")

    flat = traverse_util.flatten_dict(shapes)
    return traverse_util.unflatten_dict({path: draw(path, leaf.shape) for path, leaf in flat.items()})


@functools.cache
def params(**overrides):
    """Random parameters of that model."""
    return random_params(jax.eval_shape(model(**overrides).init, jax.random.key(0)))


def frames(*shape: int) -> np.ndarray:
    """Noise of shape [B, T, H, W, 3], normalised."""
    return np.random.default_rng(1).standard_normal((*shape, 3)).astype(np.float32)
