"""The rows of the table, and the table."""

import argparse
import collections
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from cover_jax.study import table
from data_pipelines.output import text_tables
from tests.benchmarks.probes import clips, features, heads, training

KINDS = {"linear": ("linear", 0), "attentive_1": ("attentive", 1), "attentive_4": ("attentive", 4)}
TRAINED = {"head": training.head, "fine_tuned": training.all_layers}
COSTLY = {"attentive_4", *TRAINED}  # minutes per seed
BASELINE = "logistic"  # that the other rows are compared with


def choose(hits: Mapping[str, np.ndarray], on: np.ndarray) -> str:
    """The setting with most hits among the clips `on`; of equal ones the first."""
    return max(hits, key=lambda name: int(hits[name][on].sum()))


def _on_features(row: str, found: features.Features, seed: int, made: dict[str, heads.Probes]) -> dict:
    """A result: what was chosen, and the hits on the validation clips."""
    division = clips.Division.of(seed)
    train, validation = found.of(division.train), found.of(division.validation)
    if row in KINDS:
        if row not in made:
            made[row] = heads.Probes(*KINDS[row])
        read = found.cls_ND if KINDS[row][0] == "linear" else found.tokens_NTPD
        hits = made[row](read, found.label_N, train, seed)
    elif row == "logistic":
        hits = features.logistic_regression(found, train)
    else:
        hits = {"": features.nearest(found, train, 1 if row == "nearest" else 20)}
    chosen = choose(hits, found.of(division.choice))
    every = {name: float(of_setting[validation].mean()) for name, of_setting in hits.items()}
    return {"chosen": chosen, "hits": hits[chosen][validation].tolist(), "every": every}


def results_of(args: argparse.Namespace) -> dict[str, dict[int, dict]]:
    """Row -> seed -> result, read from WORKDIR/results or computed. `args`: of the command."""
    workdir = pathlib.Path(args.workdir).expanduser().resolve()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(workdir / "compiled"))  # for all runs together
    data_dir = clips.prepare(workdir, args.source)
    found, made = None, {}
    results: dict[str, dict[int, dict]] = {}
    for row in args.rows:
        for seed in range(args.costly_seeds if row in COSTLY else args.seeds):
            path = workdir / "results" / f"{row}_{seed}.json"
            if not path.exists():
                if row in TRAINED:
                    run = TRAINED[row](workdir, data_dir, args.weights, seed)
                    result = {"chosen": "", "hits": training.hits(run).tolist()}
                else:
                    frozen = training.head(workdir, data_dir, args.weights, 0)
                    found = found or features.load(workdir, data_dir, frozen)
                    result = _on_features(row, found, seed, made)
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(result))
                print(f"{row}, seed {seed}: {np.mean(result['hits']):.1%} {result['chosen']}", flush=True)
            results.setdefault(row, {})[seed] = json.loads(path.read_text())
    return results


def report(results: Mapping[str, Mapping[int, dict]]) -> str:
    """The table: mean and standard error over seeds, and over the seeds of both the difference from BASELINE."""
    top1 = {row: {seed: float(np.mean(one["hits"])) for seed, one in found.items()} for row, found in results.items()}
    lines = []
    for row, of_seeds in top1.items():
        base = top1.get(BASELINE, {})
        both = sorted(of_seeds.keys() & base.keys()) if row != BASELINE else []
        difference = table.mean([of_seeds[seed] - base[seed] for seed in both]) if both else None
        chosen = collections.Counter(one["chosen"] for one in results[row].values() if one["chosen"])
        lines.append(
            [
                row, str(len(of_seeds)), _percent(table.mean(list(of_seeds.values()))),
                f"{_percent(difference, '+')} ({len(both)})" if difference else "",
                ", ".join(f"{name} ({count})" for name, count in chosen.most_common()),
            ]
        )  # fmt: skip
    columns = ["row", "seeds", "top-1, %", f"minus {BASELINE} (seeds)", "chosen (seeds)"]
    return text_tables.markdown_table(columns, lines)


def _percent(mean: table.Mean, sign: str = "") -> str:
    return f"{100 * mean.value:{sign}.1f} ± {100 * mean.error:.1f}"
