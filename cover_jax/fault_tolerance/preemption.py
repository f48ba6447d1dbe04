"""Handles SIGTERM, SIGHUP and Ctrl-C: training continues to a step on which all hosts agree, and saves it.

JAX has such an agreement, `multihost_utils.reached_preemption_sync_point`. It is not used, because it compares the time
of the signal with the clock of each host: where the clock of the host that was told to end is 15 minutes ahead of
another's, the others wait, and the run hangs.
"""

import contextlib
import threading
from collections.abc import Iterator

from cover_jax.parallel import hosts, jax_private

POLL_S = 0.5  # between two looks for the word of another host: the first host answers two per second and host
ANSWER_POLL_S = 0.01  # the same, while the hosts agree

_WORD, _ASKED = "cover/end/word", "cover/end/asked"  # keys


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
    stops it where it asks whether to leave, and tells the others how often it has asked. All leave when they ask once
    more than the one that has asked most. No clock takes part.

    Args:
        told: set when this host is told to end.
    """

    def __init__(self, told: threading.Event):
        self._told, self._stopped = told, threading.Event()
        self._lock, self._asked, self._leave_at = threading.Lock(), 0, 0

    def is_reached(self) -> bool:
        """Whether to leave. Waits while the hosts agree."""
        with self._lock:
            self._asked += 1
            return self._asked == self._leave_at

    def stop(self) -> None:
        """Ends `wait`: the run is over."""
        self._stopped.set()

    def wait(self) -> None:
        """Waits until a host is told to end, and agrees with all others. In a thread of its own.

        A host that is lost ends it: the peer monitor ends all.
        """
        with contextlib.suppress(hosts.LostPeerError):
            while not self._told.is_set() and hosts.posted(_WORD) is None:
                if self._stopped.wait(POLL_S):
                    return
            hosts.post(_WORD, "end")
            index, count = jax_private.this_process()
            with self._lock:
                hosts.post(f"{_ASKED}/{index}", str(self._asked))
                self._leave_at = 1 + max(self._answer(host) for host in range(count))

    def _answer(self, host: int) -> int:
        """How often a host has asked; 0 if the run is over before it says so."""
        while (asked := hosts.posted(f"{_ASKED}/{host}")) is None:
            if self._stopped.wait(ANSWER_POLL_S):
                return 0
        return int(asked)
