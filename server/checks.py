"""Whether results are believed: tasks are pure functions, so that two workers that compute one must agree.

    a worker's first result           is computed again elsewhere, before any of its results count
    a share of the others             likewise, chosen at random
    a copy of a straggler             is compared where both come back
    two that differ                   a third computes the task; the one that differs from it is distrusted for good

A round's results are handed out once all of these are decided, so that what a distrusted worker computed in it is
computed again. What it computed in earlier rounds, since a check last found it right, has gone into the run by then:
`TaintedError` says so, and `kip.server.service.run` goes back to a checkpoint from before.

Elsewhere is another worker, of the same hardware where there is one; else this process, if its hardware is the same, or
if the share of its time allows it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from kip.errors import KipError
from kip.server.member import Job, Member

TOLERANCE = 1e-3
"""How far apart results of different hardware may lie, as a fraction of the largest entry."""


class TaintedError(KipError, RuntimeError):
    """A worker computed wrongly, and earlier rounds hold results of it that no check has found right.

    Attributes:
        since: monotonic time of the last task that a check found right; whatever is older can be kept.
    """

    def __init__(self, problem: str, *, since: float):
        super().__init__(problem, remedy="The same command resumes from a checkpoint; remove the newest ones before.")
        self.since = since


class Work:
    """A job of the current round: its attempts, the result that counts, and the check of it."""

    def __init__(self, place: int, job: Job):
        self.place, self.job = place, job
        self.running: list[Member] = []
        self.first_sent = 0.0
        self.failures = 0
        self.non_finite: list[str] = []
        """The names of the workers whose results held NaN or infinity."""
        self.tried: set[str] = set()
        self.opinions: list[tuple[Member | None, np.ndarray]] = []
        """Results and whose they are, None for this process; the first is the one that counts."""
        self.sequence = 0
        """Which of its worker's tasks this was."""
        self.sent_at = 0.0

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return bool(self.opinions)

    def undo(self) -> None:
        """Forget the result and all opinions of it."""
        self.opinions = []


def agree(a: np.ndarray, b: np.ndarray, *, same_hardware: bool) -> bool:
    """Say whether two results of a task agree: bit for bit on hardware of one kind, within `TOLERANCE` otherwise."""
    if same_hardware:
        return a.tobytes() == b.tobytes()
    scale = float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0))
    return bool(np.allclose(a, b, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True))


class Checks:
    """The checks of a round that are open, and the choice of what is checked.

    Args:
        share: the share of tasks that are computed twice.
        hardware: the hardware of this process.
    """

    def __init__(self, share: float, hardware: str):
        self._share, self._hardware = share, hardware
        self._random = random.SystemRandom()  # a worker that means harm cannot know which tasks are checked
        self.open: set[Work] = set()
        self.waiting: list[Work] = []
        self.made = 0
        self._own = ThreadPoolExecutor(1, "kip-check")
        self._own_busy = False
        self._own_seconds, self._began = 0.0, time.monotonic()

    def clear(self) -> None:
        """Begin a round."""
        self.open.clear()
        self.waiting.clear()

    def close(self) -> None:
        """Let go of the thread."""
        self._own.shutdown(wait=False, cancel_futures=True)

    def wants(self, work: Work, member: Member, members: Collection[Member]) -> bool:
        """Say whether a result that has just come is to be computed again."""
        if self._share <= 0.0:
            return False
        first = member.proven < 0 and not any(work.opinions[0][0] is member for work in self.open)
        if not first and self._random.random() >= self._share:
            return False
        others = any(other.state == "live" and other is not member for other in members)
        return others or self._own_is_worth_it(first and member.hardware == self._hardware)

    def _own_is_worth_it(self, needed: bool) -> bool:
        return needed or self._own_seconds <= self._share * (time.monotonic() - self._began)

    def add(self, work: Work) -> None:
        """Open the check of a result, or ask for one more opinion."""
        self.open.add(work)
        if work not in self.waiting:
            self.waiting.append(work)

    def drop(self, work: Work) -> None:
        """Close a check."""
        self.open.discard(work)
        if work in self.waiting:
            self.waiting.remove(work)

    def next_for(self, member: Member, members: Collection[Member]) -> Work | None:
        """Return a result for this worker to check, if there is one that it is fit for."""
        for work in self.waiting:
            if self._fit(work, member, members):
                self.waiting.remove(work)
                return work
        return None

    def _fit(self, work: Work, member: Member, members: Collection[Member]) -> bool:
        if member.name in work.tried:
            return False
        asked = work.opinions[0][0]
        same = [
            other
            for other in members
            if other.state == "live" and other.name not in work.tried and asked and other.hardware == asked.hardware
        ]
        return not same or member in same

    def next_for_this_process(self, members: Collection[Member]) -> Work | None:
        """Return a result that no worker can check, where this process is free to."""
        if self._own_busy:
            return None
        for work in self.waiting:
            if not any(member.state == "live" and member.name not in work.tried for member in members):
                self.waiting.remove(work)
                return work
        return None

    def compute(self, work: Work, then: Callable[[Future[np.ndarray]], None]) -> None:
        """Compute a task in a thread of this process."""
        self._own_busy = True
        began = time.monotonic()

        def ended(future: Future[np.ndarray]) -> None:
            self._own_seconds += time.monotonic() - began
            self._own_busy = False
            then(future)

        self._own.submit(work.job.compute).add_done_callback(ended)

    def hardware_of(self, member: Member | None) -> str:
        """Return what a result was computed on."""
        return self._hardware if member is None else member.hardware

    def same(self, work: Work, first: int, second: int) -> bool:
        """Say whether two opinions agree."""
        (first_member, a), (second_member, b) = work.opinions[first], work.opinions[second]
        return agree(a, b, same_hardware=self.hardware_of(first_member) == self.hardware_of(second_member))
