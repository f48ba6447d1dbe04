"""All keys of a run's config as text: for the terminal, and as the page configs/KEYS.md."""

from collections.abc import Iterator
from typing import Any

from cover_jax.config import keys, schema
from data_pipelines.output import text_tables

_PAGE = """# All config keys

This page is made from [`cover_jax/config/schema.py`](../cover_jax/config/schema.py):
`python -m cover_jax.config --format=markdown --out=configs/KEYS.md`

`--config.KEY=VALUE` sets a key: `--config.steps=2000`, `--config.optimizer.name=adamw`. In `config.datasets.NAME`, NAME
is the name of a dataset of the config, such as `motion` in `configs/demo.py`.
"""


def as_text(word: str = "") -> str:
    """Each key with its default, what it may be, and what it does; only those whose name or text has the word."""
    lines = [
        f"config.{path} = {key.default!r}  (must be {key.rule.text})\n    {key.description()}"
        for path, key in _all_keys()
        if word.lower() in f"{path} {key.description()}".lower()
    ]
    return "\n".join(lines)


def as_markdown() -> str:
    """The page configs/KEYS.md: a table for each group of keys."""
    return "\n".join([_PAGE, *(_section(path, group) for path, group in keys.walk(schema.Run))])


def as_json() -> list[dict[str, Any]]:
    """A row for each key: key, default, must_be, choices (None: they are no list), text."""
    return [
        {
            "key": path, "default": key.default, "must_be": key.rule.text, "choices": key.rule.choices or None,
            "text": key.description(),
        }
        for path, key in _all_keys()
    ]  # fmt: skip


def _all_keys() -> Iterator[tuple[str, keys.Key]]:
    for prefix, group in keys.walk(schema.Run):
        for name, entry in group.keys().items():
            if isinstance(entry, keys.Key):
                yield f"{prefix}.{name}".lstrip("."), entry


def _section(path: str, group: type[keys.Group]) -> str:
    rows = [
        [
            f"`{name}`",
            text_tables.markdown_code(repr(entry.default)),
            text_tables.markdown_text(entry.rule.text),
            text_tables.markdown_text(entry.description()),
        ]
        for name, entry in group.keys().items()
        if isinstance(entry, keys.Key)
    ]
    table = text_tables.markdown_table(["key", "default", "must be", "what it does"], rows)
    title = f"`config.{path}`" if path else "`config`"
    return f"## {title}\n\n{text_tables.markdown_text(group.description())}\n\n{table}\n"
