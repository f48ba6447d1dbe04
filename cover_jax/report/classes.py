"""Which classes of a dataset are told well and which badly, and what they are taken for."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from cover_jax.tasks import metrics
from cover_jax.tasks.metrics import Predictions
from cover_jax.tasks.multihead import MultiheadPredictions
from data_pipelines.output import html
from data_pipelines.output.html import escape

# C classes, S side of the picture

MOST_IN_FULL = 40  # classes whose table and matrix are shown whole
MOST_NAMED_COLUMNS = 12  # of a matrix; the columns of a larger one are numbered, so that it fits on a page
SHOWN_CLASSES, SHOWN_PAIRS = 15, 15  # of the worst, of the best; of pairs
MOST_ROWS = 1000  # rows of the table of all classes; more classes are listed as plain text, a tenth of the size
SHOWN_ABSENT = 100  # classes without examples that are named
PICTURE_PX = 960
# Red, green, blue of the picture; how often is how opaque, so that it suits light and dark.
RIGHT_RGB, WRONG_RGB = (59, 130, 214), (217, 102, 43)
STYLE = """
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 0 2rem; }
.sides > div { min-width: 0; }
.share { display: flex; align-items: center; gap: .5rem; justify-content: flex-end; }
.share i { flex: none; width: 4rem; height: .7rem; border-radius: 2px; background: linear-gradient(to right,
  var(--bar) var(--found), var(--lack) 0); }
@media (max-width: 30rem) { .share i { display: none; } }
.share b { font-weight: 400; min-width: 6.2rem; }
.confusion { font-size: .85rem; font-variant-numeric: tabular-nums; }
.confusion td { text-align: center; padding: .15rem .35rem; min-width: 2.2rem; border: 1px solid var(--rule);
  background: rgb(var(--wrong) / var(--often, 0)); }
.confusion td.hit { background: rgb(var(--right) / var(--often, 0)); }
.confusion th { max-width: 9rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: inherit; }
.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem; max-width: none;
  padding: .3rem 0; font-weight: 400; }
.confusion.numbered { font-size: .75rem; } .confusion.numbered td { padding: .1rem; min-width: 1.3rem; }
.confusion.numbered thead th { writing-mode: horizontal-tb; transform: none; padding: .1rem; text-align: center; }
.confusion thead td { border: 0; } .confusion tbody th { position: sticky; left: 0; background: var(--paper); }
.matrix { max-width: 46rem; } .matrix img { border: 1px solid var(--rule); }
"""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Examples of one class that were taken for another."""

    label: int
    top1: int
    count: int


def confused_pairs(predictions: Predictions) -> list[Pair]:
    """All pairs of classes that were confused, the most frequent first."""
    wrong = predictions.label != predictions.top1
    both = np.stack([predictions.label[wrong], predictions.top1[wrong]], axis=1)
    pairs, counts = np.unique(both, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [Pair(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]


def section(predictions: Predictions, class_names: Sequence[str]) -> Markup:
    """Each class, the confusion matrix, and the most confused pairs."""
    pairs, seen = confused_pairs(predictions), _Seen(predictions, class_names)
    confused = f"<h3>Most confused pairs</h3>{_pairs(pairs, seen)}"
    if len(class_names) <= MOST_IN_FULL:
        of_each = seen.table(seen.worst_first, pairs, "Classes, the worst first") + seen.absent()
        listed, matrix = f"<h3>Classes</h3>{of_each}", f"<h3>Confusion</h3>{_table(predictions, class_names)}"
        if len(class_names) <= MOST_NAMED_COLUMNS:
            return beside(listed, matrix + confused)
        return Markup(f"{matrix}{beside(listed, confused)}")
    picture = _picture(predictions, class_names)
    return Markup(f"{_worst_and_best(seen, pairs)}{confused}<h3>Confusion</h3>{picture}")


def sections_of_heads(predictions: MultiheadPredictions, class_names: Sequence[str]) -> Markup:
    """The section of each head."""
    shown, first = Markup(), 0
    for name, (num_classes, of_head) in predictions.of_heads.items():
        shown += Markup(f"<h3>{escape(name)}</h3>") + section(of_head, class_names[first : first + num_classes])
        first += num_classes
    return shown


def _worst_and_best(seen: "_Seen", pairs: list[Pair]) -> Markup:
    """Of many classes, the worst and the best, and all by name where one asks for them."""
    by_name = sorted(seen.worst_first, key=lambda i: seen.class_names[i])
    shown = ((seen.worst_first, "Worst classes"), (seen.best_first, "Best classes"))
    sides = [f"<h3>{title}</h3>{seen.table(labels[:SHOWN_CLASSES], pairs, title)}" for labels, title in shown]
    everyone = f"All {len(by_name):,} classes by name"
    listed = seen.table(by_name, pairs, everyone) if len(by_name) <= MOST_ROWS else seen.lines(by_name, everyone)
    return Markup(f"{beside(*sides)}<details><summary>{everyone}</summary>{listed}</details>{seen.absent()}")


def beside(left: str, right: str) -> Markup:
    """Two parts side by side, where the page is wide enough."""
    return Markup(f'<div class="sides"><div>{left}</div><div>{right}</div></div>')


class _Seen:
    """How often each class was seen, and told.

    Attributes:
        class_names: in the order of the labels.
        totals, hits: examples of each class, and those of them that are right: int64 [C].
        worst_first, best_first: the classes that have examples; of equal ones those with more come first.
    """

    def __init__(self, predictions: Predictions, class_names: Sequence[str]):
        right = predictions.label == predictions.top1
        self.class_names = class_names
        self.totals = np.bincount(predictions.label, minlength=len(class_names))
        self.hits = np.bincount(predictions.label[right], minlength=len(class_names))
        present = np.flatnonzero(self.totals)
        shares = self.hits[present] / self.totals[present]
        self.worst_first = present[np.lexsort((-self.totals[present], shares))]
        self.best_first = present[np.lexsort((-self.totals[present], -shares))]

    def table(self, labels, pairs: list[Pair], title: str) -> Markup:
        """Of these classes the examples, the share that is right, and what the others are taken for most often."""
        most_often = {pair.label: pair for pair in reversed(pairs)}
        rows = []
        for i in labels:
            pair = most_often.get(int(i))
            taken_for = f"{self.class_names[pair.top1]} ({pair.count})" if pair else ""
            rows.append([self.class_names[i], self.totals[i], _share(self.hits[i], self.totals[i]), taken_for])
        return html.table(["class", "examples", "right", "mistaken for"], rows, ("examples", "right"), title)

    def lines(self, labels, title: str) -> Markup:
        """Of these classes the share that is right, the examples and the name, one class per line."""
        rows = (f"{self.hits[i] / self.totals[i]:6.1%} of {self.totals[i]:<6} {self.class_names[i]}" for i in labels)
        return html.scrolling(Markup("<pre>{}</pre>").format(escape("\n".join(rows))), title)

    def absent(self) -> Markup:
        """Which classes have no examples."""
        return absent([self.class_names[i] for i in np.flatnonzero(self.totals == 0).tolist()])


def absent(names: Sequence[str]) -> Markup:
    """Which classes have no examples."""
    more = f" and {len(names) - SHOWN_ABSENT:,} more" if len(names) > SHOWN_ABSENT else ""
    said = f"No validation examples of {len(names):,} classes: {', '.join(names[:SHOWN_ABSENT])}{more}"
    return Markup(f'<p class="muted">{escape(said)}</p>' if names else "")


def _share(hits: int, total: int) -> Markup:
    value = hits / total
    text = metrics.percent(value, metrics.binomial_error(value, total))
    return bar(value, text)


def bar(value: float, text: str) -> Markup:
    """A share 0..1 as a bar, beside a text."""
    return Markup(f'<span class="share"><i style="--found:{100 * value:.1f}%"></i><b>{text}</b></span>')


def _pairs(pairs: list[Pair], seen: _Seen) -> Markup:
    if not pairs:
        return Markup("<p>None: all are right.</p>")
    names, columns = seen.class_names, ["class", "mistaken for", "times", "of the class"]
    rows = [
        [names[pair.label], names[pair.top1], pair.count, f"{pair.count / seen.totals[pair.label]:.1%}"]
        for pair in pairs[:SHOWN_PAIRS]
    ]
    return html.table(columns, rows, columns[2:], "Most confused pairs")


def _table(predictions: Predictions, class_names: Sequence[str]) -> Markup:
    """The matrix with its counts: rows are true classes, columns what they were taken for.

    Columns of more than MOST_NAMED_COLUMNS classes have the numbers that stand before the names of the rows.
    """
    confusion = predictions.confusion(len(class_names))
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    numbered = len(class_names) > MOST_NAMED_COLUMNS
    rows = [f"{i} {name}" if numbered else name for i, name in enumerate(class_names, 1)]
    columns = [str(i) for i in range(1, len(rows) + 1)] if numbered else rows
    head = "".join(
        f'<th scope="col" title="{escape(row)}">{escape(column)}</th>'
        for row, column in zip(rows, columns, strict=True)
    )
    body = ""
    for i, name in enumerate(rows):
        cells = "".join(
            _cell(confusion[i, j], shares[i, j], i == j, f"{class_names[i]} as {class_names[j]}")
            for j in range(len(rows))
        )
        body += f'<tr><th scope="row" title="{escape(name)}">{escape(name)}</th>{cells}</tr>'
    kind = "confusion numbered" if numbered else "confusion"
    table = f'<table class="{kind}"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    said = "Rows: true classes. Columns: predicted ones" + (", by the numbers of the rows." if numbered else ".")
    return Markup(f"<p>{said}</p>{html.scrolling(table, 'Confusion matrix')}")


def _cell(count: int, share: float, hit: bool, what: str) -> str:
    kind = ' class="hit"' if hit else ""
    if not count:
        return f"<td{kind}></td>"
    return f'<td{kind} style="--often:{np.sqrt(share):.2f}" title="{escape(what)}">{count}</td>'


def _picture(predictions: Predictions, class_names: Sequence[str]) -> Markup:
    """The matrix as a picture. Of more than 1,000 classes, several share a row and a column."""
    num_classes = len(class_names)
    counts = predictions.confusion(num_classes)
    side = len(counts)
    often_SS = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    rgb_SS3 = np.where(np.eye(side, dtype=bool)[..., None], RIGHT_RGB, WRONG_RGB)
    # What happened once in a thousand can still be seen.
    alpha_SS = np.where(often_SS > 0, np.maximum(often_SS, 0.2), 0)
    rgba_SS4 = np.concatenate([rgb_SS3, np.round(alpha_SS * 255)[..., None]], axis=-1).astype(np.uint8)
    factor = max(1, PICTURE_PX // side)
    image = Image.fromarray(np.kron(rgba_SS4, np.ones((factor, factor, 1), np.uint8)))
    said = f"{num_classes} classes, in the order of their labels. Rows: true. Columns: predicted. Blue: right."
    alt = f"Confusion matrix, {float(predictions.hits.mean()):.1%} of the examples on its diagonal"
    return Markup(f'<div class="matrix">{html.picture(image, alt, said, "PNG")}</div>')
