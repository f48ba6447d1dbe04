"""`--config=tests/helpers/tiny_study.py`: a study that takes seconds, with two settings on the embedded images."""

from configs.studies import common
from tests.helpers import tiny_config


def get_config():
    study = common.get_config()
    study.run = tiny_config.get_config()
    study.run.steps, study.run.eval_every_steps = 4, 2
    study.seeds, study.draws = (3, 4), (1, 2)
    study.examples_per_draw.images = 16
    study.settings.start = common.setting("the start", ("images",), 2)
    study.settings.after = common.setting("from it", ("images",), 4, start="start")
    study.settings.other = common.setting("without", ("images",), 4, changes={"optimizer": {"name": "sgd"}})
    study.differences.after = ("start",)
    study.quick_settings, study.quick_replicates = ("after",), 1
    return study
