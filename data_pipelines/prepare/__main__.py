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

from etils import epath

from data_pipelines import catalog, command_line, escaping
from data_pipelines.prepare import base, build
from data_pipelines.prepare import flags as prepare_flags
from data_pipelines.sources import label_features

SHOWN_REFUSED = 5


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
        _measure(name, args.data_dir)
        _print_summary(name, catalog.dataset_dir(name, args.data_dir))


def _measure(name: str, data_dir: str) -> None:
    """Measures a dataset for the doctor and the leak search. At the start of a run this would take too long.

    Prints which validation files are also training files.
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


def _print_summary(name: str, where: epath.Path) -> None:
    info = catalog.read_info(where)
    counts = ", ".join(f"{split} {details.num_examples}" for split, details in info.splits.items())
    num_classes = sum(label.num_classes for label in label_features.find(dict(info.features)).values())
    print(f"{name}: {counts}; {num_classes} classes; in {escaping.escape(where)}")
    refused = [(split, row) for split, rows in base.read_refused(where).items() for row in rows]
    missing = collections.Counter(split for split, row in refused if row["reason"] == base.MISSING)
    unusable = [(split, row) for split, row in refused if row["reason"] != base.MISSING]
    table = where / catalog.REFUSED_FILE
    if missing:
        counts = ", ".join(f"{split} {count}" for split, count in missing.items())
        print(f"  {missing.total()} listed files are missing ({counts}). They are listed in {table}")
    if unusable:
        print(f"  {len(unusable)} files were refused. They are listed with their reasons in {table}:")
    for split, row in unusable[:SHOWN_REFUSED]:
        print(escaping.escape_text(f"    {split} {row['path']}: {row['reason']}"))


if __name__ == "__main__":
    main(sys.argv[1:])
