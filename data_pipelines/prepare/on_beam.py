"""Reads the files in an Apache Beam pipeline, for clusters. Needs the extra `beam`."""

import functools
import json
from collections.abc import Callable, Iterable

from etils import epath

from data_pipelines import escaping, files
from data_pipelines.media.media_file import Media
from data_pipelines.prepare import worker_pool
from data_pipelines.prepare.listing import Item


def examples(
    split: str, reader: worker_pool.Reader, parts: Iterable[list[Item]], example: Callable, refused: epath.Path
):
    """A beam.PTransform: nothing -> (key, example) of each usable file of a split.

    The list of files is passed in a file of the work folder, because the millions of files of a split do not fit into a
    job description. Workers need access to the source and to the work folder, in which they store their results.

    Args:
        split: its name.
        reader: how files are read.
        parts: the chunks.
        example: (item, media) -> record.
        refused: the file to which unusable files and their reasons are written.
    """
    import apache_beam as beam  # slow to import, and an optional dependency

    lines = epath.Path(reader.work_dir) / f"{split}.chunks.jsonl"
    with lines.open("w") as file:
        file.writelines(worker_pool.to_json(part) + "\n" for part in parts)

    def expand(pipeline):
        outcomes = (
            pipeline
            | "Chunks" >> beam.io.ReadFromText(str(lines))
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(functools.partial(_outcomes, reader))
        )
        _ = (
            outcomes
            | "Refused" >> beam.Filter(lambda pair: not isinstance(pair[1], Media))
            | "Row" >> beam.Map(lambda pair: (split, pair[0].source, pair[1], pair[0].label))
            | "Rows" >> beam.combiners.ToList()
            | "Write" >> beam.Map(lambda rows: refused.write_text(json.dumps(sorted(rows))))
        )
        return (
            outcomes
            | "Usable" >> beam.Filter(lambda pair: isinstance(pair[1], Media))
            | "Example" >> beam.MapTuple(lambda item, media: (escaping.escape(item.source), example(item, media)))
        )

    return beam.ptransform_fn(expand)()


def read_refused(path: epath.Path) -> list[tuple[str, ...]]:
    """The rows that the pipeline wrote."""
    return [tuple(row) for row in files.read_json(path, [[str]])]


def _outcomes(reader: worker_pool.Reader, line: str) -> list[tuple[Item, worker_pool.Outcome]]:
    items = worker_pool.from_json(line)
    return list(zip(items, reader.outcomes(items), strict=True))
