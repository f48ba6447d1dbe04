"""Lists the keys of a run's config: default, allowed values, what each does.

    python -m cover_jax.config
    python -m cover_jax.config learning_rate
    python -m cover_jax.config --format=markdown --out=configs/KEYS.md

With a WORD only the keys are listed whose name or description has it.
"""

import sys

from etils import epath

from cover_jax.config import reference
from data_pipelines import command_line
from data_pipelines.command_line import UsageError


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.config", __doc__)
    parser.add_argument("word", nargs="?", default="", metavar="WORD", help="part of a key's name or description")
    parser.add_shared("format", choices=("text", "markdown"), default="text", help="form of the list (text)")
    parser.add_shared("out", default="", metavar="FILE", help="file to write, local or gs:// (the list is printed)")
    parser.add_shared("json")
    return parser


@command_line.command()
def main(arguments: list[str]) -> None:
    """The command."""
    args = _parser().parse_args(arguments)
    if args.word and args.format == "markdown":
        raise UsageError(f"{args.word!r}: --format=markdown is the whole page")
    made = reference.as_markdown() if args.format == "markdown" else reference.as_text(args.word)
    if not made:
        raise UsageError(f"{args.word!r}: no key has this word in its name or description")
    command_line.write_json(args.json, reference.as_json())
    if args.out:
        epath.Path(args.out).write_text(made.rstrip() + "\n")
    else:
        print(made.rstrip())


if __name__ == "__main__":
    main(sys.argv[1:])
