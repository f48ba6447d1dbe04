"""Training examples that cannot be decoded: they weigh nothing, are told once, counted, and end the run if too many.

Counted from metrics that all hosts have alike, so that all stop on the same step.
"""

from collections.abc import Mapping

import numpy as np

from cover_jax import exit_codes


class BadDataError(RuntimeError):
    """More examples of a dataset cannot be decoded than config.input.max_bad_share allows."""

    exit_code = exit_codes.BAD_DATA


def add(bad: dict[str, list[int]], undecodable: Mapping[str, np.ndarray]) -> None:
    """Adds those of one step to all that are known.

    Args:
        bad: dataset -> indices of its undecodable examples, each once, in order.
        undecodable: dataset -> index of each row of the global batch that cannot be decoded, -1 for the others.
    """
    for name, index_B in undecodable.items():
        if (found := set(index_B[index_B >= 0].tolist())) - set(bad.get(name, ())):
            bad[name] = sorted(found.union(bad.get(name, ())))


def check(max_bad_share: float, step: int, bad: Mapping[str, list[int]], num_examples: Mapping[str, int]) -> None:
    """Judges what is known after a step, counted from 0.

    Args:
        max_bad_share: config.input.max_bad_share.
        step: counted from 0.
        bad: as in `add`.
        num_examples: dataset -> how many it has to train on.

    Raises:
        BadDataError: too many of one dataset.
    """
    for name, indices in bad.items():
        if len(indices) > max_bad_share * num_examples[name]:
            raise BadDataError(
                f"step {step + 1} on {name}: {len(indices)} of its {num_examples[name]} training examples cannot be "
                f"decoded (config.input.max_bad_share={max_bad_share}): {listed(indices)}; the log of the host that "
                "read one says where it stands and why; prepare the dataset again, or raise the share"
            )


def tell(host: int, name: str, batch: Mapping[str, np.ndarray], known: Mapping[str, list[int]], stream) -> None:
    """Prints a line for each undecodable example of a host's rows of a batch, unless it is known; reads them again."""
    if batch["weight"].all():
        return
    told = set(known.get(name, ()))
    for row in np.flatnonzero(batch["weight"] == 0):
        index = int(batch["index"][row])
        if index not in told:
            told.add(index)
            reason = stream.why_undecodable(index, batch["seed"][row])
            print(f"host {host}: {name}: example {index} cannot be decoded and weighs nothing: {reason}", flush=True)


def listed(indices: list[int], most: int = 64) -> str:
    """As "3, 5, 8"; of more than `most`, the first ones and how many there are besides."""
    more = f" and {len(indices) - most} more" if len(indices) > most else ""
    return ", ".join(map(str, indices[:most])) + more
