"""Runs the library's commands as a user does. One that was killed continues; one that has ended is not repeated."""

import pathlib
import subprocess
import sys


def once(done: pathlib.Path, *command: str) -> None:
    """Runs `python -m COMMAND`, unless it has ended well before: then the file `done` is there."""
    if done.exists():
        return
    print("python -m", *(part if len(part) < 200 else f"{part[:200]}..." for part in command), flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()
