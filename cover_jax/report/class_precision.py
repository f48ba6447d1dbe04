"""How well each class of a dataset with several labels per example is found: its average precision."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from cover_jax.report import classes
from cover_jax.tasks.multilabel import MultilabelPredictions
from data_pipelines.output import html

COLUMNS = ("class", "examples", "share of all", "average precision")


def section(predictions: MultilabelPredictions, class_names: Sequence[str]) -> Markup:
    """Of each class the examples, and the average precision; of many classes the worst and the best, then all."""
    precisions = predictions.average_precisions
    present = np.flatnonzero(~np.isnan(precisions))
    worst_first = present[np.argsort(precisions[present], kind="stable")].tolist()

    def table(labels: Sequence[int], title: str) -> Markup:
        counts, num_examples = predictions.targets.sum(axis=0), len(predictions.index)
        rows = [
            [class_names[i], counts[i], f"{counts[i] / num_examples:.1%}", classes.bar(value, f"{value:.1%}")]
            for i, value in ((i, precisions[i]) for i in labels)
        ]
        return html.table(COLUMNS, rows, COLUMNS[1:], title)

    absent = classes.absent([class_names[i] for i in np.flatnonzero(np.isnan(precisions)).tolist()])
    if len(class_names) <= classes.MOST_IN_FULL:
        title = "Classes, the worst first"
        return Markup(f"<h3>{title}</h3>{table(worst_first, title)}{absent}")
    shown, everyone = classes.SHOWN_CLASSES, f"All {len(present):,} classes by name"
    sides = [
        f"<h3>{title}</h3>{table(labels[:shown], title)}"
        for title, labels in (("Worst classes", worst_first), ("Best classes", worst_first[::-1]))
    ]
    by_name = sorted(present.tolist(), key=lambda i: class_names[i])[: classes.MOST_ROWS]
    listed = f"<details><summary>{everyone}</summary>{table(by_name, everyone)}</details>"
    return Markup(f"{classes.beside(*sides)}{listed}{absent}")
