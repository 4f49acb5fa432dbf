"""Options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kip.errors import OutputError
from kip.files import atomic_write

DataDir = Path | None
Json = bool
Executor = Literal["local", "launchpad", "ray"]


class Where(NamedTuple):
    """Where kernel tiles are computed: the options of `kip distill` and `kip label-solve`."""

    executor: Executor = "local"
    workers: int = 1
    address: str | None = None


def check_out(out: Path | None) -> None:
    """Refuse a file of --out that could not be written, before hours of work for it.

    Raises:
        OutputError: if it is a folder, or its folder cannot be made or written.
    """
    if out is None:
        return
    if out.is_dir():
        raise OutputError(
            f"--out {out}", got="a folder", expected="a file", remedy=f"Name one in it: {out / 'results.json'}"
        )
    trial = out.with_name(f".{out.name}.trial")
    atomic_write(trial, lambda file: None)
    trial.unlink()


def save_json(out: Path | None, found: dict[str, Any]) -> None:
    """Write results to the file of --out, where one is given."""
    if out is not None:
        atomic_write(out, lambda file: file.write(json.dumps(found, indent=1).encode()))
