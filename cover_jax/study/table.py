"""The table of a study: of each dataset and setting the mean accuracy, and its differences from the baselines.

A difference is taken within each replicate, of two settings with the same seed and the same draw, and on each
validation example: what makes a replicate or an example easy or hard cancels out. A standard error has two parts, as
if both replicates and validation examples were drawn anew.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from cover_jax import config as config_lib
from cover_jax import metrics

CONFIDENCE = 0.95
LEAST_REPLICATES = 3  # for a difference to be called clear
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
    """

    value: float
    error: float
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether zero is outside its confidence interval, by Student's t; never of one or two replicates."""
        if self.count < LEAST_REPLICATES:
            return False
        return abs(self.value) > stats.t.ppf((1 + CONFIDENCE) / 2, self.count - 1) * self.error


@dataclasses.dataclass(frozen=True)
class Row:
    """A setting's accuracy on a dataset.

    Attributes:
        setting: its name.
        label: its name in words.
        top1: mean over its replicates, 0..1.
        differences: baseline -> this setting minus it, over the replicates that both have.
    """

    setting: str
    label: str
    top1: Mean
    differences: Mapping[str, Mean]


def mean(values: Sequence[float]) -> Mean:
    """Their mean and its standard error over replicates alone."""
    return Mean(float(np.mean(values)), metrics.standard_error(np.asarray(values)), len(values))


def mean_of(hits_RN: np.ndarray) -> Mean:
    """The mean of all, with both parts of its standard error; of one replicate with that over examples alone."""
    over_examples = metrics.standard_error(hits_RN.mean(axis=0))
    over_replicates = metrics.standard_error(hits_RN.mean(axis=1)) if len(hits_RN) > 1 else 0.0
    return Mean(float(hits_RN.mean()), math.hypot(over_replicates, over_examples), len(hits_RN))


def tables(study: ConfigDict, found: Sequence[dict]) -> dict[str, list[Row]]:
    """Dataset -> a row for each setting that was validated on it.

    Args:
        study: as in configs/studies/common.py.
        found: results of runs (`results.load`).

    Raises:
        ConfigError: two of them were validated on different examples.
    """
    hits = _by_dataset(found)
    return {name: _rows(study, name, hits[name]) for name in study.run.datasets if name in hits}


def _by_dataset(found: Sequence[dict]) -> dict[str, dict[str, Hits]]:
    """Dataset -> setting -> replicate -> its hits."""
    hits, validated_on = {}, {}
    for result in found:
        for name, text in result["hits"].items():
            if validated_on.setdefault(name, result["validated_on"][name]) != result["validated_on"][name]:
                raise config_lib.ConfigError(
                    f"settings.{result['setting']}: validates {name} on other examples than others"
                )
            of_setting = hits.setdefault(name, {}).setdefault(result["setting"], {})
            of_setting[result["seed"], result["draw"]] = np.array([int(hit) for hit in text])
    return hits


def _rows(study: ConfigDict, dataset: str, hits: Mapping[str, Hits]) -> list[Row]:
    baselines = [name for name in study.baselines.get(dataset, ()) if name in hits]
    return [
        Row(
            setting,
            study.settings[setting].label,
            mean_of(np.stack(list(hits[setting].values()))),
            {name: paired for name in baselines if name != setting and (paired := _paired(hits[setting], hits[name]))},
        )
        for setting in study.settings
        if setting in hits
    ]


def _paired(hits: Hits, baseline: Hits) -> Mean | None:
    """The one minus the other over the replicates that both have; None where there is none."""
    both = sorted(hits.keys() & baseline.keys())
    return mean_of(np.stack([hits[key] - baseline[key] for key in both])) if both else None


def markdown(study: ConfigDict, of_datasets: dict[str, list[Row]], examples: Mapping[str, int]) -> str:
    """All tables as text, in percent.

    Args:
        examples: dataset -> how many it was validated on.
    """
    return "\n\n".join(_table(study, name, rows, examples[name]) for name, rows in of_datasets.items())


def _table(study: ConfigDict, name: str, rows: list[Row], examples: int) -> str:
    baselines = [b for b in study.baselines.get(name, ()) if any(b in row.differences for row in rows)]
    titles = ["setting", "runs", f"{name} top-1", *(f"minus: {study.settings[b].label}" for b in baselines)]
    cells = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for row in rows:
        differences = [_difference(row.differences.get(baseline)) for baseline in baselines]
        cells.append([row.label, str(row.top1.count), _percent(row.top1), *differences])
    widths = [max(len(line[i]) for line in cells) for i in range(len(titles))]
    return "\n".join([f"{name}, {examples} validation examples:", "", *(_line(line, widths) for line in cells)])


def _line(cells: list[str], widths: list[int]) -> str:
    """The first cell to the left, the others to the right."""
    first, *others = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"


def _percent(of: Mean) -> str:
    return f"{100 * of.value:.1f} ± {100 * of.error:.1f}"


def _difference(of: Mean | None) -> str:
    """Signed, bold where it is clear."""
    if of is None:
        return ""
    text = f"{100 * of.value:+.1f} ± {100 * of.error:.1f}"
    return f"**{text}**" if of.is_clear else text
