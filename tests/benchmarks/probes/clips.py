"""The clips of UCF101 in groups: which clip is of which group, and the groups of a seed."""

import dataclasses
import pathlib
import re
from collections.abc import Collection

import numpy as np

from data_pipelines.stream import examples, records
from tests.benchmarks.probes import commands

GROUPS = 25
VALIDATION_GROUPS, CHOICE_GROUPS = 7, 4
BUILDER, SPLITS = "video_folder/ucf101", ("train", "validation")  # as prepared; a seed divides all clips anew


@dataclasses.dataclass(frozen=True)
class Division:
    """The groups of one seed. A group is one scene of one class: its clips are never divided.

    Attributes:
        train: what everything is trained on.
        choice: where learning rates and other settings are chosen.
        validation: what is reported. Nothing was trained or chosen on these groups.
    """

    train: frozenset[int]
    choice: frozenset[int]
    validation: frozenset[int]

    @classmethod
    def of(cls, seed: int) -> "Division":
        """Draws the groups of a seed."""
        drawn = [int(group) for group in np.random.default_rng(seed).permutation(GROUPS) + 1]
        cuts = VALIDATION_GROUPS, VALIDATION_GROUPS + CHOICE_GROUPS
        parts = drawn[: cuts[0]], drawn[cuts[0] : cuts[1]], drawn[cuts[1] :]
        validation, choice, train = map(frozenset, parts)
        return cls(train, choice, validation)


def group_of(path: str) -> int:
    """The group of v_CLASS_gGG_cCC."""
    found = re.search(r"_g(\d\d)_c\d\d\.", path)
    if not found:
        raise ValueError(f"{path}: is not named as a clip of UCF101, v_CLASS_gGG_cCC")
    return int(found[1])


def prepare(workdir: pathlib.Path, source: str) -> pathlib.Path:
    """Prepares all clips once, and returns the folder of the prepared data."""
    data_dir = workdir / "data"
    commands.once(
        workdir / "prepared", "data_pipelines.prepare", "video_folder", "--name=ucf101", f"--source={source}",
        "--validation_pattern=_g0[1-7]_", "--short_side_px=128", f"--data_dir={data_dir}",
    )  # fmt: skip
    return data_dir


def groups(data_dir: pathlib.Path) -> dict[str, list[int]]:
    """Prepared split -> the group of each of its records."""
    found = {}
    for name in SPLITS:
        split = records.open_split(BUILDER, name, str(data_dir))
        paths = [examples.read_stored(split, index, "frames").source for index in range(split.num_examples)]
        found[name] = [group_of(path) for path in paths]
    return found


def expression(of_records: dict[str, list[int]], wanted: Collection[int]) -> str:
    """The records of some groups as a split of TFDS: train[3:4]+train[7:8]+..."""
    return "+".join(
        f"{name}[{index}:{index + 1}]"
        for name, found in of_records.items()
        for index, group in enumerate(found)
        if group in wanted
    )
