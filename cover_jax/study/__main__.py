"""Trains a study and prints its table: does co-training help on these datasets?

    python -m cover_jax.study --config=configs/studies/digits.py --workdir=/tmp/digits

WORKDIR/runs has every run. WORKDIR/table.md, table.json, accuracy.svg and curves.svg have the results; for a part of
the study they are part_table.md and so on. Run the same command again to continue: a run that has its results.json is
not repeated, and a run that was killed continues from its checkpoint.
"""

import pathlib
import sys

from cover_jax.config import flags as cover_flags
from cover_jax.errors import ConfigError
from data_pipelines import command_line


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.study", __doc__)
    cover_flags.add_config(parser, "configs/studies")
    parser.add_shared("workdir", required=True, help="folder for runs, table and plots; local")
    parser.add_shared("data_dir", help="folder of the prepared datasets, in place of config.run.data_dir")
    parser.add_argument(
        "--workers", type=int, default=2, help="number of parallel runs, each with its share of the cores (2)"
    )
    parser.add_argument("--quick", action=command_line.Switch, help="only the study's quick settings and replicates")
    parser.add_argument(
        "--settings", type=command_line.split_list, default=[], metavar="NAME,...",
        help="only these settings, and the settings that they start from (all)",
    )  # fmt: skip
    return parser


@command_line.command()
def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = cover_flags.parse(_parser(), arguments)
    study, workdir = args.config, pathlib.Path(args.workdir).expanduser().resolve()
    if "://" in args.workdir:
        raise ConfigError(f"--workdir={args.workdir}: must be a local folder")
    if args.workers < 1:
        raise ConfigError(f"--workers={args.workers}: must be greater than 0")
    if args.data_dir:
        study.run.data_dir = args.data_dir
    from cover_jax.study import design, execute, summary  # JAX loads slowly: check the arguments first

    design.check(study)
    study = design.only(study, args.settings) if args.settings else study
    study = design.quick(study) if args.quick else study
    found = execute.results_of(design.runs(study, workdir), workdir, args.workers)
    print(summary.write(study, found, workdir, "part_" if args.settings or args.quick else ""))


if __name__ == "__main__":
    main(sys.argv[1:])
