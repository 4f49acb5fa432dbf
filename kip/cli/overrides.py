"""Options for every value of a configuration: `kip distill CONFIG --method.steps 300 --data.validation 1000`.

Apart from `kip.cli`, because the options' types need the whole library, which `kip --help` does without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

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


def options_alone(arguments: Sequence[str], *, prog: str) -> RunOptions | None:
    """Return the options of the run, if the words are nothing else; None where some are for the configuration.

    Reading all options of a configuration takes a while, and the rows of a table need not do it each.
    """
    if {"-h", "--help"} & set(arguments):
        return None
    with in_our_voice(prog), help.arranged("method"):
        parsed, others = tyro.cli(
            RunOptions, prog=prog, args=arguments, registry=help.registry(), return_unknown_args=True
        )
    return None if others else parsed


def parse(experiment: Experiment, arguments: Sequence[str], *, prog: str, description: str) -> Arguments:
    """Return the experiment with the command line's overrides; exits with a message where they do not fit."""
    with in_our_voice(prog), help.arranged("method"):
        parsed = tyro.cli(
            Arguments,
            prog=prog,
            description=description,
            args=arguments,
            default=Arguments(experiment),
            config=(tyro.conf.AvoidSubcommands,),
            registry=help.registry(),
        )
        return dataclasses.replace(parsed, experiment=_with_new_sources(parsed.experiment, experiment))


def _with_new_sources(after: Any, before: Any) -> Any:
    """Return a value in which a file of the user's that is named anew is known by its own content."""
    if isinstance(after, tuple) and isinstance(before, tuple):
        parts = [_with_new_sources(*both) for both in zip(after, before)]
        return after if all(new is old for new, old in zip(parts, after)) else (*parts, *after[len(parts) :])
    if not dataclasses.is_dataclass(after) or isinstance(after, type) or type(after) is not type(before):
        return after
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(after):
        given = getattr(after, field.name)
        if (new := _with_new_sources(given, getattr(before, field.name))) is not given:
            changes[field.name] = new
    named_anew = any(getattr(after, name, None) != getattr(before, name, None) for name in ("function", "name"))
    source = getattr(after, "source", None)
    if named_anew and source is not None and source == getattr(before, "source", None):
        changes["source"] = None
    return dataclasses.replace(after, **changes) if changes else after
