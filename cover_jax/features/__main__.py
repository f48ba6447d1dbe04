"""Writes features of clips and images to a file: one row each, with path, label and time.

    python -m cover_jax.features --workdir=/tmp/mine --out=features.npz clip.mp4 folder/ *.webm
    python -m cover_jax.features --workdir=/tmp/mine --out=train.parquet --dataset=mine --split=train --data_dir=/data

The model is a run, or a published model, also one without a classifier. A row has the path, the label where it is
known, the seconds of the clip that were seen, and the features: CLS, the mean of all patch tokens (--pool=patches), or
these tokens (--pool=tokens, .npz only). Several views of a clip are averaged.

Run the same command again to continue after it was killed: finished parts stand in OUT.parts and are not computed
again. On several hosts, start it on each with --num_processes and --process_id, or --distributed, and with an OUT that
all see; each host computes its share, and the host that is last writes OUT. Files that cannot be read are reported and
left out; the exit code is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from cover_jax.predict import flags as predict_flags
from cover_jax.predict.__main__ import find_files
from cover_jax.published import flags as source_flags
from data_pipelines import command_line
from data_pipelines.command_line import UsageError

FORMATS = ("npz", "parquet")
# This project's choice: until the hosts have found each other; and until a host that is done leaves the others alone.
_CONNECT_S, _SHARE_S = 300, 7 * 24 * 3600
POOLS = ("cls", "patches", "tokens")  # as cover_jax/evaluation/features.py has them


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.features", __doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a video, an image or a folder, local or gs://")
    source_flags.add_source(parser)
    parser.add_shared("out", required=True, metavar="FILE", help="file to write, local or gs://")
    parser.add_shared("format", choices=FORMATS, default="", help="what is written (as the end of --out says)")
    parser.add_shared("head", default="", help="read the files as this head's dataset is evaluated (if they differ)")
    parser.add_argument(
        "--pool", choices=POOLS, default="cls", help="CLS, the mean of all patch tokens, or these tokens (cls)"
    )
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="clips per batch (8)")
    data = parser.add_argument_group("prepared data, in place of files")
    data.add_argument("--dataset", default="", metavar="NAME", help="a dataset of the run, or its BUILDER/NAME")
    data.add_argument("--split", default="validation", metavar="SPLIT", help="which split of it (validation)")
    parser.add_shared("data_dir", help="folder of the prepared datasets, in place of the run's")
    predict_flags.add_storage(parser)
    hosts = parser.add_argument_group("several hosts")
    hosts.add_argument("--distributed", action=command_line.Switch, help="JAX knows the hosts (TPU, SLURM)")
    hosts.add_argument("--num_processes", type=int, default=1, metavar="N", help="number of processes (1)")
    hosts.add_argument("--process_id", type=int, default=0, metavar="I", help="index of this process, from 0 (0)")
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    args: argparse.Namespace = _parser().parse_args(arguments)
    args.format = args.format or args.out.rpartition(".")[2]
    if args.format not in FORMATS:
        raise UsageError(f"--out={args.out}: must end in .npz or .parquet, or --format must be given")
    if args.pool == "tokens" and args.format == "parquet":
        raise UsageError("--pool=tokens: a table has one row of numbers per clip; write .npz")
    if bool(args.paths) == bool(args.dataset):
        raise UsageError("give files and folders, or --dataset; one of them")
    predict_flags.positive("batch_size", args.batch_size)
    if not 0 <= args.process_id < args.num_processes:
        raise UsageError(f"--process_id={args.process_id}: must be from 0 to --num_processes - 1")
    if args.distributed and args.num_processes > 1:
        raise UsageError("--distributed: finds the processes itself, without --num_processes and --process_id")
    return args


@command_line.command(ValueError)
def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    args = _parse(arguments)
    paths = find_files(args.paths)
    if args.paths and not paths:
        raise UsageError(f"no files in {', '.join(args.paths)}")
    import jax  # it loads slowly: check the arguments first

    from cover_jax.features import clips, extract, parts
    from cover_jax.parallel import hosts
    from cover_jax.published import load

    if args.distributed:
        hosts.connect(None, timeout_s=_CONNECT_S, end_timeout_s=_SHARE_S)
        args.num_processes, args.process_id = jax.process_count(), jax.process_index()
    options: dict[str, Any] = source_flags.source_options(args)
    trained = load.load(args.workdir, args.step, backbone_only=True, **options)
    print("\n  ".join(trained.notes) or f"step {trained.step} of {args.workdir}", file=sys.stderr)
    if args.head and args.head not in trained.class_names:
        raise UsageError(f"--head={args.head}: must be one of {', '.join(trained.class_names) or 'none'}")
    dataset, view = clips.find_view(trained, args.head or args.dataset, predict_flags.storage_options(args))
    if args.dataset:
        source: clips.Source = clips.PreparedClips(trained, args.dataset, args.split, args.data_dir, view)
    else:
        source = clips.Files(paths, view)
    about = extract.about(trained, args.workdir, args.pool, view, source)
    part_size = int(args.batch_size * parts.BATCHES_PER_PART)
    job = parts.Job(args.out, args.format, about, source.contents(), len(source), part_size)
    if job.is_done():
        print(f"{args.out}: is complete already", file=sys.stderr)
    elif missing := job.missing(args.process_id, args.num_processes):
        run = extract.Extractor(trained, dataset, view, args.pool, args.batch_size)
        extract.write_parts(run, source, job, missing)
    problems = job.finish()
    if problems:
        sys.exit(f"{problems} of {len(source)} files could not be read")


if __name__ == "__main__":
    main(sys.argv[1:])
