"""The named errors of kip, in one voice: the argument, what came, what was expected, and what to do.

Every error that a user can cause or mend derives from `KipError`; the command line prints it without a traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of the text around them, which makes it read as another."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text from elsewhere with each character escaped that a terminal, a log or a file name would obey.

    These are control characters, characters that turn the direction of writing, and lone surrogates, which stand for
    the bytes of a file name that is not UTF-8: `\xe9` is the byte 0xE9. What is escaped already stays as it is.

    Args:
        text: such as the name of a folder, or of a class in a file.
        keep: characters that are not escaped.

    >>> printable("caf\udce9\x1b[2J\n")
    'caf\\xe9\\x1b[2J\\n'
    """
    return "".join(letter if letter in keep else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if letter in BIDIRECTIONAL or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
        return letter.encode("unicode_escape").decode()
    return letter


class KipError(Exception):
    """Base of all errors that kip raises on purpose.

    Args:
        problem: what is wrong, naming the argument, file or step; one sentence without a full stop.
        got: what came, where that helps.
        expected: what would have been right.
        remedy: what to do about it.
    """

    def __init__(self, problem: str, *, got: object = None, expected: str | None = None, remedy: str | None = None):
        self.problem, self.got, self.expected, self.remedy = problem, got, expected, remedy
        parts = [problem]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        text = printable("; ".join(parts), keep="\n\t")
        remedy = remedy and printable(remedy, keep="\n\t")
        end = "" if text.endswith((".", "?", "!")) else "."
        super().__init__(f"{text}{end} {remedy}" if remedy else f"{text}{end}")

    def to_dict(self) -> dict[str, str | None]:
        """Return the parts as JSON-ready strings."""
        got = None if self.got is None else str(self.got)
        parts = {"problem": self.problem, "got": got, "expected": self.expected, "remedy": self.remedy}
        return {"kind": type(self).__name__, **parts}


def did_you_mean(given: object, known: Iterable[str], form: str = "{}") -> str:
    """Return `Did you mean NAME? `, for the remedy of an error; an empty string where no known name is like the given.

    Args:
        given: what came.
        known: the names that there are.
        form: how the name is written.

    >>> did_you_mean("ciphar10", ["cifar10", "mnist"])
    'Did you mean cifar10? '
    """
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(given).lower(), by_lower, 1)
    return f"Did you mean {form.format(by_lower[near[0]])}? " if near else ""


class ConfigError(KipError, ValueError):
    """A configuration that cannot be run: an unknown key, a wrong type, a value out of range."""


class DataError(KipError, ValueError):
    """A data set that is missing, malformed or too small for what was asked of it."""


class ShapeError(KipError, ValueError):
    """An array whose rank, shape or dtype does not fit."""


class OutputError(KipError, OSError):
    """A folder or file that cannot be written."""


class CheckpointError(KipError, RuntimeError):
    """A checkpoint that belongs to another configuration, or none that can be read."""


class NonFiniteError(KipError, ArithmeticError):
    """A loss, kernel or gradient that holds NaN or infinity."""


class NotPositiveDefiniteError(KipError, ArithmeticError):
    """A regularised kernel matrix whose Cholesky factor does not exist."""


class MissingExtraError(KipError, ImportError):
    """An optional dependency that is needed here and not installed."""


class OutOfMemoryError(KipError, MemoryError):
    """Memory, or threads, that the system did not give."""


class MessageError(KipError, ValueError):
    """Bytes between a server and a worker that are not a message of this version."""


class WorkerError(KipError, RuntimeError):
    """A worker's answer to a message that it cannot or will not answer; `code` tells the server what to do."""

    def __init__(self, code: str, problem: str, **details: Any):
        super().__init__(problem, **details)
        self.code = code


class WorkersLostError(KipError, RuntimeError):
    """No worker has answered for longer than a run waits."""


@contextlib.contextmanager
def in_our_voice(prog: str) -> Iterator[None]:
    """Turn the box that tyro draws around a mistake into an error of ours, which is one line.

    Raises:
        ConfigError: in place of tyro's exit with status 2.
    """
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            yield
    except SystemExit as stop:
        if stop.code != 2:
            raise
        lines = (re.sub("[─-╿]", " ", line).strip() for line in boxed.getvalue().splitlines())
        text = " ".join(line for line in lines if line.strip("- "))
        text = re.split(r"Argument helptext:|For full helptext", text)[0].strip()
        text = re.sub(
            r"^(Value error|Parsing error|Invalid choice|Unrecognized options?|Missing options?|Error) +(?=\S)",
            "",
            text,
        )
        text = re.sub(r"^(Error parsing (\S+): )(invalid \w+: )?", r"\2: ", text)
        raise ConfigError(text.rstrip("? .") or "the options", remedy=f"`{prog} --help` explains them.") from None
