"""Options for every value of a configuration: `kip distill CONFIG --method.steps 300 --data.validation 1000`.

Apart from `kip.cli`, because the options' types need the whole library, which `kip --help` does without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kip.cli import help
from kip.errors import in_our_voice
from kip.experiment import Experiment

Executor = Literal["local", "zmq", "ray", "launchpad"]
LoggerName = Literal["tensorboard", "wandb", "trackio"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What `kip distill CONFIG` and `kip label-solve CONFIG` take after the configuration's name."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The run's folder. The default is runs/CONFIG."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The folder of NAME.npz files. The default is $KIP_DATA_DIR. Without such a file, tensorflow-datasets loads the
    data set."""
    executor: Executor = "local"
    """Where kernel tiles are computed: in this process (`local`), in worker processes (`zmq`), in `ray`'s actors, or in
    `launchpad`'s processes (CPython 3.10). It is no part of the experiment: a run may be resumed under another."""
    workers: int = 1
    """How many worker processes zmq, ray or launchpad starts."""
    address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """With zmq and launchpad, HOST:PORT to listen on for workers on other machines (`kip worker`); the default is
    loopback and any port. With ray, the address of a cluster that runs, such as `auto`; the default is a new one on
    this machine."""
    check_share: float = 0.01
    """The share of the workers' tasks that is computed twice and compared. 1 checks every task, and 0 believes every
    worker."""
    mixed_hardware: bool = False
    """Let workers of different hardware compute for one run. Their results differ in the last bits, and are compared to
    a tolerance of 0.001 of the largest entry."""
    log: tuple[LoggerName, ...] = ()
    """Loggers that the run is written to as well: `tensorboard` (into RUN/tensorboard), `wandb`, `trackio`."""
    stax: tuple[str, ...] = ()
    """The functions of Stax kernels and generators that a .json configuration may load. Loading one runs the file that
    it is in."""
    json: bool = False
    """Print one JSON object with the results as the last line of stdout."""


def parse(experiment: Experiment, arguments: Sequence[str], *, prog: str, description: str) -> Arguments:
    """Return the experiment with the command line's overrides; exits with a message where they do not fit."""
    with in_our_voice(prog), help.arranged("method"):
        return tyro.cli(
            Arguments,
            prog=prog,
            description=description,
            args=arguments,
            default=Arguments(experiment),
            config=(tyro.conf.AvoidSubcommands,),
            registry=help.registry(),
        )
