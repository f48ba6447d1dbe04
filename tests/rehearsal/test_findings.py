"""What a rehearsal finds, on one host and on several."""

import json

import jax
import pytest

from cover_jax import errors
from cover_jax.errors import ConfigError
from cover_jax.parallel import hosts
from cover_jax.rehearsal import findings
from data_pipelines import catalog


def test_errors_are_collected_with_the_code_that_they_would_end_the_run_with():
    found = findings.Findings()
    for error in (
        ConfigError("config.steps=0: must be greater than 0\nconfig.seed=-1: must be at least 0"),
        catalog.DatasetNotPreparedError("'k400' is not prepared. Prepare it with:\n  python -m prepare k400"),
        OSError(28, "No space left on device", "/disk/x"),
    ):
        with found.collect("k400: ") as attempt:
            raise error
        assert attempt.failed
    with found.collect() as attempt:
        pass
    assert not attempt.failed
    found.agree()
    assert [(problem.exit_code, problem.text) for problem in found.problems] == [
        (errors.CONFIG, "k400: config.steps=0: must be greater than 0"),
        (errors.CONFIG, "k400: config.seed=-1: must be at least 0"),
        (errors.CONFIG, "k400: 'k400' is not prepared. Prepare it with: python -m prepare k400"),
        (errors.FAILED, "k400: /disk/x: No space left on device"),
    ]
    assert found.error().exit_code == errors.CONFIG


def test_nothing_wrong_is_no_error():
    found = findings.Findings()
    found.agree()
    assert found.error() is None


@pytest.fixture
def of_two_hosts(monkeypatch):
    """Findings of host 0; the list has what host 1 answers, in order."""
    answers = []
    monkeypatch.setattr(hosts, "exchange", lambda mine: [mine, answers.pop(0)])
    return findings.Findings(), answers


def test_a_problem_names_its_host_unless_all_have_it(of_two_hosts):
    found, answers = of_two_hosts
    found.add("the same")
    found.add("only here", errors.BAD_DATA)
    answers += [json.dumps([["the same", errors.CONFIG], ["only there", errors.FAILED]]), json.dumps(["k700"])]
    assert found.agree_on({"k400"}) == {"k400", "k700"}
    assert [problem.text for problem in found.problems] == ["the same", "host 0: only here", "host 1: only there"]


def test_the_worst_host_has_the_lowest_rate_and_the_longest_time(of_two_hosts):
    found, answers = of_two_hosts
    found.measured = {"k400/input_clips_per_s": 10.0, "save_s": 2.0}
    answers.append(json.dumps({"k400/input_clips_per_s": 20.0, "save_s": 3.0, "restore_s": 1.0}))
    assert found.worst() == {"k400/input_clips_per_s": 10.0, "save_s": 3.0, "restore_s": 1.0}


def test_where_hosts_wait_for_each_other_an_error_ends_them_all(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(RuntimeError, match="lost"), findings.Findings().collect(together=True):
        raise RuntimeError("lost")
