"""The tables of a study: mean accuracy per dataset and setting, and differences from other settings.

A difference is computed within each replicate, between two settings with the same seed and draw, and per validation
example. So the difficulty of a replicate or an example cancels out. Standard errors treat both replicates and
validation examples as random samples.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from cover_jax.errors import ConfigError
from cover_jax.tasks import metrics
from data_pipelines.output import text_tables

CONFIDENCE = 0.95
SOUGHT = 0.05  # the difference whose cost in replicates is told where a difference is not clear
LEAST_REPLICATES = 3  # minimum number for a difference to be marked as clear
Key = tuple[int, int]  # seed and draw of a replicate
Hits = Mapping[Key, np.ndarray]  # replicate -> 0 or 1 for each validation example

# R replicates, N validation examples


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over replicates.

    Attributes:
        value: the mean.
        error: its standard error; NaN if it is not known.
        count: of replicates.
        degrees: of freedom of the standard error.
        of_examples: the part of the squared error that stays, however many replicates there are.
    """

    value: float
    error: float
    count: int
    degrees: float
    of_examples: float = 0.0

    @property
    def is_clear(self) -> bool:
        """Whether zero is outside its confidence interval, by Student's t. Never true for one or two replicates."""
        if self.count < LEAST_REPLICATES:
            return False
        return abs(self.value) > stats.t.ppf((1 + CONFIDENCE) / 2, self.degrees) * self.error

    def replicates_for(self, difference: float) -> int | None:
        """How many such replicates bring the standard error to half a difference. None: no number does.

        The validation examples stay the same, and so does their part of the error.
        """
        of_replicates, allowed = self.error**2 - self.of_examples, (difference / 2) ** 2 - self.of_examples
        return math.ceil(self.count * of_replicates / allowed) if allowed > 0 else None


@dataclasses.dataclass(frozen=True)
class Row:
    """A setting's accuracy on a dataset.

    Attributes:
        setting: name of the setting.
        label: its name in the table.
        top1: mean over its replicates, 0..1.
        differences: baseline -> this setting minus it, over the replicates that both have.
    """

    setting: str
    label: str
    top1: Mean
    differences: Mapping[str, Mean]


def mean(values: Sequence[float]) -> Mean:
    """The mean of the values, with its standard error over replicates only."""
    return Mean(float(np.mean(values)), metrics.standard_error(np.asarray(values)), len(values), len(values) - 1)


def mean_of(hits_RN: np.ndarray) -> Mean:
    """The mean of all values. Its standard error treats replicates and examples as random samples.

    Each value is the sum of a replicate effect, an example effect and a residual, all random (two-way layout without
    repetition). The variances over replicates and over examples both include that of the residual, so it is
    subtracted once from their sum. Degrees of freedom by Satterthwaite (1946). For one replicate: standard error over
    examples only.
    """
    num_replicates, num_examples = hits_RN.shape
    mean_R, mean_N, value = hits_RN.mean(axis=1), hits_RN.mean(axis=0), float(hits_RN.mean())
    if 1 in hits_RN.shape:
        return Mean(value, metrics.standard_error(mean_N), num_replicates, num_examples - 1)
    rest_RN = hits_RN - mean_R[:, None] - mean_N + value
    free_R, free_N, free_rest = num_replicates - 1, num_examples - 1, (num_replicates - 1) * (num_examples - 1)
    of_R, of_N = metrics.standard_error(mean_R) ** 2, metrics.standard_error(mean_N) ** 2
    of_rest = float(np.sum(rest_RN**2)) / free_rest / hits_RN.size
    variance = max(of_R + of_N - of_rest, of_R, of_N)  # the subtracted term is an estimate, and may be too large
    if variance == 0:
        return Mean(value, 0.0, num_replicates, free_R)
    degrees = variance**2 / (of_R**2 / free_R + of_N**2 / free_N + of_rest**2 / free_rest)
    return Mean(value, math.sqrt(variance), num_replicates, degrees, max(0.0, variance - of_R))


def tables(study: ConfigDict, found: Sequence[dict]) -> dict[str, list[Row]]:
    """Dataset -> one row per setting that was validated on it.

    Args:
        study: as in cover_jax/study/schema.py.
        found: results of the runs (`results.load`).

    Raises:
        ConfigError: two runs were validated on different examples.
    """
    hits = _by_dataset(found)
    return {name: _rows(study, name, hits[name]) for name in study.run.datasets if name in hits}


def _by_dataset(found: Sequence[dict]) -> Mapping[str, Mapping[str, Hits]]:
    """Dataset -> setting -> replicate -> its hits."""
    hits: dict[str, dict[str, dict[tuple[int, int], np.ndarray]]] = {}
    validated_on: dict[str, str] = {}
    for result in found:
        for name, text in result["hits"].items():
            if validated_on.setdefault(name, result["validated_on"][name]) != result["validated_on"][name]:
                raise ConfigError(f"settings.{result['setting']}: validates {name} on other examples than others")
            of_setting = hits.setdefault(name, {}).setdefault(result["setting"], {})
            of_setting[result["seed"], result["draw"]] = np.array([int(hit) for hit in text])
    return hits


def _rows(study: ConfigDict, dataset: str, hits: Mapping[str, Hits]) -> list[Row]:
    return [
        Row(
            setting,
            study.settings[setting].label,
            mean_of(np.stack(list(hits[setting].values()))),
            {
                name: paired
                for name in study.differences.get(setting, ())
                if name in hits and (paired := _paired(hits[setting], hits[name]))
            },
        )
        for setting in study.settings
        if setting in hits
    ]


def _paired(hits: Hits, baseline: Hits) -> Mean | None:
    """The first minus the second over the replicates that both have; None if there is no such replicate."""
    both = sorted(hits.keys() & baseline.keys())
    return mean_of(np.stack([hits[key] - baseline[key] for key in both])) if both else None


def markdown(study: ConfigDict, of_datasets: dict[str, list[Row]], examples: Mapping[str, int]) -> str:
    """All tables as text, in percent: accuracies per dataset and, if there are any, their differences.

    Args:
        examples: dataset -> number of validation examples.
    """
    parts = []
    for name, rows in of_datasets.items():
        accuracies = [[row.label, str(row.top1.count), _percent(row.top1)] for row in rows]
        differences = [
            [row.label, study.settings[other].label, str(of.count), _difference(of)]
            for row in rows
            for other, of in row.differences.items()
        ]
        parts += [
            f"{name}, {examples[name]} validation examples:",
            text_tables.markdown_table(["setting", "runs", f"{name} top-1"], accuracies, left=1),
        ]
        if differences:
            columns = ["setting", "minus", "replicates", f"{name} top-1"]
            parts.append(text_tables.markdown_table(columns, differences, left=2))
    return "\n\n".join(parts)


def power_lines(study: ConfigDict, of_datasets: dict[str, list[Row]]) -> list[str]:
    """For each difference that is not clear, how many replicates would show one of SOUGHT."""
    lines = []
    for name, rows in of_datasets.items():
        for row in rows:
            for other, of in row.differences.items():
                if of.is_clear or of.count < LEAST_REPLICATES:
                    continue
                needed = of.replicates_for(SOUGHT)
                takes = f"takes {needed} replicates" if needed else "needs more validation examples"
                minus = f"{row.label}, minus {study.settings[other].label}"
                lines.append(f"{name}: {minus}: {100 * SOUGHT:g} points at two standard errors {takes}")
    return lines


def _percent(of: Mean) -> str:
    return f"{100 * of.value:.1f} ± {100 * of.error:.1f}"


def _difference(of: Mean) -> str:
    """A signed difference, in bold if it is clear."""
    text = f"{100 * of.value:+.1f} ± {100 * of.error:.1f}"
    return f"**{text}**" if of.is_clear else text
