"""Writes a run as one HTML page that needs nothing else: curves, accuracies, confusions, examples, data and config.

    python -m cover_jax.report --workdir=/tmp/cover_demo

It is made from the workdir's newest checkpoint, its newest evaluation (WORKDIR/predictions) and its TensorBoard files;
examples are shown if the prepared data is still there.
"""

import argparse
import dataclasses
import sys

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cover_jax import checkpoint, evaluated, progress
from cover_jax.report import about, chart, classes, curves, examples
from data_pipelines import page
from data_pipelines.builders import files
from data_pipelines.page import escape

PAGE = "report.html"
STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
.card { background: var(--card); border-radius: 8px; padding: .6rem .8rem; }
.card .value { font-size: 2rem; line-height: 1.2; font-variant-numeric: tabular-nums; margin: 0; }
"""


def of_run(workdir: str, data_dir: str = "") -> str:
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
    step, meta, _ = checkpoint.newest(workdir)
    config, scalars = checkpoint.config_of(meta), curves.read(folder / "tensorboard")
    of_datasets = {
        name: _Dataset(dataset, meta["heads"][name], evaluated.load(folder, name))
        for name, dataset in config.datasets.items()
    }
    sections = [
        *((name, curves.of_dataset(scalars, name) + of_dataset.section(data_dir or config.data_dir))
          for name, of_dataset in of_datasets.items()),
        ("The run", curves.of_run(scalars) + about.rollbacks(meta)),
        ("Data", about.data(meta, config)),
        ("Config", about.config(config)),
        ("Versions", about.versions(meta)),
    ]  # fmt: skip
    head = f"<p>Step {step} of {config.steps}; {escape(config.model.variant)}, {config.model.size_px} px.</p>"
    body = head + _links(sections) + _accuracies(of_datasets, step) + _headed(sections)
    return page.document(f"Run {folder.name}", body, STYLE + chart.STYLE + classes.STYLE)


@dataclasses.dataclass(frozen=True, eq=False)
class _Dataset:
    """One of a run's datasets: its entry in the config, its head's classes, its newest evaluation or None."""

    config: ConfigDict
    class_names: list[str]
    found: evaluated.Evaluated | None

    def section(self, data_dir: str) -> str:
        """Its classes and examples; "" if it was not evaluated."""
        if self.found is None:
            return ""
        shown = examples.section(self.found, self.class_names, self.config, data_dir)
        return classes.section(self.found.predictions, self.class_names) + shown


def _accuracies(of_datasets: dict[str, _Dataset], step: int) -> str:
    """A card for each dataset; and which were not evaluated."""
    evaluated_ones = {name: one for name, one in of_datasets.items() if one.found}
    cards = "".join(
        _card(progress.accuracy_row(name, len(one.class_names), one.found.predictions), one.found.step)
        for name, one in evaluated_ones.items()
    )
    missing = [name for name, one in of_datasets.items() if one.config.eval_split and not one.found]
    lines = [f"No evaluation yet of {', '.join(missing)}: --mode=evaluate makes one."] if missing else []
    if any(one.found.step != step for one in evaluated_ones.values()):
        lines.append(f"The newest checkpoint is of step {step}.")
    said = "".join(f'<p class="muted">{escape(line)}</p>' for line in lines)
    return f'<section><h2>Accuracy</h2><div class="cards">{cards}</div>{said}</section>'


def _card(row: dict[str, str], step: int) -> str:
    more = f"top-5 {row['top-5']}, mean class {row['mean class']}, chance {row['chance']}; step {step}"
    return (
        f'<div class="card"><b>{escape(row["dataset"])}</b><p class="value">{row["top-1"]}</p>'
        f'top-1 of {row["examples"]} examples, {row["classes"]} classes<br><span class="muted">{more}</span></div>'
    )


def _links(sections: list[tuple[str, str]]) -> str:
    links = "".join(f'<a href="#section{i}">{escape(title)}</a>' for i, (title, _) in enumerate(sections))
    return f'<nav aria-label="Sections">{links}</nav>'


def _headed(sections: list[tuple[str, str]]) -> str:
    return "".join(
        f'<section><h2 id="section{i}">{escape(title)}</h2>{content}</section>'
        for i, (title, content) in enumerate(sections)
    )


def main(arguments: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m cover_jax.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="folder of a run, local or gs://")
    parser.add_argument("--out", default="", help=f"file to write (WORKDIR/{PAGE})")
    parser.add_argument("--data_dir", default="", help="where prepared datasets stand, if that has changed")
    args = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    out = epath.Path(args.out) if args.out else epath.Path(args.workdir) / PAGE
    try:
        made = of_run(args.workdir, args.data_dir)
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(out, made.encode())
    except checkpoint.CheckpointDamagedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(out)


if __name__ == "__main__":
    main(sys.argv[1:])
