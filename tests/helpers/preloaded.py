"""Libraries that a test preloads into the processes that it chooses: a clock that it sets, storage that is slow."""

import pathlib
import shutil
import struct
import subprocess

HELPERS = pathlib.Path(__file__).parent


def build(source: str, folder: pathlib.Path) -> dict[str, str]:
    """Compiles a C file of this folder. Returns the environment variable that preloads it.

    Raises:
        FileNotFoundError: there is no C compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError(f"there is no C compiler to build {source} with")
    library = folder / pathlib.Path(source).with_suffix(".so")
    command: list[str | pathlib.Path] = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HELPERS / source]
    command += ["-ldl", "-lpthread"]
    subprocess.run(command, check=True, timeout=60)
    return {"LD_PRELOAD": str(library)}


class SteppedClock:
    """The wall clock of all processes that have `environment`: that of the machine, until `set_ahead` is called.

    Attributes:
        path: the file with the seconds by which the clock is ahead; processes read it whenever they ask for the time.
        environment: variables that a process needs.
    """

    def __init__(self, folder: pathlib.Path):
        self.path = folder / "ahead"
        self.path.write_bytes(bytes(8))
        self.environment = build("stepped_clock.c", folder) | {"CLOCK_AHEAD": str(self.path)}

    def set_ahead(self, seconds: int) -> None:
        """Sets the clock to so many seconds after the machine's; before it, if negative."""
        with self.path.open("r+b") as file:  # the processes have mapped this file: it must not be another one
            file.write(struct.pack("l", seconds))


def slow_storage(folder: pathlib.Path, slow: pathlib.Path, seconds: float) -> dict[str, str]:
    """The environment in which each access to a file or folder in `slow` takes so many seconds longer.

    Args:
        folder: for the library.
        slow: in which everything is slow.
        seconds: per access.
    """
    return build("slow_storage.c", folder) | {"SLOW_FOLDER": str(slow), "SLOW_S": str(seconds)}
