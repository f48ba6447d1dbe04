"""Compiled programs, kept from one session of the tests to the next."""

import pytest

from tests.helpers import kept_programs
from tests.helpers.jax_private import compressed


@pytest.fixture
def folders(tmp_path):
    session, kept = tmp_path / "session", tmp_path / "kept"
    session.mkdir()
    kept.mkdir()
    return session, kept


def test_a_program_comes_to_the_next_session_but_not_a_half_of_one(folders):
    session, kept = folders
    whole = compressed(b"a program" * 100)
    file = session / "whole-cache"
    file.write_bytes(whole)
    (session / "half-cache").write_bytes(whole[: len(whole) // 2])
    kept_programs.keep(session, kept)
    assert [one.name for one in kept.iterdir()] == [file.name]
    file.unlink()
    kept_programs.take(kept, session)
    assert file.read_bytes() == whole


def test_too_many_programs_are_dropped(folders, monkeypatch):
    session, kept = folders
    (kept / "old-cache").write_bytes(bytes(11))
    monkeypatch.setattr(kept_programs, "MOST_BYTES", 11)
    kept_programs.keep(session, kept)
    assert [one.name for one in kept.iterdir()] == ["old-cache"]
    monkeypatch.setattr(kept_programs, "MOST_BYTES", 10)
    kept_programs.keep(session, kept)
    assert not list(kept.iterdir())
