"""The scheduler's knowledge of one worker, and the link that a transport gives it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from kip.server.trust import Witness
from kip.workers.codec import MOST

MemberState = Literal["live", "lost", "stalled", "quarantined", "distrusted", "dismissed"]
"""The state of a worker. The last two states are for good: its results differ from others', or its version or hardware
does."""


class Link(Protocol):
    """A way to one worker: all that a transport has to provide.

    Attributes:
        name: tells it from all others that are there.
        key: who it is: workers of one key are believed, and distrusted, as one.
    """

    name: str
    key: str

    def send(self, payload: bytes, *, most: int = MOST) -> Future[bytes]:
        """Hand over a message without waiting, and return the future of its answer; it fails if the worker is gone.

        Args:
            payload: the message.
            most: bytes that the answer may have; a longer one may be refused before it is all there.
        """
        ...

    def close(self, why: str = "") -> None:
        """Let go of the worker; `why` is what it did wrong, where it is sent away for that."""


class Session(Protocol):
    """The messages that a worker gets before tasks; the executor's side of `kip.workers.worker`."""

    epoch: int

    def opening(self) -> bytes:
        """Return the message that opens a run on a worker."""
        ...

    def beginning(self, held: frozenset[str], holds_data: bool) -> tuple[bytes, frozenset[str]]:
        """Return the message that begins the epoch, for a worker that holds these arrays, and what it holds after."""
        ...


class Job(NamedTuple):
    """One task: how to ask for it, and what its result must look like.

    Attributes:
        message: makes the encoded message; called again for each attempt.
        shape: the shape of the result.
        dtype: the dtype of the result.
        compute: computes the result in this process.
        kind: jobs of one kind take about the same time on one worker.
    """

    message: Callable[[], bytes]
    shape: tuple[int, ...]
    dtype: np.dtype
    compute: Callable[[], np.ndarray]
    kind: Hashable = None


class Settings(NamedTuple):
    """The scheduler's patience, in seconds, and its limits.

    Attributes:
        in_flight: tasks that a worker holds at a time: one computes while the next travels.
        deadline: the longest that an answer may take, compiling a kernel and loading a data set included.
        copy_after: a task is late, and given to another worker, once it takes this long and three times the median
            of its kind; an idle worker gets a copy of it also where that is not known yet.
        copies: how many attempts at one task run at a time, apart from those that are late.
        attempts: how many failures of one task stop the run, where this process fails at it too.
        ping_every: the time between looks for a worker that was lost.
        quarantine: the first time that a worker is left alone after rubbish; it doubles each time, up to 64 times.
        patience: how long a run waits with no worker at all.
        begin_patience: how long it waits for one that can begin, where all that came are refused and none has begun.
        check_share: the share of tasks that are computed twice and compared, by a worker of another key where there is
            one; 1 checks every task, and 0 believes every worker.
        mixed_hardware: whether workers of different hardware may work on one run. Their results differ in the last
            bits, and are compared to a tolerance (`kip.server.checks.TOLERANCE`).
    """

    in_flight: int = 2
    deadline: float = 600.0
    copy_after: float = 1.0
    copies: int = 2
    attempts: int = 3
    ping_every: float = 0.5
    quarantine: float = 1.0
    patience: float = 600.0
    begin_patience: float = 20.0
    check_share: float = 0.01
    mixed_hardware: bool = False


@dataclasses.dataclass
class Member:
    """One worker, as the scheduler sees it."""

    link: Link
    witness: Witness
    state: MemberState = "live"
    pid: int | None = None
    opened: bool = False
    holds_data: bool = False
    held: frozenset[str] = frozenset()
    epoch: int = -1
    """The epoch that it was told of."""
    begun: int = -1
    """The epoch that it has begun, as it says."""
    begun_at: float = 0.0
    tasks_in_flight: int = 0
    control_in_flight: bool = False
    ahead: bool = False
    """True if it has a task that waits for the epoch to begin there."""
    early: list[tuple[int, Any]] = dataclasses.field(default_factory=list)
    """Answers to tasks, by the numbers of their messages, that came before the answer that their epoch has begun."""
    waits_as: Literal["", "idle", "spare"] = ""
    """`idle` or `spare` if it waits for a task, and has none or one already."""
    refusals: int = 0
    excuses: int = 0
    """Answers since its last result which say that it has to be told of the run again."""
    hardware: str = ""
    again_at: float = 0.0
    tasks: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def name(self) -> str:
        """The link's name."""
        return self.link.name

    @property
    def key(self) -> str:
        """The link's key."""
        return self.link.key

    def forget(self) -> None:
        """Assume nothing of what the worker was told: it may be another process by now."""
        self.opened, self.holds_data, self.held, self.epoch, self.begun = False, False, frozenset(), -1, -1
