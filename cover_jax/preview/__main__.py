"""Shows training clips of a config as the model will see them, on one HTML page.

    python -m cover_jax.preview --config=configs/finetune.py:video_folder/mine --out=/tmp/preview.html

Each clip stands there twice: as it is stored, and as it enters the model, with the crop, the mirroring and the colours
of one random draw. The code is that of training. Mixup and cutmix are left out, because they show two clips at once;
the page says where training will use them. No model is built, so it takes seconds.
"""

import sys

from etils import epath

from cover_jax.config import checks
from cover_jax.config import flags as cover_flags
from cover_jax.errors import ConfigError
from data_pipelines import catalog, command_line, files
from data_pipelines.command_line import UsageError


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.preview", __doc__)
    cover_flags.add_config(parser)
    parser.add_shared("data_dir", help="folder of the prepared datasets, in place of config.data_dir")
    parser.add_shared(
        "out", default="preview.html", metavar="FILE", help="page to write, local or gs:// (preview.html)"
    )
    parser.add_argument("--clips", type=int, default=8, metavar="N", help="training clips shown of each dataset (8)")
    return parser


@command_line.command(ConfigError, catalog.DatasetNotPreparedError)
def main(arguments: list[str]) -> None:
    """The command."""
    args = cover_flags.parse(_parser(), arguments)
    if args.clips < 1:
        raise UsageError(f"--clips={args.clips}: must be positive")
    config = args.config
    config.data_dir = args.data_dir or config.data_dir
    checks.validate(config)
    catalog.require_prepared((dataset.builder for dataset in config.datasets.values()), config.data_dir)
    from cover_jax.preview import page  # TensorFlow loads slowly: not before the arguments are known to be right

    out = epath.Path(args.out)
    made = page.render(config, args.clips)
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(out, made.encode())
    print(out)


if __name__ == "__main__":
    main(sys.argv[1:])
