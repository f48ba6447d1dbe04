"""What a config may name to be measured at each evaluation, and where a run's curves go: one line per entry.

A module stands here by its name and is imported when a config asks for it. So a new evaluator or logger is one new file
and one line here (cover_jax/EXTENDING.md).
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType

from cover_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Entry:
    """One evaluator or logger.

    Attributes:
        module: its module, with a function `make`.
        metrics: of an evaluator: its metrics per dataset that `config.best_metric` may name: more is better.
        main_metric: of an evaluator: it measures only datasets with this main metric of their task; "": all.
        package: a package that it needs and that an installation of this project may lack; "": none.
    """

    module: str
    metrics: tuple[str, ...] = ()
    main_metric: str = ""
    package: str = ""

    def measures(self, main_metric: str) -> bool:
        """Whether an evaluator measures a dataset with this main metric."""
        return self.main_metric in ("", main_metric)

    def load(self) -> ModuleType:
        """Imports the module."""
        return importlib.import_module(self.module)


ACCURACY = "accuracy"  # always first: its predictions make the table, the report and the comparison

# Name in config.evaluators -> `make(run: evaluators.EvaluatedRun) -> (params -> {"DATASET/METRIC": value})`.
EVALUATORS: Mapping[str, Entry] = {
    ACCURACY: Entry("cover_jax.evaluation.evaluator"),  # its metrics are those of each dataset's task
    "knn": Entry("cover_jax.evaluation.knn", ("knn_top1",), main_metric="top1"),
}

# Name in config.loggers -> `make(workdir: epath.Path, config: ConfigDict) -> clu.metric_writers.MetricWriter`.
LOGGERS: Mapping[str, Entry] = {
    "tensorboard": Entry("cover_jax.loggers.tensorboard"),
    "wandb": Entry("cover_jax.loggers.wandb", package="wandb"),
}


def check_packages(key: str, names: tuple[str, ...], known: Mapping[str, Entry]) -> None:
    """Refuses an entry whose package is not installed.

    Raises:
        ConfigError: the message names the config key and the package.
    """
    for name in names:
        package = known[name].package
        if package and importlib.util.find_spec(package) is None:
            raise ConfigError(f"config.{key}={names!r}: {name!r} needs the package {package}: pip install {package}")
