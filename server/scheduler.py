"""The scheduler: hands tasks to workers through links, and gives their results back in order, whoever dies.

It knows messages and futures and no transport. It has no thread of its own: it works while its results are consumed.
What can go wrong, and what is done:

| what | what is done |
|---|---|
| the link fails, or a new process knows nothing of the run | the task runs elsewhere; the worker is told all again |
| a worker's own target images are not the server's | they are sent to it |
| a task is late, by the measured time of its kind | it is given to another worker; the first answer counts |
| a key is late twice in a row | while others are there, it gets copies of what they compute, until it is in time |
| no answer by the deadline | the worker is `stalled`; a late answer brings it back |
| a damaged answer, or one of another step, a wrong shape or dtype, or with more in it | quarantine; it runs elsewhere |
| NaN or infinity, or the kernel fails | the same; where all fail, this process computes it, or ends the run |
| finite numbers that are wrong | `kip.server.checks`: the key is sent away for good, and its tasks are computed again |
| a worker of another version or hardware | it is sent away; that ends a run only where no worker has begun |

Strikes, lateness and lies belong to a worker's key (`kip.server.trust`), and stay when it connects again. Results are
pure functions of their tasks, so that none of this changes a bit of them.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import math
import queue
import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from kip.errors import MessageError, WorkerError, WorkersLostError
from kip.server.checks import Checks, Opinion, TaintedError, Verdict, Work, is_of, judge
from kip.server.member import Job, Link, Member, Session, Settings
from kip.server.trust import Trust, Witness, words
from kip.workers.codec import MAX_HEADER, Message, decode, encode
from kip.workers.worker import hardware

LOGGER = logging.getLogger(__name__)
AT_A_TIME = 32
"""Answers taken in before workers are given their next tasks."""
COLLECT_AFTER = 50_000
"""Objects that are made in a round before Python looks for cycles of garbage."""
TICK = 0.25
"""Seconds between looks at the clock."""
GONE = ("distrusted", "dismissed")
"""States of workers that were sent away."""
SENT_AWAY = 100
"""Workers that were sent away that are remembered for the status."""
WITHOUT_RESULT = MAX_HEADER
"""Bytes that an answer may have beside a result."""
KINDS = 64
"""Kinds of tasks whose times are remembered."""
EXCUSES = 3
"""Answers in a row with which a worker may ask to be told of the run again."""
_ANSWERS = {"open": "opened", "begin": "begun", "ping": "pong", "task": "result"}
_RESULT, _NOTHING = frozenset({"result"}), frozenset()
OFTEN = 8
"""Losses of a key's workers that the log has one by one; after that, each time that they have doubled."""


class _Sent(NamedTuple):
    """A message on its way."""

    member: Member
    kind: str
    work: Work | None
    held: frozenset[str]
    epoch: int
    most: int
    at: float


class _Times:
    """The last times that tasks of one kind took, and their median."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=63)
        self._count = 0
        self.median = 0.0

    def add(self, seconds: float) -> None:
        """Note a time."""
        self._last.append(seconds)
        self._count += 1
        if len(self._last) < 8 or self._count % 8 == 0:
            self.median = statistics.median(self._last)


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
        self._idle: deque[Member] = deque()
        """Workers that have no task, and wait for one."""
        self._spare: deque[Member] = deque()
        """Workers that have a task, and room for another one that travels meanwhile."""
        self._again: deque[Work] = deque()
        self._fresh: Iterator[Work] = iter(())
        self._num_fresh = 0
        """The number of the round's tasks that nobody has been given yet."""
        self._unfinished: dict[int, Work] = {}
        self._times: OrderedDict[Hashable, _Times] = OrderedDict()
        """Seconds that tasks take, by kind; the kinds of this round are the newest."""
        self._late: set[int] = set()
        """The numbers of messages that are on their way for too long."""
        self._works: dict[int, Work] = {}
        """Those of this round that have a result, by place."""
        self._own_hardware = hardware()
        self._hardware: str | None = None
        """The hardware of the run, once a result of it has been taken; None where any may work on it."""
        self._nan_in = -1
        """The epoch in which this process has found NaN to be the kernel's own."""
        self.checks = Checks(self._settings.check_share, self._own_hardware)
        self.trust = Trust()
        self.base = -1
        """The step of the newest checkpoint, which the results of now are built on; -1 where there is none."""
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
            WorkerError: if a job fails wherever it runs, this process included, or no worker can begin.
            WorkersLostError: if no worker answers for longer than `Settings.patience`.
            TaintedError: if results of earlier rounds cannot be believed.
        """
        self._fresh, self._num_fresh = (Work(place, job) for place, job in enumerate(jobs)), count
        self._again.clear()
        self._unfinished, self._works = {}, {}
        self.checks.clear()
        self._alone_since = None
        self.left = count
        self._idle.clear()
        self._spare.clear()
        for member in self.members.values():
            member.waits_as = ""
            self._make_free(member)
        with _few_collections():
            while len(self._works) < count or self.checks.open:
                self._dispatch()
                self._wait()
                self._look_at_the_clock()
        self._note_use()
        for place in range(count):
            yield self._works[place].opinions[0].result

    def keep_trust_in(self, run: Path) -> None:
        """Believe keys as a run's folder says, which may know those of workers that are here already."""
        self.trust.keep_in(run)
        for member in self.members.values():
            if member.witness.distrusted:
                self._send_away(member, "distrusted", member.witness.distrusted)

    def go_back(self, base: int) -> None:
        """Forget what was computed after a checkpoint, which the run goes back to."""
        self.base = base
        self.trust.go_back(base)

    @property
    def alone(self) -> bool:
        """True if there is no worker that computes, or will again by itself."""
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
        while self._idle or (self._spare and self._has_for_spare()):
            waits_as, members = ("idle", self._idle) if self._idle else ("spare", self._spare)
            member = members.popleft()
            if member.waits_as != waits_as:
                continue  # it has changed the queue
            member.waits_as = ""
            if not self._usable(member):
                continue
            if not member.opened:
                self._send(member, "open", self._session.opening())
            elif member.epoch != self._session.epoch:
                if member.tasks_in_flight:
                    continue  # it begins when it has answered what is left of the last round
                message, held = self._session.beginning(member.held, member.holds_data)
                self._send(member, "begin", message, held=held)
                member.epoch = self._session.epoch
                self._make_free(member)  # its first task travels behind, and waits there for the epoch
            else:
                work = self._next_work(member)
                if work is None:
                    idle.append(member)
                    if not (self._num_fresh or self._again or self.checks.waiting or self._gets_copies(member)):
                        break  # nor is there anything for the others
                else:
                    self._hand(member, work)
                    self._make_free(member)
        for member in idle:
            self._make_free(member)
        if self.checks.waiting or self.checks.own:
            self._compute_here()

    def _compute_here(self) -> None:
        """Have this process compute a task, where it is free and one waits for it."""
        able, settings = self._able(), self._settings
        live = [member for member in self.members.values() if member.state == "live"]

        def is_ours(work: Work) -> bool:
            if time.monotonic() - work.waits_since > (self._limit(work) or settings.copy_after):
                return True
            if any(member.key not in work.tried for member in able):
                return False
            asked = work.opinions[0].member
            same = asked is None or asked.hardware == self._own_hardware
            return same or not any(member.key not in work.tried for member in live)

        work = self.checks.next_for_this_process(is_ours)
        if work:
            self.checks.compute(work, lambda answer: self._events.put((-3, (work, answer))))

    def _hand(self, member: Member, work: Work) -> None:
        if not work.running or work.done:  # a check begins when it is handed out
            work.first_sent = time.monotonic()
        work.running.append(member)
        work.tried.add(member.key)
        if not work.done:
            self._unfinished[work.place] = work
        self._send(member, "task", work.job.message(), work=work)

    def _next_work(self, member: Member) -> Work | None:
        if self._gets_copies(member):
            return self._for_practice(member)
        check = self.checks.next_for(member, self._able()) if self.checks.waiting else None
        if check:
            return check
        for _ in range(len(self._again)):
            work = self._again.popleft()
            if work.done or work.running:
                continue
            if member in work.overdue or self._for_somebody_else(work, member):
                self._again.append(work)  # somebody else's turn
                continue
            return work
        if member.tasks_in_flight and not self._has_for_all():
            return None
        if work := next(self._fresh, None):
            self._num_fresh -= 1
            return work
        return self._straggler(member)

    def _has_for_all(self) -> bool:
        """Say whether those that have a task get more; the last tasks are for those that have done theirs."""
        return self._num_fresh > len(self.members)

    def _has_for_spare(self) -> bool:
        """Say whether there may be work for those that have a task already."""
        return bool(self._again or self.checks.waiting or self._has_for_all())

    def _able(self) -> list[Member]:
        """Return the workers that compute now, and in time."""
        return [member for member in self.members.values() if self._has_begun(member) and member.witness.punctual]

    def _has_begun(self, member: Member) -> bool:
        return member.state == "live" and member.epoch == self._session.epoch

    def _gets_copies(self, member: Member) -> bool:
        """Say whether a worker's key was late so often that others get what is urgent."""
        return not member.witness.punctual and any(other.key != member.key for other in self._able())

    def _for_practice(self, member: Member) -> Work | None:
        """A copy of what one who is in time computes: nobody waits for it, and it shows whether this worker is, too."""
        if member.tasks_in_flight:
            return None
        for work in reversed(self._unfinished.values()):
            if work.running and member not in work.overdue and all(other.witness.punctual for other in work.running):
                self.copies += 1
                return work
        return None

    def _for_somebody_else(self, work: Work, member: Member) -> bool:
        """Say whether a key has failed at a task, or is late with it, that another has not tried."""
        return bool(
            (work.failures or work.lateness)
            and member.key in work.tried
            and any(other.key not in work.tried for other in self._able())
        )

    def _straggler(self, member: Member) -> Work | None:
        """A task to copy: the one that runs longest, if long enough.

        A key that computes it gets no copy while another could: one that holds many connections would copy to itself.
        """
        now = time.monotonic()
        if member.tasks_in_flight or not self._unfinished or now < self._next_look:
            return None
        work = min(self._unfinished.values(), key=lambda work: work.first_sent)
        keys = {other.key for other in work.running}
        if member.key in keys and any(other.key not in keys for other in self._able()):
            return None  # the next look is the other's
        self._next_look = now + TICK / 5
        age = now - work.first_sent
        limit = max(self._settings.copy_after, self._limit(work) or 0.0)
        enough = len(work.running) if member.key in keys else len(keys)
        if age < limit or enough >= self._settings.copies:
            return None
        if member in work.running or member in work.overdue or member.key in work.failed:
            return None
        self.copies += 1
        LOGGER.info("task %d takes long (%.1f s): a copy goes to worker %s", work.place, age, member.name)
        return work

    def _limit(self, work: Work) -> float | None:
        """Return after how many seconds a task is late: longer after each attempt that was; None: it is not known.

        Where none of its kind has been measured, the slowest kind of late stands for it.
        """
        times = self._times.get(work.job.kind)
        recent = [times] if times else list(itertools.islice(reversed(self._times.values()), 4))
        if not recent:
            return None
        median = max(times.median for times in recent)
        return max(self._settings.copy_after, 3 * median) * 2 ** min(work.lateness, 6)

    def _measure(self, work: Work, seconds: float) -> None:
        kind = work.job.kind
        if kind not in self._times:
            self._times[kind] = _Times()
            if len(self._times) > KINDS:
                self._times.popitem(last=False)
        self._times[kind].add(seconds)
        self._times.move_to_end(kind)

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
        result = math.prod(work.job.shape) * work.job.dtype.itemsize if work else 0
        most = result + WITHOUT_RESULT
        self._sent[number] = _Sent(member, kind, work, held, self._session.epoch, most, now)
        member.bytes_sent += len(payload)
        if kind == "task":
            member.tasks_in_flight += 1
            member.ahead = member.control_in_flight
        else:
            member.control_in_flight = True
        try:
            answer = member.link.send(payload, most=most)
        except Exception as error:  # what a transport raises has no end
            answer = Future()
            answer.set_exception(error)
        answer.add_done_callback(lambda done: self._events.put((number, done)))

    def _usable(self, member: Member) -> bool:
        return (
            member.state == "live"
            and member.tasks_in_flight + member.control_in_flight < self._settings.in_flight
            and not (member.control_in_flight and (member.ahead or member.epoch != self._session.epoch))
            and self.members.get(member.link.name) is member
        )

    def _make_free(self, member: Member) -> None:
        waits_as = "spare" if member.tasks_in_flight else "idle"
        if member.waits_as in ("", "spare") and member.waits_as != waits_as and self._usable(member):
            member.waits_as = waits_as
            (self._spare if member.tasks_in_flight else self._idle).append(member)

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
        self._late.discard(number)
        if sent is None:
            return None
        member, work = sent.member, sent.work
        if sent.kind == "task":
            if member.ahead and member.begun != sent.epoch:
                member.early.append((number, content))  # it has overtaken the answer that the epoch has begun
                self._sent[number] = sent
                return None
            member.tasks_in_flight -= 1
        else:
            member.control_in_flight = member.ahead = False
        if work is not None:
            if member in work.running:
                work.running.remove(member)
            if work.overdue and member in work.overdue:
                work.overdue.remove(member)
        if member.state in GONE:
            return None
        if member.state == "stalled":
            LOGGER.warning("worker %s answers again", member.name)
            member.state = "live"
        try:
            answer = content.result()
            member.bytes_received += len(answer)
            if len(answer) > sent.most:
                raise MessageError("an answer is too long", got=f"{len(answer)} bytes", expected=f"{sent.most} at most")
            self._answered(sent, answer)
        except MessageError as error:
            self._quarantine(member, f"its answer is rubbish: {error}")
        except (WorkerError, TaintedError):
            raise
        except Exception as error:
            self._lose(member, f"{type(error).__name__}: {words(str(error), 200)}")
        if work:
            self._put_back(work)
        early, member.early = member.early, []
        for overtaken in early:
            self._take(*overtaken)
        self._make_free(member)
        return None

    def _answered(self, sent: _Sent, data: bytes) -> None:
        member, work = sent.member, sent.work
        answer = decode(data)
        if answer.kind == "error":
            return self._refused(sent, words(answer.fields.get("code"), 40), words(answer.fields.get("problem")))
        wanted = _ANSWERS[sent.kind]
        if answer.kind != wanted:
            raise MessageError("kind of an answer", got=words(answer.kind, 80), expected=wanted)
        if answer.arrays.keys() != (_RESULT if work else _NOTHING):
            raise MessageError(
                "arrays of an answer", got=words(", ".join(answer.arrays), 80), expected="result" if work else "none"
            )
        epoch = answer.fields.get("epoch")
        if sent.kind in ("begin", "task") and epoch != sent.epoch:
            raise MessageError("epoch of an answer", got=words(epoch, 40), expected=f"{sent.epoch}")
        if sent.kind == "ping":
            if member.state == "lost":
                LOGGER.warning("worker %s is back", member.name)
                member.state = "live"
                member.forget()
        elif sent.kind == "open":
            self._opened(member, answer)
        elif sent.kind == "begin":
            member.begun, member.begun_at, member.held = sent.epoch, time.monotonic(), sent.held
            self._begun, member.refusals = True, 0
        elif work is not None and member.begun == sent.epoch:  # else it answers a task, and not what came before it
            self._result(member, work, answer.arrays["result"], max(sent.at, member.begun_at))
        return None

    def _opened(self, member: Member, answer: Message) -> None:
        pid, stated, witness = answer.fields.get("pid"), words(answer.fields.get("hardware"), 200), member.witness
        member.opened, member.epoch, member.begun, member.held = True, -1, -1, frozenset()
        member.holds_data, member.pid = answer.fields.get("holds") is True, pid if type(pid) is int else None
        if witness.hardware not in (None, stated):
            why = f"its key computes on {witness.hardware}, and this one on {stated}: make a key for each"
            return self._send_away(member, "dismissed", why)
        member.hardware = witness.hardware = stated
        if not self._is_of_the_hardware(member):
            return None
        LOGGER.info(
            "worker %s joins; target images %s",
            member.name,
            "from its own data set" if member.holds_data else f"are sent to it: {words(answer.fields.get('why'))}",
        )
        return None

    def _result(self, member: Member, work: Work, result: np.ndarray, sent_at: float) -> None:
        job, witness = work.job, member.witness
        if result.shape != job.shape or result.dtype != job.dtype:
            got = f"{result.dtype} {result.shape}"
            raise MessageError("a task's result", got=got, expected=f"{job.dtype} {job.shape}")
        now, member.excuses = time.monotonic(), 0
        if witness.late and ((limit := self._limit(work)) is None or now - sent_at <= limit):
            witness.late = 0
        finite = bool(np.isfinite(result).all())
        if work.done:  # a check, or a copy that was slower
            if not finite and np.isfinite(work.opinions[0].result).all():
                return self._quarantine(member, "its result holds NaN or infinity")  # and somebody else checks
            return self._opinion(work, member, result)
        if self._unfinished.get(work.place) is not work:
            return None  # of a round that is over
        if not finite and self._nan_in != self._session.epoch:
            return self._failed(work, member, "results", "its result holds NaN or infinity")
        if not self._is_of_the_hardware(member):
            return None
        if self._hardware is None and not self._settings.mixed_hardware:
            self._settle(self._own_hardware if self._has_as_many_keys(member.hardware) else member.hardware)
            if member.state in GONE:
                return None
        self._measure(work, now - sent_at)
        member.tasks += 1
        self._count(work, Opinion(member, result))
        if finite and self.checks.wants(work, member, self.members.values()):
            self.checks.made += 1
            self.checks.add(work)
        return None

    def _count(self, work: Work, opinion: Opinion) -> None:
        """Take a result as the task's."""
        work.opinions = [opinion]
        del self._unfinished[work.place]
        self._works[work.place] = work
        self.done += 1
        self.left -= 1

    def _refused(self, sent: _Sent, code: str, problem: str) -> None:
        member = sent.member
        if code == "step" and sent.work is not None and member.begun != sent.epoch:
            return None  # of a worker that could not begin, and has said why
        if code in ("run", "configuration", "step", "images"):
            member.excuses += 1
            if member.excuses > EXCUSES:
                member.excuses = 0
                return self._quarantine(member, f"it says again and again: {problem}")
        if code in ("run", "configuration"):
            member.forget()  # a new process, or one that served another server meanwhile
        elif code == "step":
            member.epoch = -1
        elif code == "images" and (member.held or member.holds_data):
            LOGGER.warning("worker %s is sent images: %s", member.name, problem)
            member.epoch, member.held, member.holds_data = -1, frozenset(), False
        elif code in ("versions", "form"):  # another try would change nothing
            self._send_away(member, "dismissed", problem.rstrip("."))
        elif sent.work is None:
            member.refusals += 1
            self._quarantine(member, problem)
            self._last_refusal = f"worker {member.name} says: {problem}"
        else:
            self._failed(sent.work, member, code, problem)
        return None

    def _failed(self, work: Work, member: Member, code: str, problem: str) -> None:
        """Note that a worker failed at a task; where it has failed everywhere, this process computes it."""
        self._quarantine(member, problem)
        if work.done:
            return
        work.failures += 1
        work.failed[member.key] = code, f"worker {member.name} says: {problem.rstrip('.')}"
        everywhere = not any(other.key not in work.failed for other in self._able())
        if work.own_failure is not None:
            self._end_if_all_fail(work)
        elif work.failures >= self._settings.attempts or (everywhere and work.failures > 1):
            self.checks.ask_own(work)

    def _end_if_all_fail(self, work: Work) -> None:
        if work.failures >= self._settings.attempts:
            code, said = next(reversed(work.failed.values()))
            raise WorkerError(code, f"a task fails: {said}")

    # Whom to believe

    def _own_opinion(self, work: Work, answer: Future[np.ndarray]) -> None:
        """Take in what this process made of a task."""
        work.is_here = False
        try:
            result = answer.result()
        except Exception as error:
            LOGGER.warning("this process cannot compute task %d: %s", work.place, error)
            work.own_failure = error
            if self._works.get(work.place) is work:
                return self._decide(work) if len(work.opinions) > 1 else self.checks.drop(work)
            if self._unfinished.get(work.place) is work:
                self._end_if_all_fail(work)
            return None
        if work.done:
            return self._opinion(work, None, result)
        if self._unfinished.get(work.place) is not work:
            return None
        for key, (_, said) in work.failed.items():
            LOGGER.warning("this process computes task %d, at which key %s failed: %s", work.place, key, said)
        if not np.isfinite(result).all():  # the kernel's own, and the run says what to do about it
            self._nan_in = self._session.epoch
        work.proved = True
        return self._count(work, Opinion(None, result))

    def _opinion(self, work: Work, member: Member | None, result: np.ndarray) -> None:
        """Compare another result of a task with the others."""
        if not work.done or self._works.get(work.place) is not work:
            return  # undone meanwhile, or of a round that is over
        if member is not None:
            before = [other.result for other in work.opinions if other.member and other.member.key == member.key]
            if before:  # the key is no second witness, and yet wrong where its results differ
                if before[0].tobytes() != result.tobytes():
                    self._expel([member.witness], "distrusted", f"its own results of task {work.place} differ")
                return
        work.opinions.append(Opinion(member, result))
        self._decide(work)

    def _decide(self, work: Work) -> None:
        """Close a check, or ask whose opinion is missing."""
        others = any(member.key not in work.tried for member in self._able())
        verdict = judge(work.opinions, self._own_hardware, own_fails=work.own_failure is not None, others=others)
        if not isinstance(verdict, Verdict) and len(work.opinions) == 2:
            names = " and ".join(_name(opinion.member) for opinion in work.opinions)
            LOGGER.warning("the results of %s for task %d differ", names, work.place)
        if verdict == "other":
            return self.checks.add(work)
        if verdict == "own":
            self.checks.open.add(work)
            return self.checks.ask_own(work)
        if not isinstance(verdict, Verdict):
            if work.own_failure is not None or sum(opinion.member is None for opinion in work.opinions) > 1:
                raise WorkerError("results", f"all computations of task {work.place} differ from each other")
            LOGGER.warning("nobody can say whose result of task %d is right; the first counts", work.place)
            self.checks.drop(work)
            del work.opinions[1:]
            return None
        self.checks.drop(work)
        right, wrong = ([work.opinions[place].member for place in places] for places in (verdict.right, verdict.wrong))
        for member in right:
            if member is not None:
                member.witness.proven = True
        work.proved = verdict.bits
        if 0 not in verdict.right:
            work.opinions[0] = work.opinions[verdict.right[0]]
        del work.opinions[1:]
        liars = [member.witness for member in wrong if member is not None]
        if liars:
            self._expel(liars, "distrusted", f"its result of task {work.place} is not what others compute")
        return None

    def _expel(self, witnesses: list[Witness], state: Literal["distrusted", "dismissed"], why: str) -> None:
        """Send all workers of some keys away, and compute again what they did.

        Raises:
            TaintedError: if the run is built on results of theirs that nobody has computed again.
        """
        witnesses = [witness for witness in witnesses if not witness.distrusted]
        for witness in witnesses:
            if state == "distrusted":
                witness.distrusted = why
            undone = self._undo(witness)
            said = f"{why}; {undone} of its tasks run elsewhere"
            for member in [member for member in self.members.values() if member.key == witness.key]:
                if member.state not in GONE:
                    self._send_away(member, state, said)
            self.sent_away.setdefault(witness.key, said)
        trusted = {witness.hardware for witness in self.trust.all() if witness.proven and not witness.distrusted}
        if self._hardware not in trusted:
            self._hardware = None  # the next result says which it is
        tainted = {witness.key: witness for witness in witnesses if witness.base is not None}
        self.trust.save()
        if tainted:
            base = min(witness.base for witness in tainted.values() if witness.base is not None)
            raise TaintedError(
                f"{sum(witness.unchecked for witness in tainted.values())} results of {', '.join(tainted)}, of which "
                f"the run's steps after step {max(0, base)} were made, cannot be believed: nobody computed them again",
                base=base,
            )

    def _undo(self, witness: Witness) -> int:
        """Compute again what a key computed in this round, and return how many tasks these are."""
        undone = [work for work in self._works.values() if is_of(work, witness.key)]
        for work in undone:
            self.checks.drop(work)
            work.undo()
            del self._works[work.place]
            self._unfinished[work.place] = work
            self._put_back(work)
        self.done -= len(undone)
        self.left += len(undone)
        return len(undone)

    def _note_use(self) -> None:
        """Note whose results of this round nobody has checked: the run is built on them from now on."""
        changed = False
        for work in self._works.values():
            member = work.opinions[0].member
            if member is not None and not work.proved:
                changed |= member.witness.note_use(self.base)
        if changed:
            self.trust.save()

    def _is_of_the_hardware(self, member: Member) -> bool:
        """Return whether a worker may compute for this run; one of other hardware is sent away.

        The run's hardware is that of its first result. This process's own takes its place where as many keys have it:
        one key that came first must not keep all others out.

        Raises:
            TaintedError: if the run is built on results of the hardware whose place it takes.
        """
        if self._settings.mixed_hardware or self._hardware in (None, member.hardware):
            return True
        if member.hardware != self._own_hardware or not self._has_as_many_keys(self._hardware or ""):
            self._refuse_hardware(member, self._hardware or "")
            return False
        LOGGER.warning("the run computes on %s from now on, as this process does", self._own_hardware)
        self._settle(self._own_hardware)
        return True

    def _has_as_many_keys(self, hardware: str) -> bool:
        """Return whether as many keys have this process's hardware as have another."""
        keys = [witness.hardware for witness in self.trust.all() if not witness.distrusted]
        return keys.count(self._own_hardware) >= keys.count(hardware)

    def _settle(self, hardware: str) -> None:
        """Let the workers of one kind of hardware alone compute, and compute again what others did."""
        for member in list(self.members.values()):
            if member.state not in GONE and member.hardware not in ("", hardware):
                self._refuse_hardware(member, hardware)
        others = [witness for witness in self.trust.all() if witness.hardware not in (None, hardware)]
        try:
            self._expel(others, "dismissed", f"it computes on other hardware than this run's, {hardware}")
        finally:
            self._hardware = hardware

    def _refuse_hardware(self, member: Member, hardware: str) -> None:
        self._send_away(member, "dismissed", _other_hardware(member.hardware, hardware))

    def _send_away(self, member: Member, state: Literal["distrusted", "dismissed"], why: str) -> None:
        """Have nothing to do with a worker any more; the log says so once for each reason."""
        if why not in self.sent_away.values():
            LOGGER.warning("worker %s is sent away (%s): %s", member.name, state, why)
        if len(self.sent_away) < SENT_AWAY or member.key in self.sent_away:
            self.sent_away[member.key] = why
        member.state = state
        self._last_refusal = f"worker {member.name}: {why}"
        self._take_back(member)
        member.link.close(why)

    # Who is there

    def _admit(self, link: Link) -> None:
        self._dismiss(link.name)
        witness = self.trust.of(link.key)
        if witness.distrusted:
            self.sent_away.setdefault(link.key, witness.distrusted)
            return link.close(f"{witness.distrusted}; `kip worker-key` makes a new key")
        member = self.members[link.name] = Member(link, witness)
        if witness.rest_until > time.monotonic():
            member.state, member.again_at = "quarantined", witness.rest_until
        self._make_free(member)
        return None

    def _dismiss(self, name: str) -> None:
        member = self.members.pop(name, None)
        if member and member.state not in GONE:
            self._lose(member, "it leaves")
            member.link.close()

    def _lose(self, member: Member, why: str) -> None:
        if member.state in GONE:
            return
        witness, now = member.witness, time.monotonic()
        if member.state != "lost":
            witness.losses += 1
            if witness.losses <= OFTEN or witness.losses & (witness.losses - 1) == 0:
                LOGGER.warning("worker %s is lost (%s); its tasks go elsewhere", member.name, why)
            if member.tasks_in_flight:
                witness.note_late(now, now)
        member.state = "lost"
        member.again_at = now + self._settings.ping_every
        member.forget()
        self._take_back(member)

    def _quarantine(self, member: Member, why: str) -> None:
        witness = member.witness
        seconds = self._settings.quarantine * 2 ** min(witness.strikes, 6)
        LOGGER.warning("worker %s is in quarantine for %.1f s: %s", member.name, seconds, words(why))
        witness.strikes += 1
        witness.rest_until = time.monotonic() + seconds
        member.state, member.again_at = "quarantined", witness.rest_until
        member.epoch = -1
        self._take_back(member)

    def _take_back(self, member: Member) -> None:
        """Put the worker's tasks back into the queue; their answers still count if they come."""
        for work in [*self._unfinished.values(), *self.checks.open]:
            if member in work.overdue:
                work.overdue.remove(member)
            if member in work.running:
                work.running.remove(member)
                self._put_back(work)

    def _put_back(self, work: Work) -> None:
        if work.done:
            if work in self.checks.open and not (work.running or work.is_here) and work not in self.checks.waiting:
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
        self._give_again_what_is_late(now)
        for member in self.members.values():
            if member.state == "lost" and now >= member.again_at and not member.control_in_flight:
                member.again_at = now + self._settings.ping_every
                self._send(member, "ping", encode(Message("ping")))
            elif member.state == "quarantined" and now >= member.again_at:
                member.state = "live"
                self._make_free(member)
        self._watch_for_silence(now)
        self._watch_for_refusals(now)
        self._on_tick()

    def _give_again_what_is_late(self, now: float) -> None:
        for number, sent in self._sent.items():
            if sent.work is None or number in self._late or sent.member not in sent.work.running:
                continue
            if sent.member.ahead:
                continue  # the deadline is for those that do not begin
            limit, since = self._limit(sent.work), max(sent.at, sent.member.begun_at)
            if limit is not None and now - since > limit:
                self._late.add(number)
                LOGGER.info(
                    "task %d is late (%.1f s) at worker %s: it runs elsewhere",
                    sent.work.place,
                    now - since,
                    sent.member.name,
                )
                sent.member.witness.note_late(since, now)
                sent.work.lateness += 1
                sent.work.running.remove(sent.member)
                sent.work.overdue.append(sent.member)
                self._put_back(sent.work)

    def _watch_for_refusals(self, now: float) -> None:
        """End a run in which no worker has begun, once all that came have been refused for a while."""
        refused = [
            member
            for member in self.members.values()
            if member.state in GONE or member.refusals >= self._settings.attempts
        ]
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


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Let Python look for cycles of garbage once in many messages.

    A message leaves some twenty objects and no cycle. Looking after each 700 of them took a fifth of a step's time, a
    third of which was JAX's, which looks for unused arrays each time.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(COLLECT_AFTER, before[0]) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _name(member: Member | None) -> str:
    return "this process" if member is None else f"worker {member.name}"


def _other_hardware(theirs: str, ours: str) -> str:
    return f"it computes on {theirs}, this run on {ours}, and their bits differ; --mixed-hardware lets it in"
