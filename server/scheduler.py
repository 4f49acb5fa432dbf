"""The scheduler: hands tasks to workers through links, and gives their results back in order, whoever dies.

It knows messages and futures and no transport. It has no thread of its own: it works while its results are consumed.
What can go wrong, and what is done:

| what | what is done |
|---|---|
| the link fails, or a new process knows nothing of the run | the task runs elsewhere; the worker is told all again |
| a worker's own target images are not the server's | they are sent to it |
| no answer by the deadline | the worker is `stalled`, its tasks run elsewhere; a late answer brings it back |
| a task takes long while others are idle | a copy of it runs elsewhere; the first answer counts |
| an answer that is damaged, or of a wrong shape or dtype | quarantine, and the task runs elsewhere |
| NaN or infinity | the same, unless a second attempt, elsewhere if possible, gives it too: then it is the result |
| finite numbers that are wrong | `kip.server.checks`: the worker is sent away, and its tasks are computed again |
| the kernel fails | once more elsewhere, then the run stops with the worker's words |
| a worker of another version | it is sent away; that ends a run only where no worker has begun |

Results are pure functions of their tasks, so that none of this changes a bit of them.
"""

from __future__ import annotations

import itertools
import logging
import queue
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

import numpy as np

from kip.errors import MessageError, WorkerError, WorkersLostError
from kip.server.checks import Checks, TaintedError, Work
from kip.server.member import Job, Link, Member, Session, Settings
from kip.workers.codec import Message, decode, encode
from kip.workers.worker import hardware

LOGGER = logging.getLogger(__name__)
AT_A_TIME = 32
"""Answers taken in before workers are given their next tasks."""
TICK = 0.25
"""Seconds between looks at the clock."""
GONE = ("distrusted", "dismissed")
"""States of workers that were sent away."""
SENT_AWAY = 100
"""Workers that were sent away that are remembered for the status."""


class _Sent(NamedTuple):
    """A message on its way."""

    member: Member
    kind: str
    work: Work | None
    held: frozenset[str]
    at: float


class Scheduler:
    """Runs jobs on whatever workers there are.

    Args:
        links: the first workers; others may `join` at any time, from any thread.
        session: what a worker is told before its first task.
        settings: patience and limits.
        on_tick: called now and then while jobs run, for a status file.
    """

    def __init__(
        self,
        links: Iterable[Link],
        session: Session,
        *,
        settings: Settings | None = None,
        on_tick: Callable[[], None] = lambda: None,
    ):
        self._session = session
        self._settings = settings or Settings()
        self._on_tick = on_tick
        self._events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._ids = itertools.count()
        self._sent: dict[int, _Sent] = {}
        self.members: dict[str, Member] = {}
        self._free: deque[Member] = deque()
        self._again: deque[Work] = deque()
        self._fresh: Iterator[Work] = iter(())
        self._unfinished: dict[int, Work] = {}
        self._durations: deque[float] = deque(maxlen=63)
        self._works: dict[int, Work] = {}
        """Those of this round that have a result, by place."""
        self.checks = Checks(self._settings.check_share, hardware())
        self.sent_away: dict[str, str] = {}
        """Workers that were sent away for good, and why."""
        self._begun = False
        self._refused_since: float | None = None
        self._last_refusal = ""
        self._alone_since: float | None = None
        self._ticked = self._next_look = 0.0
        self.done = self.left = self.retries = self.copies = 0
        for link in links:
            self._admit(link)

    def join(self, link: Link) -> None:
        """Add a worker, or replace the link of one that had this name; safe from any thread."""
        self._events.put((-1, link))

    def leave(self, name: str) -> None:
        """Take a worker out; what it was doing runs elsewhere. Safe from any thread."""
        self._events.put((-2, name))

    def run(self, jobs: Iterable[Job], count: int) -> Iterator[np.ndarray]:
        """Yield the results of jobs, in order, once all are there and the checks of some have come out.

        Args:
            jobs: taken as workers become free.
            count: how many there are.

        Raises:
            WorkerError: if a job fails wherever it runs, or no worker can begin.
            WorkersLostError: if no worker answers for longer than `Settings.patience`.
            TaintedError: if results of earlier rounds cannot be believed.
        """
        self._fresh = (Work(place, job) for place, job in enumerate(jobs))
        self._again.clear()
        self._unfinished, self._works = {}, {}
        self._durations.clear()
        self.checks.clear()
        self._alone_since = None
        self.left = count
        for member in self.members.values():
            member.tasks_before = member.tasks
            self._make_free(member)
        while len(self._works) < count or self.checks.open:
            self._dispatch()
            self._wait()
            self._look_at_the_clock()
        for place in range(count):
            yield self._works[place].opinions[0][1]

    @property
    def alone(self) -> bool:
        """Whether there is no worker that computes, or will again by itself."""
        return self._alone_since is not None

    def close(self) -> None:
        """Let go of all links."""
        self.checks.close()
        for member in self.members.values():
            if member.state not in GONE:
                member.link.close()

    # Handing out

    def _dispatch(self) -> None:
        """Give each free worker what it needs next: one message each in turn, so that all work before any gets two."""
        idle = []
        while self._free:
            member = self._free.popleft()
            member.waiting_for_slot = False
            if not self._usable(member):
                continue
            if not member.opened:
                self._send(member, "open", self._session.opening())
            elif member.epoch != self._session.epoch:
                if member.tasks_in_flight == 0:  # else it begins when it has answered what is left of the last round
                    message, held = self._session.beginning(member.held, member.holds_data)
                    self._send(member, "begin", message, held=held)
            else:
                work = self._next_work(member)
                if work is None:
                    idle.append(member)
                    if not self._again:  # nor is there anything for the others
                        break
                else:
                    self._hand(member, work)
                    self._make_free(member)
        for member in idle:
            self._make_free(member)
        own = self.checks.next_for_this_process(self.members.values())
        if own:
            self.checks.compute(own, lambda answer: self._events.put((-3, (own, answer))))

    def _hand(self, member: Member, work: Work) -> None:
        if not work.running or work.done:  # a check begins when it is handed out
            work.first_sent = time.monotonic()
        work.running.append(member)
        work.tried.add(member.name)
        if not work.done:
            self._unfinished[work.place] = work
        self._send(member, "task", encode(work.job.message()), work=work)

    def _next_work(self, member: Member) -> Work | None:
        check = self.checks.next_for(member, self.members.values()) if self.checks.waiting else None
        if check:
            return check
        for _ in range(len(self._again)):
            work = self._again.popleft()
            if work.done or work.running:
                continue
            if self._for_somebody_else(work, member):
                self._again.append(work)  # somebody else's turn
                continue
            return work
        return next(self._fresh, None) or self._straggler(member)

    def _for_somebody_else(self, work: Work, member: Member) -> bool:
        """Say whether a worker has failed at a task that another has not tried."""
        return bool(
            (work.failures or work.non_finite)
            and member.name in work.tried
            and any(other.state == "live" and name not in work.tried for name, other in self.members.items())
        )

    def _straggler(self, member: Member) -> Work | None:
        """A task to copy: the one that runs longest, if long enough."""
        now = time.monotonic()
        if member.tasks_in_flight or not self._unfinished or now < self._next_look:
            return None
        self._next_look = now + TICK / 5
        work = min(self._unfinished.values(), key=lambda work: work.first_sent)
        age = now - work.first_sent
        if age < self._long() or len(work.running) >= self._settings.copies:
            return None
        if member in work.running or member.name in work.non_finite:
            return None
        self.copies += 1
        LOGGER.info("task %d takes long (%.1f s): a copy goes to worker %s", work.place, age, member.name)
        return work

    def _long(self) -> float:
        """Return how many seconds are long for a task."""
        return max(self._settings.copy_after, 3 * statistics.median(self._durations) if self._durations else 0.0)

    def _send(
        self,
        member: Member,
        kind: str,
        payload: bytes,
        *,
        work: Work | None = None,
        held: frozenset[str] = frozenset(),
    ) -> None:
        number, now = next(self._ids), time.monotonic()
        self._sent[number] = _Sent(member, kind, work, held, now)
        member.bytes_sent += len(payload)
        if kind == "task":
            member.tasks_in_flight += 1
        else:
            member.control_in_flight = True
        try:
            answer = member.link.send(payload)
        except Exception as error:  # what a transport raises has no end
            answer = Future()
            answer.set_exception(error)
        answer.add_done_callback(lambda done: self._events.put((number, done)))

    def _usable(self, member: Member) -> bool:
        return (
            member.state == "live"
            and not member.control_in_flight
            and member.tasks_in_flight < self._settings.in_flight
            and self.members.get(member.name) is member
        )

    def _make_free(self, member: Member) -> None:
        if not member.waiting_for_slot and self._usable(member):
            member.waiting_for_slot = True
            self._free.append(member)

    # Taking in

    def _wait(self) -> None:
        """Wait for something to happen, then take in what has; not too much, for workers wait meanwhile."""
        try:
            self._take(*self._events.get(timeout=TICK))
            for _ in range(AT_A_TIME):
                self._take(*self._events.get_nowait())
        except queue.Empty:
            pass

    def _take(self, number: int, content: Any) -> None:
        if number == -1:
            return self._admit(content)
        if number == -2:
            return self._dismiss(content)
        if number == -3:
            return self._own_opinion(*content)
        sent = self._sent.pop(number, None)
        if sent is None:
            return None
        member, work = sent.member, sent.work
        if sent.kind == "task":
            member.tasks_in_flight -= 1
        else:
            member.control_in_flight = False
        if work and member in work.running:
            work.running.remove(member)
        if member.state in GONE:
            return None
        if member.state == "stalled":
            LOGGER.warning("worker %s answers again", member.name)
            member.state = "live"
        try:
            answer = content.result()
            member.bytes_received += len(answer)
            self._answered(sent, answer)
        except MessageError as error:
            self._quarantine(member, f"its answer is rubbish: {error}")
        except (WorkerError, TaintedError):
            raise
        except Exception as error:
            self._lose(member, f"{type(error).__name__}: {str(error)[:200]}")
        if work:
            self._put_back(work)
        self._make_free(member)
        return None

    def _answered(self, sent: _Sent, data: bytes) -> None:
        member, work = sent.member, sent.work
        answer = decode(data)
        if answer.kind == "error":
            return self._refused(sent, str(answer.fields.get("code")), str(answer.fields.get("problem")))
        wanted = {"open": "opened", "begin": "begun", "ping": "pong", "task": "result"}[sent.kind]
        if answer.kind != wanted:
            raise MessageError("kind of an answer", got=answer.kind, expected=wanted)
        if sent.kind == "ping":
            if member.state == "lost":
                LOGGER.warning("worker %s is back", member.name)
                member.state = "live"
                member.forget()
        elif sent.kind == "open":
            member.opened, member.epoch, member.held = True, -1, frozenset()
            member.hardware = str(answer.fields.get("hardware"))
            member.holds_data, member.pid = answer.fields.get("holds") is True, answer.fields.get("pid")
            LOGGER.info(
                "worker %s joins; target images %s", member.name,
                "from its own data set" if member.holds_data else f"are sent to it: {answer.fields.get('why')}",
            )  # fmt: skip
        elif sent.kind == "begin":
            member.epoch, member.held = self._number(answer), sent.held
            self._begun, member.refusals = True, 0
        elif work is not None:
            self._result(member, work, answer, sent.at)
        return None

    def _number(self, answer: Message) -> int:
        epoch = answer.fields.get("epoch")
        if type(epoch) is not int:
            raise MessageError("epoch of an answer", got=repr(epoch)[:80])
        return epoch

    def _result(self, member: Member, work: Work, answer: Message, sent_at: float) -> None:
        result, job = answer.arrays.get("result"), work.job
        if result is None or result.shape != job.shape or result.dtype != job.dtype:
            got = "none" if result is None else f"{result.dtype} {result.shape}"
            raise MessageError("a task's result", got=got, expected=f"{job.dtype} {job.shape}")
        if work.done:  # a check, or a copy that was slower
            if np.isfinite(work.opinions[0][1]).all() and not np.isfinite(result).all():
                return self._quarantine(member, "its result holds NaN or infinity")  # and somebody else checks
            return self._opinion(work, member, result)
        if self._unfinished.get(work.place) is not work:
            return None  # of a round that is over
        if not np.isfinite(result).all():
            work.non_finite.append(member.name)
            others = any(other.state == "live" and name not in work.non_finite for name, other in self.members.items())
            if len(work.non_finite) < 2 or (len(set(work.non_finite)) < 2 and others):
                return self._quarantine(member, "its result holds NaN or infinity")
            # Two attempts agree: it is the kernel's value, and the run says what to do about it.
        self._durations.append(time.monotonic() - sent_at)
        member.tasks += 1
        work.opinions, work.sequence, work.sent_at = [(member, result)], member.tasks, sent_at
        del self._unfinished[work.place]
        self._works[work.place] = work
        self.done += 1
        self.left -= 1
        if self.checks.wants(work, member, self.members.values()):
            self.checks.made += 1
            self.checks.add(work)
        return None

    def _refused(self, sent: _Sent, code: str, problem: str) -> None:
        member = sent.member
        if code in ("run", "configuration"):
            member.forget()  # a new process, or one that served another server meanwhile
        elif code == "step":
            member.epoch = -1
        elif code == "images" and (member.held or member.holds_data):
            LOGGER.warning("worker %s is sent images: %s", member.name, problem)
            member.epoch, member.held, member.holds_data = -1, frozenset(), False
        elif code == "versions":
            self._send_away(member, "dismissed", problem.rstrip("."))
        elif sent.work is None:
            member.refusals += 1
            self._quarantine(member, problem)
            self._last_refusal = f"worker {member.name} says: {problem}"
        else:
            sent.work.failures += 1
            if sent.work.failures >= self._settings.attempts:
                raise WorkerError(code, f"a task fails: worker {member.name} says: {problem.rstrip('.')}")
            self._quarantine(member, problem)

    # Whom to believe

    def _own_opinion(self, work: Work, answer: Future[np.ndarray]) -> None:
        """Take in what this process made of a task."""
        try:
            result = answer.result()
        except Exception as error:
            LOGGER.warning("this process cannot check task %d: %s", work.place, error)
            return self.checks.drop(work)
        return self._opinion(work, None, result)

    def _opinion(self, work: Work, member: Member | None, result: np.ndarray) -> None:
        """Compare a second or third result of a task with the others."""
        if not work.done or self._works.get(work.place) is not work:
            return  # undone meanwhile, or of a round that is over
        work.opinions.append((member, result))
        last = len(work.opinions) - 1
        agreeing = [place for place in range(last) if self.checks.same(work, place, last)]
        right = work.opinions[agreeing[0]][0] if agreeing else None
        if last == 1 and not agreeing:
            names = " and ".join(_name(who) for who, _ in work.opinions)
            LOGGER.warning("the results of %s for task %d differ", names, work.place)
            self.checks.add(work)  # a third decides; where there is no other worker, this process once more
            return
        if not agreeing:
            raise WorkerError("results", f"three computations of task {work.place} differ from each other")
        self.checks.drop(work)
        wrong = [who for place, (who, _) in enumerate(work.opinions) if place not in (*agreeing, last)]
        self._prove(right, work)
        self._prove(member, work)
        del work.opinions[1:]
        for who in wrong:
            self._distrust(who, work)

    def _prove(self, member: Member | None, work: Work) -> None:
        """Note that a worker's result was right."""
        if member is None:
            return
        counts = work.opinions[0][0] is member
        member.proven = max(member.proven, work.sequence if counts else member.tasks)
        member.proven_at = max(member.proven_at, work.sent_at)

    def _distrust(self, member: Member | None, work: Work) -> None:
        """Send a worker away whose result is wrong, and compute again what it did in this round."""
        if member is None or member.state == "distrusted":
            return
        undone = [other for other in self._works.values() if other.opinions[0][0] is member]
        self.checks.drop(work)
        for other in undone:
            self.checks.drop(other)
            other.undo()
            other.running.clear()
            del self._works[other.place]
            self._unfinished[other.place] = other
            self._put_back(other)
        self.done -= len(undone)
        self.left += len(undone)
        self._send_away(
            member, "distrusted",
            f"its result of task {work.place} is not what others compute; {len(undone)} of its tasks run elsewhere",
        )  # fmt: skip
        earlier = member.tasks_before - max(0, member.proven)
        if earlier > 0:
            raise TaintedError(
                f"worker {member.name} computed wrongly, and {earlier} of its earlier tasks were never checked",
                since=member.proven_at,
            )

    def _send_away(self, member: Member, state: Literal["distrusted", "dismissed"], why: str) -> None:
        """Have nothing to do with a worker any more; the log says so once for each reason."""
        if why not in self.sent_away.values():
            LOGGER.warning("worker %s is sent away (%s): %s", member.name, state, why)
        if len(self.sent_away) < SENT_AWAY or member.name in self.sent_away:
            self.sent_away[member.name] = why
        member.state = state
        self._last_refusal = f"worker {member.name}: {why}"
        self._take_back(member)
        member.link.close(why)

    # Who is there

    def _admit(self, link: Link) -> None:
        self._dismiss(link.name)
        member = self.members[link.name] = Member(link)
        self._make_free(member)

    def _dismiss(self, name: str) -> None:
        member = self.members.pop(name, None)
        if member and member.state not in GONE:
            self._lose(member, "it leaves")
            member.link.close()

    def _lose(self, member: Member, why: str) -> None:
        if member.state in GONE:
            return
        if member.state != "lost":
            LOGGER.warning("worker %s is lost (%s); its tasks go elsewhere", member.name, why)
        member.state = "lost"
        member.again_at = time.monotonic() + self._settings.ping_every
        member.forget()
        self._take_back(member)

    def _quarantine(self, member: Member, why: str) -> None:
        seconds = self._settings.quarantine * 2 ** min(member.strikes, 6)
        LOGGER.warning("worker %s is in quarantine for %.1f s: %s", member.name, seconds, why)
        member.strikes += 1
        member.state, member.again_at = "quarantined", time.monotonic() + seconds
        member.epoch = -1
        self._take_back(member)

    def _take_back(self, member: Member) -> None:
        """Put the worker's tasks back into the queue; their answers still count if they come."""
        for work in [*self._unfinished.values(), *self.checks.open]:
            if member in work.running:
                work.running.remove(member)
                self._put_back(work)

    def _put_back(self, work: Work) -> None:
        if work.done:
            if work in self.checks.open and not work.running and work not in self.checks.waiting:
                self.retries += 1
                self.checks.add(work)  # its checker failed
            return
        if not work.running and self._unfinished.get(work.place) is work and work not in self._again:
            self.retries += 1
            self._again.append(work)

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if now - self._ticked < TICK:
            return
        self._ticked = now
        for number, sent in list(self._sent.items()):  # the oldest first
            if now - sent.at < self._settings.deadline:
                break
            if sent.member.state in ("stalled", *GONE):
                continue
            if sent.kind == "ping":  # ask again
                self._sent.pop(number)
                sent.member.control_in_flight = False
                continue
            LOGGER.warning(
                "worker %s has not answered for %.1f s; its tasks go elsewhere", sent.member.name, now - sent.at
            )
            sent.member.state = "stalled"
            self._take_back(sent.member)
        for member in self.members.values():
            if member.state == "lost" and now >= member.again_at and not member.control_in_flight:
                member.again_at = now + self._settings.ping_every
                self._send(member, "ping", encode(Message("ping")))
            elif member.state == "quarantined" and now >= member.again_at:
                member.state = "live"
                self._make_free(member)
        for work in self.checks.open:
            if work.running and now - work.first_sent > self._long() and len(work.running) < self._settings.copies:
                self.checks.add(work)  # somebody else may be faster
        self._watch_for_silence(now)
        self._watch_for_refusals(now)
        self._on_tick()

    def _watch_for_refusals(self, now: float) -> None:
        """End a run in which no worker has begun, once all that came have been refused for a while."""
        refused = [
            member for member in self.members.values()
            if member.state in GONE or member.refusals >= self._settings.attempts
        ]  # fmt: skip
        all_refused = len(refused) == len(self.members) and bool(refused or self.sent_away)
        if self._begun or not all_refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since > self._settings.begin_patience:
            raise WorkerError("begin", f"no worker can begin: {self._last_refusal.rstrip('.')}")

    def _watch_for_silence(self, now: float) -> None:
        if any(member.state in ("live", "quarantined") for member in self.members.values()):
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
            LOGGER.warning("no worker is there; waiting up to %.0f s for one", self._settings.patience)
        elif now - self._alone_since > self._settings.patience:
            raise WorkersLostError(
                "no worker is there",
                got=f"silence for {now - self._alone_since:.0f} s from {len(self.members)} workers",
                remedy="Start workers and run the same command again: it resumes from the last checkpoint.",
            )


def _name(member: Member | None) -> str:
    return "this process" if member is None else f"worker {member.name}"
