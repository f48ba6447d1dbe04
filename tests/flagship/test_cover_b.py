"""The smaller model, and the ablations. What the rehearsal of a config compiles, its training finds."""

import pytest

from tests.flagship import commands

pytestmark = pytest.mark.slow

COVER_B = {"k400": 400, **commands.OTHERS}


@pytest.mark.parametrize(("config", "classes"), [("cover_b.py", COVER_B), ("ablations.py:ssv2,stage1", {"ssv2": 174})])
def test_a_config_is_rehearsed(tmp_path, data_dir, config, classes):
    commands.rehearse_config(config, classes, tmp_path, data_dir)


@pytest.mark.parametrize(
    ("config", "classes"),
    [("cover_b.py", COVER_B), ("ablations.py:k400_ssv2,stage1", {"k400": 400, "ssv2": 174})],
)
def test_a_config_trains(tmp_path, data_dir, config, classes):
    commands.train_config(config, classes, tmp_path, data_dir)
