"""The check of workers' results: tasks are pure functions, so that two workers that compute one must agree.

    a key's first result              is computed again by another key, before any of its results count
    a share of the others             likewise, chosen at random
    a copy of a late task             is compared where both come back
    two that differ                   this process computes the task, and whoever differs from it is distrusted for good

A round's results are handed out once all of these are decided, so that what a distrusted key computed in it is computed
again. What it computed in earlier rounds, and nobody computed again, has gone into the run by then: `TaintedError` says
so, and `kip.server.service.run` goes back to the last checkpoint that holds none of it.

A key is one witness, whatever it connects as. Another key checks, of the same hardware where there is one; where there
is none, or it keeps the check waiting, this process does, as far as the share of its time allows.

Results of one kind of hardware are compared bit by bit. Between kinds, they may lie apart by `TOLERANCE`; such a check
proves no bits, and what it has passed counts as unchecked. Where this process has other hardware than the two that
differ, and finds both within the tolerance, a third key of theirs decides.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np

from kip.errors import KipError
from kip.server.member import Job, Member

TOLERANCE = 1e-3
"""The largest distance of results of different hardware, as a fraction of the largest entry."""


class TaintedError(KipError, RuntimeError):
    """A worker computed wrongly, and the run is built on results of its key that nobody computed again.

    Attributes:
        base: the step of the newest checkpoint that holds none of them; -1 where none does.
    """

    def __init__(self, problem: str, *, base: int):
        since = "all checkpoints" if base < 0 else f"the checkpoints after step {base}"
        super().__init__(problem, remedy=f"Remove {since}; the same command then goes on.")
        self.base = base


class Opinion(NamedTuple):
    """A result of a task, and whose it is: None for this process."""

    member: Member | None
    result: np.ndarray


class Verdict(NamedTuple):
    """A verdict on a task: the places of the opinions that are right and wrong, and whether the bits are proved."""

    right: tuple[int, ...]
    wrong: tuple[int, ...] = ()
    bits: bool = True


class Work:
    """A job of the current round: its attempts, the result that counts, and the check of it."""

    def __init__(self, place: int, job: Job):
        self.place, self.job = place, job
        self.running: list[Member] = []
        """The workers that compute it now, apart from those that are late."""
        self.overdue: list[Member] = []
        """The workers that compute it and are late."""
        self.lateness = 0
        """The number of late attempts."""
        self.first_sent = 0.0
        self.failures = 0
        self.failed: dict[str, tuple[str, str]] = {}
        """The keys that failed at it: the error's code, and the worker's words."""
        self.own_failure: Exception | None = None
        self.tried: set[str] = set()
        """The keys that it was given to."""
        self.opinions: list[Opinion] = []
        """The first is the one that counts."""
        self.proved = False
        """True if two computed it to the same bits."""
        self.waits_since = 0.0
        """Since when its check waits for somebody."""
        self.is_here = False
        """True if this process computes it, or is to."""

    @property
    def done(self) -> bool:
        """True if there is a result."""
        return bool(self.opinions)

    def undo(self) -> None:
        """Forget the result and all opinions of it."""
        self.opinions, self.proved = [], False
        self.running, self.tried, self.failed = [], set(), {}


def agree(a: np.ndarray, b: np.ndarray, *, same_hardware: bool) -> bool:
    """Say whether two results of a task agree: bit for bit on hardware of one kind, within `TOLERANCE` otherwise."""
    if same_hardware:
        return a.tobytes() == b.tobytes()
    scale = float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0))
    return bool(np.allclose(a, b, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True))


def judge(
    opinions: list[Opinion], hardware: str, *, own_fails: bool = False, others: bool = False
) -> Verdict | Literal["own", "other", "undecided"]:
    """Say who of those that computed a task is right, or whose opinion is needed to say so.

    Two keys that agree are right. Where two differ, this process computes the task: who agrees with it is right, and it
    is believed against all others where it comes to the same result twice. Where its hardware is another one and the
    tolerance cannot tell the two apart, a third key decides.

    Args:
        opinions: results and whose they are; no key has two.
        hardware: the hardware of this process.
        own_fails: whether this process cannot compute the task.
        others: whether there is another key to ask.

    Returns:
        A verdict; or `own` or `other`, whose opinion is needed; or `undecided`, where nobody is left to ask.
    """

    def same(a: Opinion, b: Opinion) -> bool:
        kinds = {hardware if opinion.member is None else opinion.member.hardware for opinion in (a, b)}
        return len(kinds) == 1

    def agreeing(place: int) -> tuple[int, ...]:
        return tuple(
            other
            for other, opinion in enumerate(opinions)
            if agree(opinions[place].result, opinion.result, same_hardware=same(opinions[place], opinion))
        )

    everyone = tuple(range(len(opinions)))
    own = [place for place in everyone if opinions[place].member is None]
    if len(opinions) == 1:
        return "other" if others else "own"
    if len(opinions) == 2:
        if agreeing(0) == everyone:
            return Verdict(everyone, bits=same(*opinions))
        if not own_fails:
            return "own"
    confirmed = next((place for place in own if len(agreeing(place)) > 1), None)
    if own and confirmed is None:
        return "own" if len(own) < 3 and not own_fails else "undecided"
    candidates = everyone if confirmed is None else agreeing(confirmed)
    theirs = [place for place in candidates if opinions[place].member is not None]
    classes = {tuple(other for other in agreeing(place) if other in theirs) for place in theirs}
    if len(classes) > 1:  # within the tolerance of this process, or without it, they differ
        largest = max(classes, key=len)
        if len(largest) < 2 or sum(len(each) == len(largest) for each in classes) > 1:
            return "other" if others else "undecided"
        candidates = (*largest, *(place for place in own if place in candidates))
    bits = any(same(opinions[a], opinions[b]) for a in candidates for b in candidates if a < b)
    return Verdict(tuple(sorted(candidates)), tuple(place for place in everyone if place not in candidates), bits)


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
        self.own: list[Work] = []
        """Tasks that this process has to compute."""
        self.made = 0
        self._thread = ThreadPoolExecutor(1, "kip-check")
        self._busy = False
        self._own_seconds, self._began = 0.0, time.monotonic()

    def clear(self) -> None:
        """Begin a round."""
        self.open.clear()
        self.waiting.clear()
        self.own.clear()

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def wants(self, work: Work, member: Member, members: Collection[Member]) -> bool:
        """Say whether a result of a worker, that has just come, is to be computed again."""
        if self._share <= 0.0:
            return False
        first = not member.witness.proven and not any(is_of(work, member.key) for work in self.open)
        if not first and self._random.random() >= self._share:
            return False
        others = any(other.state == "live" and other.key != member.key for other in members)
        return others or self._own_is_worth_it(first and member.hardware == self._hardware)

    def _own_is_worth_it(self, needed: bool) -> bool:
        return needed or self._own_seconds <= self._share * (time.monotonic() - self._began)

    def add(self, work: Work) -> None:
        """Open the check of a result, or ask another worker for one more opinion."""
        self.open.add(work)
        if work not in self.waiting:
            work.waits_since = time.monotonic()
            self.waiting.append(work)

    def ask_own(self, work: Work) -> None:
        """Have this process compute a task."""
        if not work.is_here:
            work.is_here = True
            self.own.append(work)

    def drop(self, work: Work) -> None:
        """Close a check."""
        self.open.discard(work)
        if work in self.waiting:
            self.waiting.remove(work)
        if work in self.own:
            self.own.remove(work)
            work.is_here = False

    def next_for(self, member: Member, members: Collection[Member]) -> Work | None:
        """Return a result for this worker to check, if there is one that it is fit for.

        Args:
            member: the worker.
            members: all that can compute.
        """
        for work in self.waiting:
            if member.key not in work.tried and self._is_fit(work, member, members):
                self.waiting.remove(work)
                return work
        return None

    def _is_fit(self, work: Work, member: Member, members: Collection[Member]) -> bool:
        asked = work.opinions[0].member
        wanted = self._hardware if asked is None else asked.hardware
        return member.hardware == wanted or not any(
            other.hardware == wanted and other.key not in work.tried for other in members
        )

    def next_for_this_process(self, is_ours: Callable[[Work], bool]) -> Work | None:
        """Return a task for this process, if it is free: one that it has to compute, or a check that falls to it.

        Args:
            is_ours: says whether a check that waits for a worker falls to this process.
        """
        if self._busy:
            return None
        if self.own:
            return self.own.pop(0)
        for work in self.waiting:
            if is_ours(work):
                self.waiting.remove(work)
                work.is_here = True
                return work
        return None

    def compute(self, work: Work, then: Callable[[Future[np.ndarray]], None]) -> None:
        """Compute a task in a thread of this process."""
        self._busy = True
        began = time.monotonic()

        def ended(future: Future[np.ndarray]) -> None:
            self._own_seconds += time.monotonic() - began
            self._busy = False
            then(future)

        self._thread.submit(work.job.compute).add_done_callback(ended)


def is_of(work: Work, key: str) -> bool:
    """Return whether the result that counts is of this key."""
    member = work.opinions[0].member
    return member is not None and member.key == key
