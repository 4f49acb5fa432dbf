"""Options for every value of a configuration: `kip distill CONFIG --method.steps 300 --data.validation 1000`.

Apart from `kip.cli`, because the options' types need the whole library, which `kip --help` does without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from kip.cli import help
from kip.cli.options import RunOptions
from kip.errors import in_our_voice
from kip.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The words of `kip distill CONFIG` and `kip label-solve CONFIG` beside the configuration's name."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunOptions)


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
