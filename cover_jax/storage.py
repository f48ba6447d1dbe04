"""Storage that fails for a while: what is written for people only must not end a run."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Inside, errors of a disk or a bucket are said and passed over. `what` is lost then."""
    try:
        yield
    except Exception as error:
        # TensorFlow, by which TensorBoard's files are written, has errors of its own.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("tensorflow"):
            raise
        message = " ".join(str(error).split())[:300]
        print(f"WARNING: {what}: not written: {type(error).__name__}: {message}", file=sys.stderr, flush=True)
