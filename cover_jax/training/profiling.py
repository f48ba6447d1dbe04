"""Profiling on request: a trace of some steps, and the compiled program with its memory use."""

import contextlib
import json
from collections.abc import Iterator

import jax
from etils import epath


class Profiler:
    """Traces a range of steps on every host, for TensorBoard's profile page and for Perfetto.

    Args:
        steps: the first step of the range and the step after its last. If they are equal, nothing is traced.
        folder: where `plugins/profile` is written.
    """

    def __init__(self, steps: tuple[int, int], folder: epath.Path):
        self._first, self._end = steps
        self._folder = folder
        self._running = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Wraps all work of the loop in `step`. A run that starts inside the range traces the rest of it."""
        if self._first <= step < self._end and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if step >= self._end:  # only now is the last step of the range finished
            self.close()

    def close(self) -> None:
        """Ends the trace if one is active: the run may end inside the range."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def write_compiled(compiled: jax.stages.Compiled, folder: epath.Path, name: str) -> str:
    """Writes NAME.hlo.txt (the optimized program of one device) and NAME.memory.json into `folder`.

    Only the first host writes. Returns one line for the log.
    """
    memory = compiled.memory_analysis()
    needed = {kind: getattr(memory, f"{kind}_size_in_bytes") for kind in ("argument", "output", "alias", "temp")}
    # Donated arguments are also outputs: `alias` is the size that is counted twice.
    needed["total"] = needed["argument"] + needed["output"] - needed["alias"] + needed["temp"]
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.hlo.txt").write_text(compiled.as_text())
        (folder / f"{name}.memory.json").write_text(json.dumps({f"{k}_bytes": v for k, v in needed.items()}, indent=2))
    return (
        f"{name}: {needed['total'] / 2**30:.2f} GiB per device: {needed['argument'] / 2**30:.2f} for the state and the "
        f"batch, {needed['temp'] / 2**30:.2f} temporary; see {folder}/{name}.hlo.txt"
    )
