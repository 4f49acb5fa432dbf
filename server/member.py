"""What the scheduler knows of one worker, and the link that a transport gives it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, NamedTuple, Protocol

import numpy as np

from kip.workers.codec import Message

State = Literal["live", "lost", "stalled", "quarantined"]


class Link(Protocol):
    """A way to one worker: all that a transport has to provide."""

    name: str

    def send(self, payload: bytes) -> Future[bytes]:
        """Hand over a message without waiting, and return the future of its answer; it fails if the worker is gone."""
        ...

    def close(self) -> None:
        """Let go of the connection; the worker lives on unless the transport started it."""


class Session(Protocol):
    """What a worker is told before it gets tasks; the executor's side of `kip.workers.worker`."""

    epoch: int

    def opening(self) -> Message:
        """Return the message that opens a run on a worker."""
        ...

    def beginning(self, held: frozenset[str], holds_data: bool) -> tuple[Message, frozenset[str]]:
        """Return the message that begins the epoch, for a worker that holds these arrays, and what it holds after."""
        ...


class Job(NamedTuple):
    """One task: how to ask for it, and what its result must look like.

    Attributes:
        message: makes the message; called again for each attempt.
        shape: of the result.
        dtype: of the result.
    """

    message: Callable[[], Message]
    shape: tuple[int, ...]
    dtype: np.dtype


class Settings(NamedTuple):
    """The scheduler's patience, in seconds, and its limits.

    Attributes:
        in_flight: tasks that a worker holds at a time: one computes while the next travels.
        deadline: the longest that an answer may take, compiling a kernel and loading a data set included.
        copy_after: a task is copied to an idle worker once it takes this long and three times the median.
        copies: attempts at one task that run at a time.
        attempts: failures of one task after which the run stops, where they are no worker's own.
        ping_every: between looks for a worker that was lost.
        quarantine: first time that a worker is left alone after rubbish; it doubles each time, up to 64 times.
        patience: how long a run waits with no worker at all.
    """

    in_flight: int = 2
    deadline: float = 600.0
    copy_after: float = 1.0
    copies: int = 2
    attempts: int = 3
    ping_every: float = 0.5
    quarantine: float = 1.0
    patience: float = 600.0


@dataclasses.dataclass
class Member:
    """One worker, as the scheduler sees it."""

    link: Link
    state: State = "live"
    pid: int | None = None
    opened: bool = False
    holds_data: bool = False
    held: frozenset[str] = frozenset()
    epoch: int = -1
    tasks_in_flight: int = 0
    control_in_flight: bool = False
    waiting_for_slot: bool = False
    strikes: int = 0
    again_at: float = 0.0
    tasks: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def name(self) -> str:
        """The link's name."""
        return self.link.name

    def forget(self) -> None:
        """Assume nothing of what the worker was told: it may be another process by now."""
        self.opened, self.holds_data, self.held, self.epoch = False, False, frozenset(), -1
