"""Keys: the file that a worker proves itself with, and how files of keys are written.

A worker's file holds the server's public key and a key pair of its own. It is made beside the run
(`kip.server.keyring`, `kip worker-key`) and copied to the worker's machine. Keys are CURVE's, in libzmq's Z85 text.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import uuid
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from kip.errors import ConfigError, OutputError

LOGGER = logging.getLogger(__name__)
KEY_VARIABLE = "KIP_WORKER_KEY"
"""The environment variable that names a worker's key file, where no option does."""
KEY_LENGTH = 40
MOST_BYTES = 1 << 16
"""Bytes of the longest file of a key."""


class WorkerKey(NamedTuple):
    """The keys by which a worker proves itself to one run's server, and knows it.

    Attributes:
        name: the name under which the run knows the key.
        server: the server's public key.
        public: the worker's own public key.
        secret: the worker's own secret key.
    """

    name: str
    server: str
    public: str
    secret: str

    def save(self, path: Path) -> None:
        """Write it, readable by its owner alone.

        Raises:
            OutputError: if it cannot be written.
        """
        write_private(path, self._asdict())


def new_pair() -> tuple[str, str]:
    """Return a new public key, and the secret key that belongs to it."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def read_key(path: Path | None) -> WorkerKey:
    """Return the key in a file; None: in the file that $KIP_WORKER_KEY names.

    A file that others than its owner can read or write, or a link to one, gives a warning: who has the key can take the
    worker's place.

    Raises:
        ConfigError: if there is none, or it cannot be read.
    """
    named = path or os.environ.get(KEY_VARIABLE)
    if not named:
        raise ConfigError(
            "the key of a worker",
            got="none",
            remedy=f"`kip worker-key` makes one; name its file with --key-file or ${KEY_VARIABLE}.",
        )
    key = WorkerKey(**read_fields(Path(named), WorkerKey._fields))
    for problem in _weaknesses(Path(named)):
        LOGGER.warning("the key %s %s: whoever has a key can take its worker's place", named, problem)
    return key


def _weaknesses(path: Path) -> list[str]:
    """Return what lets others than the owner at a file."""
    found = [f"is a link to {path.resolve()}"] if path.is_symlink() else []
    if os.name == "posix":  # elsewhere, the bits say nothing
        mode, owner = path.stat().st_mode, path.stat().st_uid
        verbs = [verb for verb, bits in (("read", 0o044), ("changed", 0o022)) if mode & bits]
        if verbs:
            found.append(f"can be {' and '.join(verbs)} by others than its owner")
        if owner not in (0, os.geteuid()):
            found.append("belongs to another user")
    return found


def read_fields(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Return the texts in a file of keys, by name.

    Raises:
        ConfigError: if it cannot be read, or a key in it is none.
    """
    content, regular = None, True
    try:
        regular = stat.S_ISREG(path.stat().st_mode)  # a pipe would be read for ever
        if regular:
            with open(path, "rb") as file:
                content = json.loads(file.read(MOST_BYTES))
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}", got=error.strerror) from None
    except (ValueError, RecursionError):
        content = None
    if not regular:
        raise ConfigError(f"the key {path} is no regular file", remedy="Copy the key into a file, and name that.")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), str) for name in names):
        raise ConfigError(f"{path} is no key of kip's", expected=", ".join(names), remedy="`kip worker-key` makes one.")
    for name in names:
        if name != "name" and not _is_key(content[name]):
            raise ConfigError(f"{path} holds a damaged key", got=f"{name} of {len(content[name])} characters")
    return {name: content[name] for name in names}


def write_private(path: Path, content: dict[str, str]) -> None:
    """Write JSON that its owner alone can read, in a folder that its owner alone can enter; never half a file.

    Raises:
        OutputError: if it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OutputError(f"cannot write the key {path}", got=error.strerror or repr(error)) from error


def _is_key(text: str) -> bool:
    try:
        return len(text) == KEY_LENGTH and len(z85.decode(text.encode())) == 32
    except (ValueError, KeyError, IndexError):
        return False
