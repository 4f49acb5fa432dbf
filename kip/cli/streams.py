"""stdout and stderr as a command needs them: nothing that becomes of them ends its work.

They may be closed, a full disk, a pipe whose reader has gone, or of an encoding that lacks a letter. A command saves
its results first and prints them second; what could not be printed is said at its end, with the exit status.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, cast

from kip.errors import OutputError
from kip.progress import bars_aside


class Stream:
    """A text stream that notes its first failure and lets everything after it pass.

    Args:
        stream: the stream.
        beside_bars: whether whole lines are written at a time, with the progress bars out of their way.
    """

    def __init__(self, stream: Any, *, beside_bars: bool = False):
        self._stream = stream
        self._beside_bars = beside_bars
        self._begun = ""
        self.error: OSError | None = None
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show, or that is not UTF-8
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text; return its length."""
        if self._beside_bars:
            self._begun += text
            if text.endswith("\n"):
                self.flush()
        else:
            self._do("write", text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        begun, self._begun = self._begun, ""
        with bars_aside() if begun else contextlib.nullcontext():
            if begun:
                self._do("write", begun)
            self._do("flush")

    def let_go(self) -> None:
        """Keep Python's own flush at the end of the process from failing as this stream did."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            empty = os.open(os.devnull, os.O_WRONLY)
            os.dup2(empty, self._stream.fileno())
            os.close(empty)

    def _do(self, action: str, *given: str) -> None:
        if self.error is not None:
            return
        try:
            getattr(self._stream, action)(*given)
        except OSError as error:
            self.error = error
        except ValueError as error:  # closed by the program itself
            self.error = OSError(errno.EBADF, str(error))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting() -> Iterator[Stream]:
    """Put streams that never fail in the place of stdout and stderr; yield stdout's."""
    _occupy()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        out, err = Stream(sys.stdout or nothing, beside_bars=_is_terminal(sys.stdout)), Stream(sys.stderr or nothing)
        sys.stdout, sys.stderr = cast(Any, out), cast(Any, err)
        try:
            yield out
        finally:
            for stream in (out, err):
                stream.flush()
                if stream.error is not None:
                    stream.let_go()
            sys.stdout, sys.stderr = before


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def nobody_reads() -> bool:
    """Return whether what is printed is lost, so that a command that only prints may end."""
    return isinstance(sys.stdout, Stream) and sys.stdout.error is not None


def unprinted(error: OSError) -> OutputError:
    """Return the error of a command whose results could not be printed."""
    return OutputError(
        "the results could not be printed",
        got=error.strerror or repr(error),
        remedy="What the command saves is saved: a run's are in RUN/result.json, those of other commands in --out.",
    )


def _occupy() -> None:
    """Open what is closed of stdin, stdout and stderr, as nothing: the next file would else get its number.

    A library that writes to stderr would then write into that file, a checkpoint for instance.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
