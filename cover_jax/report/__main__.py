"""Writes a run as one HTML page that needs nothing else: curves, accuracies, confusions, examples, data and config.

    python -m cover_jax.report --workdir=/tmp/cover_demo

It is made from the workdir's newest checkpoint, its newest evaluation (WORKDIR/predictions) and its TensorBoard files;
examples are shown if the prepared data is still there.
"""

import argparse
import sys

from absl import logging
from etils import epath

from cover_jax.checkpoint import restore
from cover_jax.report import page as report_page
from data_pipelines import files


def main(arguments: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m cover_jax.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="folder of a run, local or gs://")
    parser.add_argument("--out", default="", help=f"file to write (WORKDIR/{report_page.PAGE})")
    parser.add_argument("--data_dir", default="", help="where prepared datasets stand, if that has changed")
    args = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    out = epath.Path(args.out) if args.out else epath.Path(args.workdir) / report_page.PAGE
    try:
        made = report_page.render_run(args.workdir, args.data_dir)
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(out, made.encode())
    except restore.CheckpointDamagedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(out)


if __name__ == "__main__":
    main(sys.argv[1:])
