"""Lists the commands of data_pipelines.

python -m data_pipelines
"""

import pathlib
import sys

from data_pipelines import command_line


@command_line.command()
def main(arguments: list[str]) -> None:
    """Prints the list of commands."""
    command_line.print_commands(pathlib.Path(__file__).parent, __doc__, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
