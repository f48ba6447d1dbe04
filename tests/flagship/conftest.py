"""The data of all files of this folder, prepared once."""

import fcntl
import os
import pathlib

import pytest

from data_pipelines.prepare import __main__ as prepare
from tests.flagship import miniature


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> pathlib.Path:
    """All datasets of the full-size configs, prepared by the real commands.

    The first test process that needs them prepares them; the others wait for it, and have the same folder.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "flagship_data"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "is_prepared").exists():
            for builder, source in miniature.make_all(folder / "published").items():
                workers = [] if builder == "imagenet2012" else ["--workers=1"]  # TFDS's own builder has no such flag
                prepare.main([builder, f"--manual_dir={source}", f"--data_dir={folder / 'prepared'}", *workers])
            (folder / "is_prepared").touch()
    return folder / "prepared"
