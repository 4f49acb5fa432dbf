"""Options for every value of a configuration: `kip distill CONFIG --method.steps 300 --data.validation 1000`.

Apart from `kip.cli`, because the options' types need the whole library, which `kip --help` does without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kip.experiment import Experiment

Executor = Literal["local", "launchpad", "ray"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What `kip distill CONFIG` and `kip label-solve CONFIG` take after the configuration's name."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    out: Path | None = None
    """The run's folder; default: runs/CONFIG."""
    data_dir: Path | None = None
    """Folder of NAME.npz files; default: $KIP_DATA_DIR. Without a file, tensorflow-datasets is asked."""
    executor: Executor = "local"
    """Where kernel tiles are computed: this process; `launchpad`'s processes (CPython 3.10); `ray`'s actors. No part of
    the experiment: a run may be resumed under another."""
    workers: int = 1
    """Worker processes, for launchpad and ray."""
    address: str | None = None
    """ray: of a cluster that runs, such as `auto`; default: one of its own on this machine. launchpad: HOST:PORT to
    listen on, for workers on other machines (`kip worker`); default: loopback, any port."""
    json: bool = False
    """Print one JSON object with the results as the last line of stdout."""


def parse(experiment: Experiment, arguments: Sequence[str], *, prog: str, description: str) -> Arguments:
    """Return the experiment with the command line's overrides; exits with a message where they do not fit."""
    return tyro.cli(
        Arguments,
        prog=prog,
        description=description,
        args=arguments,
        default=Arguments(experiment),
        config=(tyro.conf.AvoidSubcommands,),
    )
