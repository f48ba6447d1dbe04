"""Handles SIGTERM, SIGHUP and Ctrl-C: training continues to a step on which all hosts agree, and saves it.

JAX has such an agreement, `multihost_utils.reached_preemption_sync_point`. It is not used, because it compares the time
of the signal with the clock of each host: where the clock of the host that was told to end is 15 minutes ahead of
another's (`kProtocolDuration` in XLA's preemption_sync_manager.cc), the others wait, and the run hangs.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from cover_jax.parallel import hosts, jax_private

POLL_S = 0.5  # between two looks for the word of another host: the first host answers two per second and host
AGREE_POLL_S = 0.05  # the same, while the hosts agree

_WORD, _ASKED, _LEAVE_AT = "cover/end/word", "cover/end/asked", "cover/end/leave_at"  # keys

_Answer = TypeVar("_Answer")


class PreemptionNotice:
    """Records whether this process was told to save and end."""

    def __init__(self):
        self._received, self._interrupted = threading.Event(), threading.Event()
        self._agreement: Agreement | None = None

    def receive(self, number: int, _: object) -> None:
        """The handler of SIGTERM and SIGHUP. With it the signal alone does not end this process."""
        self._received.set()

    def interrupt(self) -> bool:
        """Ctrl-C. Returns whether it came for the first time, so that the step is saved."""
        first = not self._interrupted.is_set()
        self._interrupted.set()
        self._received.set()
        return first

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Inside this context, what one host was told counts for all hosts. They must be connected."""
        agreement = Agreement(self._received)
        thread = threading.Thread(target=agreement.wait, name="agreement", daemon=True)
        thread.start()
        self._agreement = agreement
        try:
            yield
        finally:
            self._agreement = None
            agreement.stop()
            thread.join()

    def is_interrupt(self) -> bool:
        """Whether Ctrl-C on any host is why the run ends. All hosts must call it together."""
        return any(hosts.exchange("interrupted" if self._interrupted.is_set() else ""))

    def is_reached(self) -> bool:
        """Whether to save this step and leave. All hosts must call it exactly once after every step."""
        return self._received.is_set() if self._agreement is None else self._agreement.is_reached()


class Agreement:
    """All hosts leave after the same step, soon after one of them was told to.

    Hosts are not at the same step at the same time, and a host that waits for another one inside of a step can do
    nothing else. So a thread of each host takes part in its place. Once a host is told to end, the thread of each host
    stops it where it asks whether to leave, and says how often it has asked. All leave when they ask once more than the
    one that has asked most. No clock takes part.

    Args:
        told: set when this host is told to end.
    """

    def __init__(self, told: threading.Event):
        self._told, self._stopped = told, threading.Event()
        self._lock, self._asked, self._leave_at = threading.Lock(), 0, 0

    def is_reached(self) -> bool:
        """Whether to leave. Waits while the hosts agree. A host that goes on all the same is told again."""
        with self._lock:
            self._asked += 1
            return 0 < self._leave_at <= self._asked

    def stop(self) -> None:
        """Ends `wait`: the run is over."""
        self._stopped.set()

    def wait(self) -> None:
        """Waits until a host is told to end, and agrees with all others. In a thread of its own."""
        index, count = jax_private.this_process()
        if self._answer(lambda: "end" if self._told.is_set() else hosts.posted(_WORD), POLL_S) is None:
            return
        self._post(_WORD, "end")
        with self._lock:
            self._post(f"{_ASKED}/{index}", str(self._asked))
            if index == 0:
                asked = self._answer(lambda: self._all_asked(count), AGREE_POLL_S)
                if asked is not None:
                    self._post(_LEAVE_AT, str(1 + max(asked)))
            self._leave_at = int(self._answer(lambda: hosts.posted(_LEAVE_AT), AGREE_POLL_S) or 0)

    def _answer(self, look: Callable[[], _Answer | None], poll_s: float) -> _Answer | None:
        """What `look` returns as soon as it is not None; None if the run is over before.

        An error of JAX's service may be one of a single call: it is asked again. If a host is lost, the peer monitor
        ends all.
        """
        while not self._stopped.is_set():
            with contextlib.suppress(hosts.LostPeerError):
                if (answer := look()) is not None:
                    return answer
            self._stopped.wait(poll_s)
        return None

    def _post(self, key: str, text: str) -> None:
        def post() -> bool:
            hosts.post(key, text)
            return True

        self._answer(post, AGREE_POLL_S)

    @staticmethod
    def _all_asked(count: int) -> list[int] | None:
        """How often each host has asked; None until all have said so."""
        asked = [int(text) for text in hosts.posted_below(_ASKED)]
        return asked if len(asked) == count else None
