"""Loading a function of the user's own by where it is: `package.module:name` or `path/to/file.py:name`.

A function of this process that stands in no module has a name too, `python:NAME`, by which this process alone finds it.
Whether a function may be loaded is `kip.kernels.permission`'s question.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kip.errors import ConfigError

PROCESS = "python"
"""The place of functions that stand in no module, or in the program itself."""
_functions: dict[str, Callable[..., Any]] = {}


def load_function(name: str, *, of: str, signature: str, example: str) -> Callable[..., Any]:
    """Load what `module:name` or `file.py:name` says.

    Args:
        name: where it is.
        of: what it is the function of, for errors, such as `a Stax kernel`.
        signature: its arguments, for errors.
        example: how one is defined, for errors; `NAME` in it stands for its name.

    Raises:
        ConfigError: if there is no such module, file or name, if loading it fails, or if it cannot be called.
    """
    place, _, attribute = name.rpartition(":")
    if place == PROCESS:
        return _of_this_process(name, of)
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # the user's file may fail in any way
        raise ConfigError(
            f"function {name!r} of {of} cannot be loaded",
            got=f"{type(error).__name__}: {error}",
            remedy="Name it 'package.module:name' (installed) or 'path/to/file.py:name' (from the current folder).",
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ConfigError(
            f"function {name!r} of {of}",
            got="nothing of that name" if function is None else f"a {type(function).__name__}",
            expected=f"a function {signature}",
            remedy=f"Define {attribute!r} at the top level of {place}, as `{example.replace('NAME', attribute)}` does.",
        )
    return function


def name_of(function: Callable[..., Any]) -> str:
    """Return the name by which `load_function` finds a function: `module:name` where an imported module holds it.

    Other functions, such as those of the program itself, of a notebook or of another function, are kept by this process
    under `python:NAME`. Such a name is drawn at random for each function, so that it stands for no other one in another
    process: what it is stored in can be read there, but not computed.
    """
    module, attribute = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module not in (None, "__main__") and getattr(sys.modules.get(module), attribute, None) is function:
        return f"{module}:{attribute}"
    for name, known in _functions.items():
        if known is function:
            return name
    name = f"{PROCESS}:{getattr(function, '__name__', 'function').strip('<>')}-{uuid.uuid4().hex[:8]}"
    _functions[name] = function
    return name


def source_of(name: str, *, of: str) -> str | None:
    """Return the SHA-256 of the file that `FILE.py:NAME` names; None for a function that no file is named for.

    Raises:
        ConfigError: if there is no such file.
    """
    place = name.rpartition(":")[0]
    if not place.endswith(".py"):
        return None
    try:
        return hashlib.sha256(Path(place).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"{of} {name!r}", got=error.strerror, expected="FILE.py:NAME of a file that is there"
        ) from None


def check_source(name: str, source: str | None, *, of: str) -> None:
    """Refuse a file that is another one than when the function was named.

    Args:
        name: of the function.
        source: the SHA-256 that its file had; None: it is not known.
        of: what it is, for the error.

    Raises:
        ConfigError: if the file is another one, or is not there.
    """
    if source is not None and source_of(name, of=of) != source:
        raise ConfigError(
            f"{of} {name!r}",
            got="a file that has changed",
            expected=f"the one with the SHA-256 {source[:16]}...",
            remedy=f"Take the file as it was, or name the {of} anew, without its `source`.",
        )


def _of_this_process(name: str, of: str) -> Callable[..., Any]:
    if name not in _functions:
        raise ConfigError(
            f"function {name!r} of {of}",
            got="a function of a Python process that has ended",
            expected="one that a file or a module holds",
            remedy="Name it as 'FILE.py:NAME' where it is to be found again: in another process, or in a folder's run.",
        )
    return _functions[name]


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    path = path.resolve()
    # Registered before it runs, as Python does, for dataclasses and pickle; under a name that collides with no other.
    name = f"_kip_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
