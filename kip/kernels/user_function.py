"""Loading a function of the user's own by where it is: `package.module:name` or `path/to/file.py:name`.

Whether it may be loaded is `kip.kernels.permission`'s question.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kip.errors import ConfigError


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
