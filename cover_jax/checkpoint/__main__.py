"""Compares every leaf of every checkpoint of a run with its fingerprint.

python -m cover_jax.checkpoint verify WORKDIR
"""

import sys

from etils import epath

from cover_jax import errors
from cover_jax.checkpoint import integrity, layout, restore


def verify(workdir: str) -> bool:
    """Prints a line for each checkpoint of a run; whether all are sound."""
    sound = True
    for step in layout.saved_steps(workdir):
        folder = layout.checkpoints_folder(workdir) / str(step)
        problems = restore.damage(folder)
        sound &= not problems
        print(f"{folder}: {'; '.join(problems) or _soundness(folder)}", flush=True)
    return sound


def _soundness(folder: epath.Path) -> str:
    meta, _ = integrity.read_meta(folder)
    if not integrity.is_sealed(meta):
        return "readable; saved by an earlier version, without fingerprints"
    return f"sound, all {len(meta['fingerprints'])} leaves"


def main(argv: list[str]) -> None:
    if len(argv) != 2 or argv[0] != "verify":
        sys.exit("usage: python -m cover_jax.checkpoint verify WORKDIR")
    if not layout.saved_steps(argv[1]):
        sys.exit(f"error: {layout.checkpoints_folder(argv[1])}: no checkpoints")
    if not verify(argv[1]):
        sys.exit(errors.DAMAGED)


if __name__ == "__main__":
    main(sys.argv[1:])
