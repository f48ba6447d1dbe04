"""What all hosts of a run must have in common, as flat tables of text for `hosts.agree`."""

import json
import os
import re
from collections.abc import Mapping
from typing import Protocol

import jax

from cover_jax.parallel import backend, hosts
from cover_jax.versions import code_hashes, versions
from data_pipelines.stream import contents

# Hosts may keep their own copies of the data in other folders; `of_data` compares what is in them.
_PER_HOST_KEYS = ("data_dir",)
# What changes the compiled programs or the numbers in them.
_ENVIRONMENT = (
    "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL",
    "JAX_THREEFRY_PARTITIONABLE", "JAX_DEFAULT_DTYPE_BITS", "LIBTPU_INIT_ARGS", "XLA_FLAGS",
)  # fmt: skip
_DUMP_FLAG = re.compile(r"\s*--xla_dump\w*(=\S*)?")  # where a host writes its dumps is its own matter


class DescribedSplit(Protocol):
    """What `of_data` reads of a `data_pipelines.stream.records.Split`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""

    @property
    def num_examples(self) -> int:
        """Without those that are excluded."""

    @property
    def fingerprint(self) -> str:
        """See Split."""

    @property
    def content(self) -> contents.Content:
        """See Split."""


def of_command(config: Mapping[str, object], mode: str) -> dict[str, str]:
    """Config, flags, environment, versions and code of this host.

    Args:
        config: key, with dots -> value.
        mode: of the command.
    """
    described = {"--mode": mode}
    described |= {f"config.{key}": json.dumps(value) for key, value in config.items() if key not in _PER_HOST_KEYS}
    described |= {f"version of {name}": version for name, version in versions().items()}
    described |= {f"hash of {path}": digest for path, digest in code_hashes().items()}
    for name in _ENVIRONMENT:
        described[f"environment variable {name}"] = _DUMP_FLAG.sub("", os.environ.get(name, "")).strip()
    return described


def of_devices() -> dict[str, str]:
    """The devices of this host. Starts JAX's backend, see `backend.start`."""
    backend.start()
    local = jax.local_devices()
    return {"kind of devices": local[0].device_kind, "number of devices": str(len(local))}


def of_data(splits: Mapping[str, Mapping[str, DescribedSplit]]) -> dict[str, str]:
    """The data that this host reads. Without checksums of the records, what they hold is `hosts.UNKNOWN`.

    Args:
        splits: what they are for, such as "training" -> dataset -> its opened split.
    """
    described: dict[str, str] = {}
    for purpose, by_name in splits.items():
        for name, split in by_name.items():
            of = f"{purpose} data of {name}"
            described |= {
                f"number of examples in the {of}": str(split.num_examples),
                f"class names in the {of}": json.dumps(list(split.class_names)),
                f"set of records in the {of}": split.content.as_set[:16] or hosts.UNKNOWN,
                f"order of records in the {of}": split.content.in_order[:16] or hosts.UNKNOWN,
                f"form and sizes of the records in the {of}": split.fingerprint[:16],
            }
    return described


def unknown_records(splits: Mapping[str, Mapping[str, DescribedSplit]]) -> list[str]:
    """The splits, as "training data of k400", for which this host has no checksums of the records."""
    return [
        f"{purpose} data of {name}"
        for purpose, by_name in splits.items()
        for name, split in by_name.items()
        if not split.content.in_order
    ]
