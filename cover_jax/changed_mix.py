"""Going on from a checkpoint whose mix was another (config.allow_changed_mix).

What is the same stays: backbone, heads and all that the optimizer remembers of them. The head of a new dataset begins
as in a new run. The head of a dataset that left is dropped; the checkpoints before the change have it.
"""

import fnmatch
from collections.abc import Callable

import jax

from cover_jax import compilation


def is_free(key: str, saved: dict, now: dict) -> bool:
    """Whether a key of the config may differ from the checkpoint's: the mix, and all of datasets that came or left.

    Args:
        key: such as "datasets.motion.weight".
        saved: config of the checkpoint, as nested dicts.
        now: config of this run.
    """
    if not now["allow_changed_mix"]:
        return False
    came_or_left = saved["datasets"].keys() ^ now["datasets"].keys()
    free = ["plan", "datasets.*.weight", *(f"datasets.{name}.*" for name in came_or_left)]
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in free)


def would_allow(saved: dict, now: dict) -> bool:
    """Whether the mix is another and config.allow_changed_mix is off."""

    def mix(config):
        return config["plan"], {name: dataset["weight"] for name, dataset in config["datasets"].items()}

    return mix(saved) != mix(now) and not now["allow_changed_mix"]


def carry_over(restored, init: Callable[[jax.Array], object], shardings, key: jax.Array):
    """The state of the new mix: every leaf that `restored` has at the same path; the others as `init` makes them.

    Args:
        restored: the state of the old mix.
        init: PRNG key -> a new state of the new mix.
        shardings: of the new state.
        key: for `init`.
    """
    old = _by_path(restored)

    def make_others(key):
        return {path: leaf for path, leaf in _by_path(init(key)).items() if path not in old}

    of_others = {path: leaf for path, leaf in _by_path(shardings).items() if path not in old}
    others = compilation.jit(make_others, out_shardings=of_others)(key)
    leaves = old | others
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], shardings)


def _by_path(tree) -> dict:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
