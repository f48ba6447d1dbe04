"""Settings of the fuzzing tests: the same examples every time, and stack traces if something hangs.

They need hypothesis (pip install -e '.[test]').
"""

import contextlib
import faulthandler
import pathlib
import tempfile

import hypothesis
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.internal.conjecture import providers

HANG_S = 120  # an example takes milliseconds

set_hypothesis_home_dir(pathlib.Path(tempfile.gettempdir()) / "hypothesis")  # not in the clone

# Hypothesis sometimes uses constants of this project's imported modules as examples. Then examples would depend on
# earlier tests and on every edited number. There is no setting to turn this off.
providers._get_local_constants = lambda: providers._local_constants


def seeded(max_examples: int):
    """Settings: `max_examples` examples, always the same ones, no database of examples, no deadline of hypothesis."""
    checks = hypothesis.HealthCheck
    return hypothesis.settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[checks.function_scoped_fixture, checks.too_slow, checks.data_too_large],
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )


@contextlib.contextmanager
def no_hang():
    """Ends the process and prints the stacks of all threads if the context takes longer than HANG_S."""
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@st.composite
def damage(draw, size: int):
    """Draws a function that damages `size` bytes: flipped bits, a cut, noise, zeros or a repeated part."""
    at = draw(st.integers(0, max(0, size - 1)))
    kind = draw(st.sampled_from(["flip", "flips", "cut", "noise", "zeros", "double", "header"]))
    if kind == "flip":
        return _edits([(at, 1 << draw(st.integers(0, 7)))])
    if kind == "flips":
        places = st.tuples(st.integers(0, max(0, size - 1)), st.integers(1, 255))
        return _edits(draw(st.lists(places, min_size=2, max_size=20)))
    if kind == "header":
        return _edits(draw(st.lists(st.tuples(st.integers(0, min(size, 200) - 1), st.integers(1, 255)), max_size=4)))
    if kind == "cut":
        return lambda data: data[:at]
    if kind == "double":
        return lambda data: data[:at] + data[at // 2 :]
    length = draw(st.integers(1, 64))
    patch = draw(st.binary(min_size=length, max_size=length)) if kind == "noise" else bytes(length)
    return lambda data: (data[:at] + patch + data[at + length :])[: len(data)]


def _edits(edits):
    def apply(data: bytes) -> bytes:
        changed = bytearray(data)
        for at, mask in edits:
            changed[at] ^= mask
        return bytes(changed)

    return apply
