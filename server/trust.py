"""Whom a run believes: trust belongs to a worker's key, whatever connects with it, however often, and whenever.

A key is one witness. Its strikes, its lateness and a proved lie are kept when it connects again; a lie and what the key
computed unchecked are kept in the run's folder too, in `trust.json`, for the lives of the server that follow:

    {"keys": {"gpu-7": {"unchecked": 120, "base": 50, "distrusted": "its result of ..."}}}
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from kip.storage.files import atomic_write
from kip.storage.json_files import read_object

LOGGER = logging.getLogger(__name__)
FILE = "trust.json"
LATE = 2
"""Times in a row that a key was late, after which others get what is urgent."""
MOST_WORDS = 300
"""Characters of what a worker says that are kept."""


@dataclasses.dataclass
class Witness:
    """The record of a key.

    Attributes:
        key: its name.
        hardware: what its first worker said that it computes on; None before that.
        proven: whether a check has found a result of it right, in this life of the server.
        unchecked: results of it that the run was built on, and that nobody has computed again bit for bit.
        base: the step of the newest checkpoint that holds none of these; None where there are none.
        distrusted: the proof that it lied; empty where there is none.
        strikes: times that it sent rubbish.
        rest_until: monotonic time up to which it is given nothing, for its last strike.
        late: times in a row that it was late; tasks that it held at the same time count once.
        late_at: monotonic time at which it was last late.
        losses: connections of it that ended by themselves.
    """

    key: str
    hardware: str | None = None
    proven: bool = False
    unchecked: int = 0
    base: int | None = None
    distrusted: str = ""
    strikes: int = 0
    rest_until: float = 0.0
    late: int = 0
    late_at: float = float("-inf")
    losses: int = 0

    @property
    def punctual(self) -> bool:
        """True if it is given the tasks that others wait for."""
        return self.late < LATE

    def note_late(self, sent_at: float, now: float) -> None:
        """Note that a task which was sent at a time is late."""
        if sent_at >= self.late_at:
            self.late, self.late_at = self.late + 1, now

    def note_use(self, base: int) -> bool:
        """Note that the run is built on a result that nobody has checked; return whether it is the first such one."""
        self.unchecked += 1
        first = self.base is None
        if first:
            self.base = base
        return first


class Trust:
    """The witnesses of a run, by key."""

    def __init__(self) -> None:
        self._witnesses: dict[str, Witness] = {}
        self._path: Path | None = None

    def of(self, key: str) -> Witness:
        """Return what is known of a key."""
        return self._witnesses.setdefault(key, Witness(key))

    def all(self) -> list[Witness]:
        """Return all witnesses."""
        return list(self._witnesses.values())

    def keep_in(self, run: Path) -> None:
        """Take up what earlier lives of the server wrote into a run's folder, and write there from now on."""
        self._path = run / FILE
        for key, kept in read(run).items():
            witness = self.of(key)
            witness.unchecked, witness.base, witness.distrusted = kept["unchecked"], kept["base"], kept["distrusted"]

    def go_back(self, base: int) -> None:
        """Forget what was computed after a checkpoint, which the run goes back to."""
        for witness in self._witnesses.values():
            if witness.base is not None and witness.base >= base:
                witness.unchecked, witness.base = 0, None
        self.save()

    def save(self) -> None:
        """Write what later lives of the server have to know."""
        if self._path is None:
            return
        kept = {
            witness.key: {name: getattr(witness, name) for name in ("unchecked", "base", "distrusted")}
            for witness in self._witnesses.values()
            if witness.base is not None or witness.distrusted
        }
        text = json.dumps({"keys": kept}, indent=1) + "\n"
        atomic_write(self._path, lambda file: file.write(text.encode()))


def read(run: Path) -> dict[str, dict[str, Any]]:
    """Return what a run's `trust.json` says of keys; what is damaged is left out, with a warning."""
    path = run / FILE
    if not path.exists():
        return {}
    keys = (read_object(path) or {}).get("keys")
    right = {key: kept for key, kept in keys.items() if _is_kept(kept)} if isinstance(keys, dict) else {}
    if not isinstance(keys, dict) or len(right) < len(keys):
        LOGGER.warning("%s is damaged: what it says of some keys is not known any more", path)
    return right


def is_distrusted(run: Path, key: str) -> bool:
    """Say whether a key was found to lie in an earlier life of a run's server."""
    return bool(read(run).get(key, {}).get("distrusted"))


def words(value: Any, most: int = MOST_WORDS) -> str:
    r"""Return what a worker says, as far as it is fit for a log: one line of printable characters, cut.

    >>> words("a\nb" + 500 * "c", 8)
    'a?bccccc...'
    """
    text = value if isinstance(value, str) else repr(value)[: 4 * most]
    cut = "".join(letter if letter.isprintable() else "?" for letter in text[:most])
    return cut + "..." if len(text) > most else cut


def _is_kept(kept: Any) -> bool:
    return (
        isinstance(kept, dict)
        and type(kept.get("unchecked")) is int
        and (kept.get("base") is None or type(kept["base"]) is int)
        and isinstance(kept.get("distrusted"), str)
    )
