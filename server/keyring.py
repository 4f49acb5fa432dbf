"""The keys of a run: the server's pair, and those of the workers that may connect, by name.

    keys/server.json          the server's pair
    keys/workers/NAME.json    a worker's key file, to be copied to its machine
    keys/revoked/NAME.json    the public half of a key that may connect no more

They stay in the run's folder when a server ends, so that workers that wait for its next life know it again.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from kip.errors import ConfigError
from kip.server import trust
from kip.workers.keys import WorkerKey, new_pair, read_fields, write_private

FOLDER = "keys"
LOCAL = "local"
"""Begins the names of the keys of workers that the run starts itself: `local-0`, `local-1`, ..."""


class Verdict(NamedTuple):
    """The keyring's knowledge of a public key: whether it may connect, and under which name it is known, if it is."""

    authorised: bool
    name: str | None


class Keyring:
    """The keys in a run's folder. Reads them anew whenever it is asked, so that they may change while the run goes on.

    Args:
        run: the run's folder. The server's pair is made if it is missing.

    Raises:
        ConfigError: if its files are damaged.
        OutputError: if they cannot be written.
    """

    def __init__(self, run: Path):
        self._run = Path(run)
        self.folder = self._run / FOLDER
        path = self.folder / "server.json"
        if not path.exists():
            public, secret = new_pair()
            write_private(path, {"public": public, "secret": secret})
        pair = read_fields(path, ("public", "secret"))
        self.public, self.secret = pair["public"], pair["secret"]

    def add(self, name: str) -> Path:
        """Make the key of a worker, and return its file; a key that is there stays as it is.

        Raises:
            ConfigError: if the name has other characters than a file may, or was revoked.
        """
        path = self._path("workers", name)
        if self._path("revoked", name).exists():
            raise ConfigError(f"the key {name!r} was revoked", remedy="Take another name.")
        if path.exists():
            read_fields(path, WorkerKey._fields)
        else:
            WorkerKey(name, self.public, *new_pair()).save(path)
        return path

    def local(self, count: int) -> list[Path]:
        """Return the files of so many keys for workers that the run starts itself, one for each: a key is one witness.

        Those that were found to lie, or were revoked, are passed over.
        """
        names = (f"{LOCAL}-{number}" for number in itertools.count())
        usable = (
            name
            for name in names
            if not self._path("revoked", name).exists() and not trust.is_distrusted(self._run, name)
        )
        return [self.add(name) for name in itertools.islice(usable, count)]

    def revoke(self, name: str) -> None:
        """Let nobody connect with a key any more; a server that runs cuts its workers off within a second or two.

        Raises:
            ConfigError: if there is no such key.
        """
        path = self._path("workers", name)
        if not path.exists():
            raise ConfigError(f"no key {name!r}", expected=", ".join(self.names()) or "one that `kip worker-key` made")
        public = read_fields(path, WorkerKey._fields)["public"]
        write_private(self._path("revoked", name), {"name": name, "public": public})
        path.unlink()

    def names(self) -> list[str]:
        """Return the names of the keys that may connect."""
        return sorted(path.stem for path in (self.folder / "workers").glob("*.json"))

    def judge(self, public: str) -> Verdict:
        """Say whether a worker with this public key may connect."""
        for folder in ("revoked", "workers"):
            for path in (self.folder / folder).glob("*.json"):
                try:
                    known = read_fields(path, ("public",))["public"]
                except ConfigError:  # damaged, or gone meanwhile
                    continue
                if known == public:
                    return Verdict(folder == "workers", path.stem)
        return Verdict(False, None)

    def _path(self, folder: str, name: str) -> Path:
        if not re.fullmatch(r"\w[\w.-]{0,99}", name):
            raise ConfigError("name of a worker's key", got=repr(name)[:120], expected="letters, digits, '.', '-', '_'")
        return self.folder / folder / f"{name}.json"
