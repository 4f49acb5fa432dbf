"""Progress on stderr: bars on a terminal, and a line now and then in a pipe, a file or a batch system's log.

Work that may take longer than a moment is entered here: a `stage` is work of unknown length, such as the reading of a
data set, and a `progress_bar` counts. Work within other work forms a stack, whose outermost entry is the command.

A thread looks at the stack every second, so that work which reports nothing, such as a compilation, is seen to go on:

- On a terminal every bar is drawn below the one around it; a stage is drawn while nothing goes on within it.
- Elsewhere there are no control characters. A line names each stage, and each bar that is not within another, once it
  has lasted a moment; after that, a line every half a minute says how far the whole stack is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

STAGE_SECONDS = 1.0
"""A stage that ends sooner is not named."""
DELAY_SECONDS = 2.0
"""A bar that ends sooner is not drawn: a run judges its set at every checkpoint, often within milliseconds."""
LINE_SECONDS = 30.0
"""The seconds between two lines, where stderr is no terminal."""
LOOK_SECONDS = 0.5
"""The seconds between two looks at what goes on."""
SCALED = 100_000
"""From this total on, counts are written as 12.3k and 4.5M."""
STAGE_FORMAT = "{desc} [{elapsed}]"
BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def can_draw() -> bool:
    """Return whether there is a stderr at all: a process that was started without one has None in its place."""
    return sys.stderr is not None


def draws_bars() -> bool:
    """Return whether stderr is one where a bar can be drawn over the last: a terminal, or a notebook's output."""
    if sys.stderr is None:
        return False
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return in_notebook or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb")


class Work:
    """Work that goes on; use it in `with`. Its `update` and `note` may be called from any thread.

    Args:
        board: where it is entered; None: it is not shown.
        what: what goes on.
        total: how many units there are; None for a stage.
        unit: what is counted, such as ` images`.
        initial: how many units there were before this process.
        stays: whether its last state stays on the screen.
        delay: the seconds before it is shown.
        names: whether bars within it are headed by its name.
    """

    def __init__(
        self,
        board: Board | None,
        what: str,
        total: int | None = None,
        *,
        unit: str = "",
        initial: int = 0,
        stays: bool = False,
        delay: float = STAGE_SECONDS,
        names: bool = True,
    ):
        self.what, self.total, self.unit, self.done, self.initial = what, total, unit, initial, initial
        self.stays, self.delay, self.names = stays, delay, names
        self.noted = ""
        self.is_named = False
        """True once a line has named it."""
        self.bar: tqdm[Any] | None = None
        self._board = board
        self.began = 0.0 if board is None else board.clock()
        if board is not None:
            board.enter(self)

    @property
    def is_shown(self) -> bool:
        """Return whether it is entered anywhere."""
        return self._board is not None

    def update(self, count: int = 1) -> None:
        """Add to the units that are done."""
        self.done += count
        if self._board is not None:
            self._board.on_update(self, count)

    def expect(self, total: int) -> None:
        """Say how many units there are, where more are known of than at the beginning."""
        self.total = total
        if self.bar is not None:
            self.bar.total = total

    def note(self, text: str) -> None:
        """Say what stands behind the counts, such as a loss."""
        self.noted = text
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """End it; a second time does nothing."""
        board, self._board = self._board, None
        if board is not None:
            board.leave(self)

    def as_text(self, now: float, *, is_innermost: bool) -> str:
        """Return what it is and how far, for a line."""
        elapsed = now - self.began
        if self.total is None:
            return f"{self.what}, {_clock(elapsed)}" if is_innermost and elapsed >= LINE_SECONDS else self.what
        parts = [f"{_count(self.done, self.total)} of {_count(self.total, self.total)}{_spaced(self.unit)}", self.noted]
        made = self.done - self.initial
        if elapsed >= DELAY_SECONDS:
            left = f", about {_clock(elapsed / made * (self.total - self.done))} left" if made > 0 else ""
            parts.append(f"{_clock(elapsed)}{left if self.done < self.total else ''}")
        return f"{self.what}: " + ", ".join(part for part in parts if part)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Board:
    """All work that goes on in a process, innermost last.

    Args:
        clock: returns the time in seconds.
        has_thread: whether a thread looks at it; without one, its owner calls `look`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, has_thread: bool = True):
        self.clock = clock
        self._has_thread = has_thread
        self._works: list[Work] = []
        self._lock = threading.RLock()
        self._has_work = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_line = clock()

    @property
    def is_going_on(self) -> bool:
        """Return whether any work goes on."""
        return bool(self._works)

    def enter(self, work: Work) -> None:
        """Put work inside of what goes on."""
        with self._lock:
            if not self._works:
                self._last_line = self.clock()
            for outer in self._works:
                if outer.total is None:
                    _undraw(outer)
            self._works.append(work)
            if work.delay <= 0:
                self.look()
            self._has_work.set()
            if self._has_thread and (self._thread is None or not self._thread.is_alive()):  # a forked process has none
                self._thread = threading.Thread(target=self._keep_looking, name="kip-progress", daemon=True)
                self._thread.start()

    def leave(self, work: Work) -> None:
        """Take work away that has ended."""
        with self._lock:
            if work.stays and work.bar is None and work.total is not None and not draws_bars():
                self._write([work])
            if work.bar is not None:
                work.bar.close()
                work.bar = None
            with contextlib.suppress(ValueError):
                self._works.remove(work)
            if not self._works:
                self._has_work.clear()

    def on_update(self, work: Work, count: int) -> None:
        """Draw a bar that has more units."""
        if work.bar is None:
            return
        with self._lock:
            if work.bar is not None:
                work.bar.update(count)

    def look(self) -> None:
        """Show what is due: bars on a terminal, a line elsewhere."""
        with self._lock:
            if not self._works:
                return
            if draws_bars():
                self._refresh()
            elif can_draw():
                self._tell()

    def _keep_looking(self) -> None:
        while True:
            self._has_work.wait()
            time.sleep(LOOK_SECONDS)
            with contextlib.suppress(ValueError, OSError):  # a stderr that was closed meanwhile
                self.look()

    def _refresh(self) -> None:
        now = self.clock()
        for work in list(self._works):
            is_due = now - work.began >= work.delay
            if work.total is None and work is not self._works[-1]:
                _undraw(work)
            elif work.bar is not None:
                work.bar.refresh()
            elif is_due:
                self._draw(work)

    def _draw(self, work: Work) -> None:
        is_stage = work.total is None
        before = 0.0 if is_stage else self.clock() - work.began
        work.bar = tqdm(
            total=work.total,
            initial=work.initial,
            desc=self._title(work),
            unit=_spaced(work.unit) or "it",
            unit_scale=(work.total or 0) >= SCALED,
            leave=work.stays,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format=STAGE_FORMAT if is_stage else BAR_FORMAT,
            mininterval=0.1,
        )
        work.bar.start_t -= self.clock() - work.began if is_stage else before
        work.bar.n = work.done
        if work.noted:
            work.bar.set_postfix_str(work.noted, refresh=False)
        work.bar.refresh()

    def _title(self, work: Work) -> str:
        """Return the work's name behind those of the stages between it and the bar around it."""
        names = [work.what]
        for outer in reversed(self._works[: self._works.index(work)]):
            if outer.total is not None:
                break
            if outer.names:
                names.insert(0, outer.what)
        return ": ".join(names)

    def _tell(self) -> None:
        now = self.clock()
        outermost_bar = next((i for i, work in enumerate(self._works) if work.total is not None), len(self._works))
        fresh = [w for w in self._works[: outermost_bar + 1] if not w.is_named and now - w.began >= w.delay]
        if fresh or now - self._last_line >= LINE_SECONDS:
            self._write(self._works)

    def _write(self, works: list[Work]) -> None:
        now = self.clock()
        is_known = len(works) > 1 and works[0].total is None and works[0].is_named  # the command, said once
        parts = [work.as_text(now, is_innermost=work is works[-1]) for work in works[is_known:]]
        text = "; ".join(parts)
        print(f"kip: {text}", file=sys.stderr, flush=True)
        for work in works:
            work.is_named = True
        self._last_line = now


BOARD = Board()
"""The work of this process."""


def progress_bar(
    total: int,
    what: str,
    *,
    shown: bool,
    unit: str = "",
    initial: int = 0,
    stays: bool = False,
    delay: float | None = None,
) -> Work:
    """Return work that is counted; use it in `with`, and call its `update(n)`.

    Args:
        total: how many units there are.
        what: what goes on.
        shown: whether it is shown at all.
        unit: what is counted.
        initial: how many there were before this process.
        stays: whether its last state stays on the screen.
        delay: the seconds before it is shown; None means `DELAY_SECONDS`.
    """
    board, after = BOARD if shown and can_draw() else None, DELAY_SECONDS if delay is None else delay
    return Work(board, what, total, unit=unit, initial=initial, stays=stays, delay=after)


def inner_bar(total: int, what: str, *, unit: str = "") -> Work:
    """Return work that is counted, and is shown if it goes on within other work that is."""
    return progress_bar(total, what, shown=BOARD.is_going_on, unit=unit)


def stage(what: str, *, shown: bool = True, names: bool = True, delay: float | None = None) -> Work:
    """Return work whose length is unknown; use it in `with`.

    Args:
        what: what goes on, as a participle, such as `reading mnist`.
        shown: whether it is shown at all.
        names: whether bars within it are headed by its name.
        delay: the seconds before it is shown; None means `STAGE_SECONDS`.
    """
    after = STAGE_SECONDS if delay is None else delay
    return Work(BOARD if shown and can_draw() else None, what, names=names, delay=after)


def inner_stage(what: str, *, names: bool = True, delay: float | None = None) -> Work:
    """Return work of unknown length that is shown if it goes on within other work that is."""
    return stage(what, shown=BOARD.is_going_on, names=names, delay=delay)


def counted(
    things: Iterable[T], total: int, what: str, *, unit: str = "", shown: bool = True
) -> Generator[T, None, None]:
    """Yield things, with a bar that counts them."""
    with progress_bar(total, what, shown=shown, unit=unit) as bar:
        for thing in things:
            yield thing
            bar.update()


@contextlib.contextmanager
def bars_aside() -> Iterator[None]:
    """Take the bars off the terminal while something is written to it, and draw them again below."""
    if not BOARD.is_going_on or not draws_bars():
        yield
        return
    with tqdm.external_write_mode(file=sys.stderr):
        yield


def say(text: str) -> None:
    """Write a line to stderr, above the bars."""
    if can_draw():
        with bars_aside():
            print(text, file=sys.stderr, flush=True)


def readable(seconds: float) -> str:
    """Return a time in the largest unit of which it has two.

    >>> readable(7200), readable(90)
    ('2 hours', '90.0 seconds')
    """
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} seconds"


def _undraw(work: Work) -> None:
    if work.bar is not None:
        work.bar.close()
        work.bar = None


def _spaced(unit: str) -> str:
    return f" {unit.strip()}" if unit.strip() else ""


def _count(number: int, total: int) -> str:
    return tqdm.format_sizeof(number) if total >= SCALED else str(number)


def _clock(seconds: float) -> str:
    return tqdm.format_interval(seconds)
