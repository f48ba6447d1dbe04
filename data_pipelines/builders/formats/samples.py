"""What WebDataset, Hugging Face and lists of files have in common: samples with labels -> splits and classes."""

import collections
import dataclasses
import sys
from collections.abc import Iterable, Sequence

from etils import epath

from data_pipelines import escaping
from data_pipelines.escaping import escape
from data_pipelines.prepare import listing
from data_pipelines.prepare.listing import Item, Listing
from data_pipelines.sources import class_names

SHOWN = 3  # faults of a kind, in a message
MODALITIES = ("video", "image")
SKIP, REFUSE = "skip", "refuse"


@dataclasses.dataclass
class Incomplete:
    """Samples that cannot be used, by the reason; they are named before any file is decoded.

    Attributes:
        found: reason -> names of samples.
    """

    found: dict[str, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))

    def add(self, reason: str, name: str) -> None:
        """Notes one sample."""
        self.found[reason].append(name)

    def settle(self, where: str, incomplete: str, num_usable: int) -> None:
        """Refuses the source, or says which samples are left out.

        Args:
            where: the begin of the message: the source.
            incomplete: SKIP or REFUSE, the flag.
            num_usable: how many samples are complete.

        Raises:
            ValueError: there are such samples, and they may not be skipped; or no other is left.
        """
        if not self.found:
            return
        lines = [
            f"{len(names)} samples {reason}: {escaping.first(names, SHOWN)}" for reason, names in self.found.items()
        ]
        if incomplete == SKIP and num_usable:
            print_warning(f"{where}: left out {'; '.join(lines)}")
            return
        hint = f". --incomplete={SKIP} leaves them out" if num_usable else ""
        raise ValueError(f"{where}: {'; '.join(lines)}{hint}")


def print_warning(message: str) -> None:
    """Prints a warning, before the progress bars."""
    print(f"WARNING: {message}", file=sys.stderr, flush=True)


def check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    """Refuses another value of a flag.

    Raises:
        ValueError: with the choices.
    """
    if value not in choices:
        raise ValueError(f"--{flag}={value}: must be one of {', '.join(choices)}")


def by_share(items: Iterable[Item], share: float) -> dict[str, list[Item]]:
    """Training and validation: of each class the last ones, in the order in which they come, are validation.

    Raises:
        ValueError: the share is impossible, or a class has only one sample.
    """
    groups: dict[str, list[Item]] = collections.defaultdict(list)
    for item in items:
        groups[item.label].append(item)
    splits, lonely = listing.divide(groups, share)
    if lonely:
        raise ValueError(
            f"--validation_share={share}: a class needs two samples, one to train and one to validate. These have "
            f"only one: {escaping.first(lonely, listing.SHOWN_CLASSES)}"
        )
    return splits


def listed(splits: dict[str, list[Item]], names: class_names.ClassNames | None) -> Listing:
    """The listing of samples whose labels are names or numbers of classes.

    Args:
        splits: split -> its samples; `label` as the source has it, "" if it has none.
        names: the classes; None: the labels of the training split, sorted by name, or by number if all are numbers.

    Raises:
        ValueError: a label is no class; the message names the sample.
    """
    names = names or class_names.of_labels({item.label for item in splits["train"] if item.label})
    called = {label: _class(item, names) for items in splits.values() for label, item in _first_of(items).items()}
    return Listing(
        {
            split: [
                item if called[item.label] == item.label else dataclasses.replace(item, label=called[item.label])
                for item in items
            ]
            for split, items in splits.items()
        },
        names.names,
    )


def _first_of(items: list[Item]) -> dict[str, Item]:
    """Label -> the first sample that has it."""
    return {item.label: item for item in reversed(items)}


def _class(item: Item, names: class_names.ClassNames) -> str:
    if not item.label:
        return ""  # of a test split
    try:
        name = names.find(item.label)
    except ValueError as error:
        raise ValueError(f"{escape(item.path)}: class {error}") from error
    if name is None:
        raise ValueError(f"{escape(item.path)}: {listing.unknown_class(item.label, names.names)}")
    return name


def read_names(root: epath.Path, file: str) -> class_names.ClassNames | None:
    """The classes of the file that a flag names, in a folder or with an absolute path; None without one."""
    return class_names.read_class_names(root / file) if file else None
