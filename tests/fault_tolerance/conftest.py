"""Jobs of one or two processes, for tests that disturb them."""

import pytest

from cover_jax import errors
from tests.helpers import jobs
from tests.helpers.jobs import SHARDED


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`Jobs.start` of the module's jobs."""
    return jobs.Jobs(tmp_path_factory.mktemp("jobs")).start


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """The workdir of two processes that nothing happened to."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    with start(workdir, SHARDED, hosts=2) as job:
        assert job.codes() == [errors.DONE] * 2, job.all_printed()
    return workdir
