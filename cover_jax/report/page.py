"""The page of a run: curves, accuracies, confusions, examples, data and config, in one file that needs nothing else."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from markupsafe import Markup
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata, restore
from cover_jax.evaluation import saved_predictions
from cover_jax.report import about, chart, class_precision, classes, curves, examples
from cover_jax.tasks import metrics, multihead, multilabel, registry
from data_pipelines.output import html
from data_pipelines.output.html import escape

# Class of a task's predictions -> (predictions, class names) -> what a page shows of its classes.
CLASSES: Mapping[type, Callable[[Any, Sequence[str]], Markup]] = {
    metrics.Predictions: classes.section,
    multilabel.MultilabelPredictions: class_precision.section,
    multihead.MultiheadPredictions: classes.sections_of_heads,
}
STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
.card { background: var(--card); border-radius: 8px; padding: .6rem .8rem; }
.card .value small { font-size: 1.1rem; }
.card .value { font-size: 2rem; line-height: 1.2; font-variant-numeric: tabular-nums; margin: 0; }
"""


def render_run(workdir: str, data_dir: str = "") -> str:
    """The page of a run.

    Args:
        workdir: the run's folder, local or gs://.
        data_dir: where prepared datasets stand; "": where they did when it was trained.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CheckpointDamagedError: there are some, and none is sound.
        ValueError: the file of an evaluation is damaged.
    """
    folder = epath.Path(workdir)
    step, meta, _ = restore.newest(workdir)
    config, scalars = metadata.config_of(meta), curves.read(folder / "tensorboard")
    of_datasets = {
        name: _Dataset(dataset, meta["heads"][name], saved_predictions.load(folder, name))
        for name, dataset in config.datasets.items()
    }
    sections = [
        *((name, of_dataset.curves(scalars, name) + of_dataset.section(data_dir or config.data_dir))
          for name, of_dataset in of_datasets.items()),
        ("The run", curves.render_run(scalars) + about.rollbacks(meta)),
        ("Data", about.data(meta, config)),
        ("Config", about.config(config)),
        ("Versions", about.versions(meta)),
    ]  # fmt: skip
    best = _best_head(of_datasets, registry.bests(config))
    head = f"<p>Step {step} of {config.steps}; {escape(config.model.variant)}, {config.model.size_px} px.</p>"
    body = head + _links(sections) + _accuracies(of_datasets, step, best) + _headed(sections)
    return html.document(f"Run {folder.name}", body, STYLE + chart.STYLE + classes.STYLE)


@dataclasses.dataclass(frozen=True, eq=False)
class _Dataset:
    """One of a run's datasets: its entry in the config, its head's classes, its newest evaluation or None."""

    config: ConfigDict
    class_names: list[str]
    found: saved_predictions.SavedPredictions | None

    def curves(self, scalars: curves.Scalars, name: str) -> Markup:
        """Its loss and metrics over the steps."""
        return curves.render_dataset(scalars, name, registry.of(self.config))

    def section(self, data_dir: str) -> Markup:
        """Its classes and examples; "" if it was not evaluated."""
        if self.found is None:
            return Markup()
        shown = examples.section(self.found, self.class_names, self.config, data_dir)
        return CLASSES[type(self.found.predictions)](self.found.predictions, self.class_names) + shown


def _best_head(of_datasets: dict[str, _Dataset], bests: Mapping[str, Sequence[str]]) -> list[str]:
    """A line on the best of the heads that learn from the same clips; none if there are no such heads."""
    scalars: dict[str, float] = {}
    for name, one in of_datasets.items():
        if one.found:
            found = one.found.predictions.scalars(len(one.class_names))
            scalars |= {f"{name}/{kind}": value for kind, value in found.items()}
    of_known = ([name for name in names if name in scalars] for names in bests.values())
    return [line for names in of_known if (line := metrics.best_head_line(scalars, names))]


def _accuracies(of_datasets: dict[str, _Dataset], step: int, best: Sequence[str]) -> str:
    """A card for each dataset; the lines on the best head; and which were not evaluated."""
    evaluated = {name: one.found for name, one in of_datasets.items() if one.found}
    cards = "".join(_card(name, len(of_datasets[name].class_names), found) for name, found in evaluated.items())
    missing = [name for name, one in of_datasets.items() if one.config.eval_split and not one.found]
    lines = [f"{metrics.ERROR_NOTE}, as if these were independent; another seed may change more."] if evaluated else []
    lines += best
    lines += [f"No evaluation yet of {', '.join(missing)}: --mode=evaluate makes one."] if missing else []
    if any(found.step != step for found in evaluated.values()):
        lines.append(f"The newest checkpoint is of step {step}.")
    said = "".join(f'<p class="muted">{escape(line)}</p>' for line in lines)
    return f'<section><h2>Accuracy</h2><div class="cards">{cards}</div>{said}</section>'


def _card(name: str, num_classes: int, found: saved_predictions.SavedPredictions) -> str:
    """The main metric of a dataset, and the other columns of its row."""
    task = registry.of_predictions(found.predictions)
    row, title = task.row(name, num_classes, found.predictions), task.titles[task.main_metric]
    others = [column for column in row if row[column] and column not in ("dataset", "classes", "examples", title)]
    others.sort(key=("chance", "loss").__contains__)  # metrics first
    more = ", ".join(f"{column} {row[column]}" for column in others)
    return (
        f'<div class="card"><b>{escape(name)}</b><p class="value">{_large(row[title])}</p>{title} of {row["examples"]} '
        f'examples, {row["classes"]} classes<br><span class="muted">{more}; step {found.step}</span></div>'
    )


def _large(percent: str) -> Markup:
    """An accuracy as text with its error smaller."""
    accuracy, _, error = percent.partition(" ")
    return Markup(f"{accuracy} <small>{error}</small>")


def _links(sections: Sequence[tuple[str, str]]) -> str:
    links = "".join(f'<a href="#section{i}">{escape(title)}</a>' for i, (title, _) in enumerate(sections))
    return f'<nav aria-label="Sections">{links}</nav>'


def _headed(sections: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f'<section><h2 id="section{i}">{escape(title)}</h2>{content}</section>'
        for i, (title, content) in enumerate(sections)
    )
