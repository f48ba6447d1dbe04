"""The same reading as an Apache Beam pipeline, for clusters; needs the extra `beam`."""

import functools
import json
from collections.abc import Callable, Iterable

from etils import epath

from data_pipelines import escaping
from data_pipelines.media.media_file import Media
from data_pipelines.prepare import worker_pool
from data_pipelines.prepare.listing import Item


def examples(
    split: str, reader: worker_pool.Reader, parts: Iterable[list[Item]], example: Callable, refused: epath.Path
):
    """A beam.PTransform: nothing -> (key, example) of each file of a split that can be used.

    The list of files goes through a file of the work folder: the millions of a split do not fit into a job's
    description. Workers must see the source and the work folder, and keep there what they have read.

    Args:
        split: its name.
        reader: how to read.
        parts: the chunks.
        example: (item, media) -> record.
        refused: where the files that cannot be used, and their reasons, are written to.
    """
    import apache_beam as beam  # slow to import, and only installed where it is used

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
            | "Row" >> beam.Map(lambda pair: (split, pair[0].path, pair[1], pair[0].label))
            | "Rows" >> beam.combiners.ToList()
            | "Write" >> beam.Map(lambda rows: refused.write_text(json.dumps(sorted(rows))))
        )
        return (
            outcomes
            | "Usable" >> beam.Filter(lambda pair: isinstance(pair[1], Media))
            | "Example" >> beam.MapTuple(lambda item, media: (escaping.escape(item.path), example(item, media)))
        )

    return beam.ptransform_fn(expand)()


def read_refused(path: epath.Path) -> list[tuple[str, ...]]:
    """The rows that the pipeline wrote."""
    return [tuple(row) for row in json.loads(path.read_text())]


def _outcomes(reader: worker_pool.Reader, line: str) -> list[tuple[Item, worker_pool.Outcome]]:
    items = worker_pool.from_json(line)
    return list(zip(items, reader.outcomes(items), strict=True))
