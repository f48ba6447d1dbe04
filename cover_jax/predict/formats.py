"""Predictions as text: a table for people, CSV, JSON."""

import csv
import io
import json
from typing import TYPE_CHECKING

from data_pipelines.output import text_tables

if TYPE_CHECKING:
    from cover_jax.predict.predictor import HeadPredictions


def to_rows(predictions: "dict[str, HeadPredictions]", top: int) -> list[dict[str, str | int | float]]:
    """One row per path, head and rank: path, head, rank, class, probability."""
    return [
        {"path": path, "head": head, "rank": rank, "class": name, "probability": probability}
        for path, by_head in predictions.items()
        for head, prediction in by_head.items()
        for rank, (name, probability) in enumerate(prediction.top(top), 1)
    ]


def as_table(rows: list[dict]) -> str:
    """A table for people. A path and a head are printed only in their first row."""
    if not rows:
        return "nothing was predicted"
    shown, before = [], (None, None)
    for row in rows:
        path, head = row["path"], row["head"]
        shown.append({
            "path": path if path != before[0] else "",
            "head": head if (path, head) != before else "",
            "class": row["class"],
            "probability": f"{row['probability']:.1%}",
        })  # fmt: skip
        before = path, head
    return text_tables.text_table("", shown).lstrip()


def as_csv(rows: list[dict]) -> str:
    """CSV with the columns of `to_rows`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["path", "head", "rank", "class", "probability"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip()


def as_json(rows: list[dict]) -> str:
    """{path: {head: [{class, probability}, ...]}}, the most probable class first."""
    nested: dict[str, dict[str, list]] = {}
    for row in rows:
        guesses = nested.setdefault(row["path"], {}).setdefault(row["head"], [])
        guesses.append({"class": row["class"], "probability": row["probability"]})
    return json.dumps(nested, indent=2)


FORMATS = {"table": as_table, "json": as_json, "csv": as_csv}
