"""The functions of the user's own that may be loaded: those that code or the user names, and none that only data names.

Loading the function of a `Stax` or `Features` kernel, or of a generator, runs the file that it is in. A Python
configuration is code and may name any.
A distilled set, a run's `config.json` or a message is data that may come from elsewhere: what it names is not loaded
unless the user permits that very function.
"""

from __future__ import annotations

from kip.errors import ConfigError

_permitted: set[str] = set()
_only_in_data: set[str] = set()


def permit(*functions: str) -> None:
    """Let kernels and generators load these functions of the user's own in this process, wherever they were read from.

    Args:
        functions: as the kernels and generators spell them: `package.module:name` or `path/to/file.py:name`.
    """
    _permitted.update(functions)
    _only_in_data.difference_update(functions)


def permitted() -> tuple[str, ...]:
    """Return the functions that may be loaded, for another process of the same command."""
    return tuple(sorted(_permitted))


def note(function: str, *, from_data: bool) -> None:
    """Note who names a function: code permits it, unless data has named it first."""
    if from_data and function not in _permitted:
        _only_in_data.add(function)
    elif function not in _only_in_data:
        _permitted.add(function)


def check(function: str, *, of: str = "kernel") -> None:
    """Refuse a function that data names and nobody permits.

    Args:
        function: as it is spelled.
        of: what it is the function of, for the error.

    Raises:
        ConfigError: naming the function and what to do.
    """
    if function not in _permitted:
        raise ConfigError(
            f"the {of} is a function of someone's own, {function!r}, which a set or a .json file names",
            remedy="Loading it runs the file that it is in. If you trust that file, permit this very function: with "
            f"--stax {function} on the command line, with kip.permit_stax({function!r}) in Python.",
        )
