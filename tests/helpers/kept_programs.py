"""Compiled programs, kept from one session of the tests to the next: compiling takes half of a session's time."""

import os
import pathlib
import shutil

MOST_BYTES = 500_000_000  # of all kept programs, of which a session adds about 50 MB; above it, all are dropped


def take(kept: pathlib.Path, session: pathlib.Path) -> None:
    """Copies the programs of earlier sessions into the folder of this one, which its processes may be killed over."""
    shutil.copytree(kept, session, dirs_exist_ok=True)


def keep(session: pathlib.Path, kept: pathlib.Path) -> None:
    """Adds the programs that this session compiled. JAX writes a file in place: one of a killed process is left out."""
    from tests.helpers.jax_private import is_whole_program  # it loads JAX, which a conftest must not at its import

    if sum(file.stat().st_size for file in kept.iterdir()) > MOST_BYTES:
        for file in kept.iterdir():
            file.unlink(missing_ok=True)
    for file in session.iterdir():
        if not (kept / file.name).exists() and is_whole_program(file.read_bytes()):
            half = kept / f".{os.getpid()}"
            shutil.copyfile(file, half)
            half.replace(kept / file.name)
