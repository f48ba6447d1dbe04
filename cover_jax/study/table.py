"""The table of a study: of each dataset and setting the mean accuracy, and its differences from the baselines.

Means and differences stand with their standard error over replicates. A difference is taken within each replicate, of
two settings with the same seed and the same draw, so that what makes a replicate easy or hard cancels out.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

CONFIDENCE = 0.95
Key = tuple[int, int]  # seed and draw of a replicate


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over replicates.

    Attributes:
        value: the mean.
        error: its standard error; NaN of a single replicate.
        count: of replicates.
    """

    value: float
    error: float
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether zero is outside its confidence interval, by Student's t; never of a single replicate."""
        if self.count < 2:
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
    """Their mean and its standard error, from the sample's standard deviation (n - 1)."""
    count = len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Mean(float(np.mean(values)), error, count)


def tables(study: ConfigDict, found: Sequence[dict]) -> dict[str, list[Row]]:
    """Dataset -> a row for each setting that was validated on it.

    Args:
        study: as in configs/studies/common.py.
        found: results of runs (`results.load`).
    """
    top1 = _by_setting(found)
    datasets = [name for name in study.run.datasets if any(name in of_setting for of_setting in top1.values())]
    return {name: _rows(study, name, {s: top1[s][name] for s in top1 if name in top1[s]}) for name in datasets}


def _by_setting(found: Sequence[dict]) -> dict[str, dict[str, dict[Key, float]]]:
    """Setting -> dataset -> replicate -> top-1."""
    top1 = {}
    for result in found:
        of_setting = top1.setdefault(result["setting"], {})
        for name, value in result["top1"].items():
            of_setting.setdefault(name, {})[result["seed"], result["draw"]] = value
    return top1


def _rows(study: ConfigDict, dataset: str, top1: dict[str, dict[Key, float]]) -> list[Row]:
    baselines = [name for name in study.baselines.get(dataset, ()) if name in top1]
    return [
        Row(
            setting,
            study.settings[setting].label,
            mean(list(top1[setting].values())),
            {name: paired for name in baselines if name != setting and (paired := _paired(top1, setting, name))},
        )
        for setting in study.settings
        if setting in top1
    ]


def _paired(top1: dict[str, dict[Key, float]], setting: str, baseline: str) -> Mean | None:
    """Setting minus baseline over the replicates that both have; None where there is none."""
    both = top1[setting].keys() & top1[baseline].keys()
    return mean([top1[setting][key] - top1[baseline][key] for key in sorted(both)]) if both else None


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
    return f"{100 * of.value:.1f} ± {100 * of.error:.1f}" if of.count > 1 else f"{100 * of.value:.1f}"


def _difference(of: Mean | None) -> str:
    """Signed, bold where it is clear."""
    if of is None:
        return ""
    text = f"{100 * of.value:+.1f} ± {100 * of.error:.1f}" if of.count > 1 else f"{100 * of.value:+.1f}"
    return f"**{text}**" if of.is_clear else text
