"""Tables of plain text, and the row of accuracies per dataset."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cover_jax.evaluation import metrics


def accuracy_row(name: str, num_classes: int, predictions: "metrics.Predictions") -> dict[str, str]:
    """One dataset's row of the table of accuracies."""
    found = predictions.accuracies
    return {
        "dataset": name, "classes": str(num_classes), "examples": str(len(predictions.index)),
        "chance": f"{1 / num_classes:.1%}", "top-1": f"{found['top1']:.1%}", "top-5": f"{found['top5']:.1%}",
        "mean class": f"{found['mean_class']:.1%}",
    }  # fmt: skip


def table(title: str, rows: list[dict[str, str]]) -> str:
    """Rows of the same columns as plain text, the first column left-aligned, the others right."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]

    def line(cells):
        return "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([title, rule, line(columns), rule, *(line([row[c] for c in columns]) for row in rows), rule])
