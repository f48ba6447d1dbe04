"""Writes a run as one HTML page that needs nothing else.

    python -m cover_jax.report --workdir=/tmp/cover_demo

The page has curves, accuracies, confusions, examples, data and config. It is made from the workdir's newest checkpoint,
its newest evaluation (WORKDIR/predictions) and its TensorBoard files; examples are shown if the prepared data is still
there.
"""

import sys

from etils import epath

from data_pipelines import command_line, files

PAGE = "report.html"


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.report", __doc__)
    parser.add_shared("workdir", required=True)
    parser.add_shared("data_dir", help="folder of the prepared datasets, if it is another now")
    parser.add_shared("out", default="", metavar="FILE", help=f"page to write, local or gs:// (WORKDIR/{PAGE})")
    return parser


@command_line.command(ValueError)
def main(arguments: list[str]) -> None:
    """The command."""
    args = _parser().parse_args(arguments)
    from cover_jax.report import page  # JAX and orbax: not before the arguments are known to be right

    out = epath.Path(args.out) if args.out else epath.Path(args.workdir) / PAGE
    made = page.render_run(args.workdir, args.data_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(out, made.encode())
    print(out)


if __name__ == "__main__":
    main(sys.argv[1:])
