"""What a frozen backbone and fine-tuning bring on few clips: a table with errors over seeds.

    python -m tests.benchmarks.probes --source=UCF101 --weights=dinov2_vits14_backbone_f16.npz --workdir=/tmp/probes

UCF101 is a folder of clips v_CLASS_gGG_cCC of five classes in 25 groups, WEIGHTS a ViT-S/14. Each seed divides the
groups anew: 14 to train on, 4 to choose settings on, 7 to report. The rows, all on two frames of 112 px:

- nearest, knn: the library's evaluator on CLS features; knn with the 20 neighbours of config.knn
- logistic: scikit-learn's logistic regression on CLS features; the penalty is chosen
- linear, attentive_1, attentive_4: the heads of configs/probe.py with its optimizer, on features without augmentation;
  the learning rate is chosen. The number is that of an attentive head's blocks
- head, fine_tuned: configs/finetune_head.py, and from its run configs/finetune.py, with augmentation; nothing is chosen

Features come from `python -m cover_jax.features`. Run the same command again to continue. What has ended is not
repeated, so more seeds or rows may be added.
"""

import argparse
import sys
from collections.abc import Sequence

from data_pipelines import command_line

ROWS = ("nearest", "knn", "logistic", "linear", "attentive_1", "attentive_4", "head", "fine_tuned")


def _parser() -> command_line.Parser:
    parser = command_line.Parser("tests.benchmarks.probes", __doc__)
    parser.add_argument("--source", required=True, metavar="DIR", help="the clips, one folder per class")
    parser.add_argument("--weights", required=True, metavar="FILE", help="published weights of a ViT-S/14")
    parser.add_shared("workdir", required=True, help="folder for data, runs, features and results; local")
    parser.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 of the rows that take seconds (10)"
    )
    parser.add_argument(
        "--costly_seeds", type=int, default=3, metavar="N", help="of attentive_4, head and fine_tuned (3)"
    )
    parser.add_argument(
        "--rows", type=command_line.split_list, default=list(ROWS), metavar="ROW,...",
        help="only these (all)",
    )  # fmt: skip
    return parser


@command_line.command()
def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    args: argparse.Namespace = _parser().parse_args(arguments)
    if wrong := set(args.rows) - set(ROWS):
        raise command_line.UsageError(f"--rows={min(wrong)}: must be of {', '.join(ROWS)}")
    from cover_jax.versions import versions  # these load slowly: check the arguments first
    from tests.benchmarks.probes import rows

    print(rows.report(rows.results_of(args)))
    print(", ".join(f"{name} {version}" for name, version in versions().items()))


if __name__ == "__main__":
    main(sys.argv[1:])
