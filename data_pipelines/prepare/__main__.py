"""Prepares a dataset: converts files, as they were published or collected, to records.

    python -m data_pipelines.prepare video_folder --name=mine --source=/data/mine --validation_share=0.2
    python -m data_pipelines.prepare kinetics/400 --manual_dir=/data/k400 --data_dir=/data/prepared

BUILDER is one of this project's builders, or any other builder of TFDS (whose own command, `tfds build`, needs Apache
Beam). `python -m data_pipelines.prepare BUILDER --help` lists its flags. If the dataset is already prepared, running
the command again does nothing. If its preparation was interrupted, the command continues it.
"""

import collections
import functools
import sys
from collections.abc import Iterator

import numpy as np
from etils import epath

from data_pipelines import catalog, command_line, escaping
from data_pipelines.prepare import base, build
from data_pipelines.prepare import flags as prepare_flags
from data_pipelines.sources import label_features, nesting

SHOWN_REFUSED, SHOWN_CLASSES = 5, 10


@command_line.command(ValueError, RuntimeError, AssertionError)  # TFDS raises the last one if files are missing
def main(arguments: list[str]) -> None:
    """The command: prepares the datasets that the arguments name, and prints a summary."""
    args = prepare_flags.make_parser(arguments[:1], __doc__).parse_args(arguments)
    names = []
    for builder in build.builders(args):
        if catalog.is_self_contained(builder.name):
            build.prepare_if_self_contained(build.builder_name(builder), args.data_dir)
        else:
            build.prepare(builder, vars(args).get("manual_dir", ""), vars(args).get("beam_pipeline_options", ""))
        names.append(build.builder_name(builder))
    for name in names:
        _print_summary(name, catalog.dataset_dir(name, args.data_dir), _measure(name, args.data_dir))


def _measure(name: str, data_dir: str) -> dict[str, np.ndarray]:
    """Measures a dataset for the doctor and the leak search. At the start of a run this would take too long.

    Prints which validation files are also training files. Returns each split's labels; {} if it has no pictures.
    """
    from data_pipelines.leaks import facts, search
    from data_pipelines.stream import records

    splits, features = {}, {}
    load_facts = functools.cache(facts.load_facts)
    for split in catalog.read_info(catalog.dataset_dir(name, data_dir)).splits:
        splits[split] = records.open_split(name, split, data_dir)
        if feature := facts.pictures_feature(splits[split].features):
            features[name] = feature
            load_facts(splits[split], feature)
    if features and {"train", "validation"} <= splits.keys():
        train, validation = ({name: splits[role]} for role in ("train", "validation"))
        copies = search.find_leaks(train, validation, features, load_facts)
        for line in search.report_lines([found.summary() for found in copies if len(found.pairs)]):
            print(line)
    return {split: load_facts(splits[split], features[name])["label"] for split in splits} if features else {}


def _print_summary(name: str, where: epath.Path, labels: dict[str, np.ndarray]) -> None:
    """Prints what the dataset has, what is missing, and, last, its classes."""
    info = catalog.read_info(where)
    counts = ", ".join(f"{split} {details.num_examples}" for split, details in info.splits.items())
    of_labels = label_features.find(dict(info.features))
    num_classes = sum(label.num_classes for label in of_labels.values())
    print(f"{name}: {counts}; {num_classes} classes; in {escaping.escape(where)}")
    _print_refused(where)
    if label_features.ONE in of_labels:  # one class per example
        names = of_labels[label_features.ONE].names
        num = {split: np.bincount(of[of >= 0], minlength=len(names)) for split, of in labels.items()}
        for line in _lacking(names, num):
            print(f"  {line}")
    for label in of_labels.values():
        print(f"  {label.num_classes} classes: {escaping.first(label.names, SHOWN_CLASSES)}")


def _lacking(names: list[str], counts: dict[str, np.ndarray]) -> Iterator[str]:
    """Lines on classes without examples: in no split at all, and in the training or validation split alone.

    Args:
        names: of the classes.
        counts: split -> number of examples of each class.
    """
    total = sum(counts.values(), np.zeros(len(names), int)) if counts else np.ones(len(names), int)
    if not total.all():
        yield _of_classes(names, total == 0, "no example at all")
    for split, why in (("train", "so they cannot be learnt"), ("validation", "so their accuracy cannot be measured")):
        if split in counts and (lacking := (counts[split] == 0) & (total > 0)).any():
            yield _of_classes(names, lacking, f"no {split} example, {why}")


def _of_classes(names: list[str], which: np.ndarray, what: str) -> str:
    chosen = [names[i] for i in np.flatnonzero(which)]
    return f"{len(chosen)} of {len(names)} classes have {what}: {escaping.first(chosen, SHOWN_CLASSES)}"


def _print_refused(where: epath.Path) -> None:
    refused = [(split, row) for split, rows in base.read_refused(where).items() for row in rows]
    missing = collections.Counter(split for split, row in refused if row["reason"] == base.MISSING)
    found = [(split, row) for split, row in refused if row["reason"] != base.MISSING]
    no_media = [row["path"] for _, row in found if nesting.is_no_media(row["path"])]
    unusable = [(split, row) for split, row in found if not nesting.is_no_media(row["path"])]
    table = where / catalog.REFUSED_FILE
    if missing:
        counts = ", ".join(f"{split} {count}" for split, count in missing.items())
        print(f"  {missing.total()} listed files are missing ({counts}). They are listed in {table}")
    if no_media:
        print(f"  {len(no_media)} files are neither videos nor images: {escaping.first(no_media, SHOWN_REFUSED)}")
    if unusable:
        print(f"  {len(unusable)} files were refused. They are listed with their reasons in {table}:")
    for split, row in unusable[:SHOWN_REFUSED]:
        print(escaping.escape_text(f"    {split} {row['path']}: {row['reason']}"))


if __name__ == "__main__":
    main(sys.argv[1:])
