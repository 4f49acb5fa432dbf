"""Signals that end a command in order: those that a scheduler or the system sends before it kills a process.

The command line asks for them to be taken as a wish to stop; importing kip changes no handler. A run then keeps the
state after its last whole step, and the same command goes on from there.

| signal | who sends it |
|---|---|
| SIGTERM | `kill`, container engines, batch systems, a machine that is shut down |
| SIGHUP | a terminal that is closed; under `nohup` it stays ignored |
| SIGUSR1, SIGUSR2 | batch systems, some time before they end a job (Slurm's `--signal=USR1@120`) |
| SIGXCPU | the system, at the limit of CPU time |
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""The signals that stop a command; a platform knows some of them."""


class Stopped(BaseException):
    """A signal asks the process to end. It is no error, and as with KeyboardInterrupt nobody should go on after it.

    Attributes:
        number: the signal's number.
        step: the step of the run that is saved; None where there is no run, or nothing of it.
    """

    def __init__(self, number: int):
        self.number = number
        self.step: int | None = None
        super().__init__(f"stopped by {self.name}")

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self.number).name

    @property
    def status(self) -> int:
        """The exit status, as shells have it for a process that a signal ends: 143 for SIGTERM."""
        return 128 + self.number


_armed: list[int] = []
"""The signals that stop this process; empty where nobody asked for it."""
_pending: list[int] = []
"""The signal that came, until the process has ended: whatever swallowed its exception, `check` raises it again."""


@contextlib.contextmanager
def signals_stop() -> Iterator[None]:
    """Raise Stopped in the main thread when a signal of `NAMES` comes, for as long as the context lasts.

    A signal that is ignored, or that the program handles already, stays as it is. In another thread than the main one
    nothing changes, because Python sets handlers only there.
    """
    if threading.current_thread() is not threading.main_thread() or _armed:
        yield
        return
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    _armed[:] = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    rearm()
    try:
        yield
    finally:
        for number in _armed:
            signal.signal(number, signal.SIG_DFL)
        _armed.clear()
        _pending.clear()


def rearm() -> None:
    """Set the handlers again, where `signals_stop` holds: a library may have set its own when it was started."""
    if _armed and not _pending and threading.current_thread() is threading.main_thread():
        for number in _armed:
            signal.signal(number, _stop)


def check() -> None:
    """Raise Stopped if a signal came and its exception got lost, as in a destructor.

    Raises:
        Stopped: if so.
    """
    if _pending:
        raise Stopped(_pending[0])


def _stop(number: int, frame: FrameType | None) -> None:
    _pending.append(number)
    for other in _armed:  # a second one would cut the saving short
        signal.signal(other, _wait)
    raise Stopped(number)


def _wait(number: int, frame: FrameType | None) -> None:
    """Let a further signal pass: the process ends already."""
