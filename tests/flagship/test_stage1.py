"""The first stage of the full-size model, with the other sizes of Kinetics."""

import pytest

from tests.flagship import commands

pytestmark = pytest.mark.slow


def test_k600_is_rehearsed(tmp_path, data_dir):
    commands.rehearse_config("cover_l.py:stage1,k600", {"k600": 600, **commands.OTHERS}, tmp_path, data_dir)


def test_k700_trains(tmp_path, data_dir):
    commands.train_config("cover_l.py:stage1,k700", {"k700": 700, **commands.OTHERS}, tmp_path, data_dir)
