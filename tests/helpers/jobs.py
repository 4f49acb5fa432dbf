"""Functions of a module, which other processes can compute; see `kip.runs.jobs`."""

import os
import signal
import time
from pathlib import Path

from kip.errors import ConfigError


def double(number):
    """Return twice the number."""
    return 2 * number


def device():
    """Return the GPU that the process sees, and its id."""
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


def die_once(folder, times=1):
    """Kill the own process so many times, and return how many processes began this."""
    begun = len(list(Path(folder).iterdir()))
    (Path(folder) / str(begun)).touch()
    if begun < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return begun + 1


def sleep(folder):
    """Say that this began, and wait for a long time."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def note(path, error=None):
    """Write a line into a file; raise an error, if one is given."""
    with open(path, "a") as file:
        file.write("made\n")
    if error is not None:
        raise ConfigError(error)


def make_all(names, folder):
    """Make artefacts as `share_out` gives them out, and return the names of those that this process made."""
    from kip.storage.artefacts import Artefact, share_out

    artefacts, made = [Artefact(Path(folder) / name) for name in names], []
    for place in share_out(artefacts):
        if not artefacts[place].path.exists():
            artefacts[place].path.write_text(str(os.getpid()))
            made.append(names[place])
    return made
